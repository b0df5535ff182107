"""What a process of this package sets, so that the settings of the machine do not matter."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

from cddpm_core.config.errors import UserError

__all__ = ["CACHE", "OUTPUTS", "check_interpreter", "forget", "own_environment", "settle",
           "wait_without_spinning"]

OUTPUTS = "CDDPM_OUTPUTS"  # environment variable: another folder for outputs/, on a larger disk
CACHE = "CDDPM_CACHE"  # the same for outputs/cache/, whose 20,000 files a mounted drive slows down
NEEDED = ("torch", "torchvision", "diffusers", "accelerate", "numpy", "scipy", "PIL", "pydantic",
          "click", "filelock", "psutil", "safetensors", "tqdm", "yaml")
# Variables of Python that say where its packages are; the others change how code runs.
KEPT = {"PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONSAFEPATH",
        "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"}


def check_interpreter() -> None:
    """Raise `UserError` in another Python than one with the packages that this one needs.

    A notebook or a terminal may have started it. The command line, which is not there yet, ends.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if sys.version_info >= (3, 11) and not missing:
        return
    lacks = f" without {missing[0]}" if missing else ""
    found = (f"{sys.executable} is Python {'.'.join(map(str, sys.version_info[:2]))}{lacks}, "
             "expected 3.11 or later with the packages of cddpm_core; 'make env' installs them: "
             "start .venv/bin/python, and for notebooks 'make lab' or a kernel of .venv")
    if sys.argv[:1] == ["-m"]:
        sys.exit(f"Error: {found}")
    raise UserError(found)


def wait_without_spinning() -> None:
    """Let threads of OpenMP sleep while they wait for each other, unless the user has chosen.

    They turn in circles otherwise, and slow down whatever else runs on these cores. It has an
    effect if torch is not loaded yet.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "passive"


def own_environment() -> dict[str, str]:
    """Return variables for the processes that this one starts; empty ones count as not set."""
    unset = {name for name in os.environ if name.startswith("PYTHON") and name not in KEPT}
    return {**dict.fromkeys(unset, ""), "PYTHONUTF8": "1", "MPLBACKEND": "",
            "MATPLOTLIBRC": os.devnull}


def forget(prefix: str) -> None:
    """Remove the variables whose names begin with ``prefix``."""
    for name in [name for name in os.environ if name.startswith(prefix)]:
        del os.environ[name]


def settle(*, backend: str = "agg") -> None:
    """Make the settings of this process its own, before it loads what reads them.

    ``backend`` is that of matplotlib; empty leaves it to a notebook's kernel.
    """
    forget("ACCELERATE_")
    forget("NUMBA_")
    os.environ.update(own_environment() | {"MPLBACKEND": backend})
    for name in (OUTPUTS, CACHE):  # for processes that work in another folder
        if given := os.environ.get(name):
            os.environ[name] = str(Path(os.path.expanduser(given)).absolute())
    warnings.filters[:] = [known for known in warnings.filters if known[0] != "error"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that a terminal lacks stops nothing
            stream.reconfigure(errors="backslashreplace")
