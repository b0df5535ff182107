"""What a process of this package sets, so that the settings of the machine do not matter."""

from __future__ import annotations

import os
import resource
import site
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

from cddpm_core.config.errors import UserError

__all__ = ["CACHE", "OUTPUTS", "check_interpreter", "forget", "own_environment",
           "prefer_own_packages", "settle", "wait_without_spinning"]

OUTPUTS = "CDDPM_OUTPUTS"  # environment variable: another folder for outputs/, on a larger disk
CACHE = "CDDPM_CACHE"  # the same for outputs/cache/, whose 20,000 files a mounted drive slows down
NEEDED = ("torch", "torchvision", "diffusers", "accelerate", "numpy", "scipy", "PIL", "pydantic",
          "click", "filelock", "psutil", "safetensors", "tqdm", "yaml")
# Variables of Python that say where its packages are; the others change how code runs.
KEPT = {"PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONSAFEPATH",
        "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"}
# Variables by which other programs change what this one computes or shows, or which parts run.
FOREIGN = ("ACCELERATE_", "NUMBA_", "TORCH_FORCE_", "USE_TF", "USE_TORCH", "USE_SAFETENSORS",
           "PYPANDOC_", "SOURCE_DATE_", "GIT_", "PMI_", "OMPI_COMM_", "MV2_COMM_", "TQDM_")
PROCESSES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # of a training in several


def check_interpreter() -> None:
    """Raise `UserError` in another Python than one with the packages that this one needs.

    A notebook or a terminal may have started it, and a file beside them may hide a package. The
    command line, which is not there yet, ends.
    """
    specs = {name: find_spec(name) for name in NEEDED}
    missing = [name for name, spec in specs.items() if spec is None]
    hidden = [spec.origin for spec in specs.values()
              if spec and spec.origin and os.path.dirname(spec.origin) == os.getcwd()]
    if sys.version_info >= (3, 11) and not missing and not hidden:
        return
    lacks = f" without {missing[0]}" if missing else ""
    found = (f"{hidden[0]} hides the package of this name, rename it" if hidden else
             f"{sys.executable} is Python {'.'.join(map(str, sys.version_info[:2]))}{lacks}, "
             "expected 3.11 or later with the packages of cddpm_core; 'make env' installs them: "
             "start .venv/bin/python, and for notebooks 'make lab' or a kernel of .venv")
    if sys.argv[:1] == ["-m"]:
        sys.exit(f"Error: {found}")
    raise UserError(found)


def prefer_own_packages() -> None:
    """Look for modules in this interpreter's own folders first, if it runs only this package.

    A ``random.py`` where a command is typed is not meant, nor are packages of another Python.
    """
    if sys.argv[:1] == ["-m"]:
        others = {"", os.getcwd(), site.getusersitepackages(),
                  *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
        sys.path.sort(key=others.__contains__)


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


def forget(*prefixes: str) -> None:
    """Remove the variables whose names begin with one of the ``prefixes``."""
    for name in [name for name in os.environ if name.startswith(prefixes)]:
        del os.environ[name]


def open_enough_files() -> None:
    """Raise the limit of open files to 1,024, or as far as the machine allows; end below 128."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = 1024 if hard == resource.RLIM_INFINITY else min(1024, hard)
    if allowed < 128:
        sys.exit(f"Error: a process may open {hard} files here (ulimit -Hn), expected at least 128")
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def settle(*, backend: str = "agg") -> None:
    """Make the settings of this process its own, before it loads what reads them.

    ``backend`` is that of matplotlib; empty leaves it to a notebook's kernel. Where the names of
    files are not in UTF-8 the process begins again, since no later moment can change that.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    open_enough_files()
    forget(*FOREIGN)
    if "MASTER_ADDR" not in os.environ:  # left over: no process could find the others
        forget(*PROCESSES)
    os.environ.update(own_environment() | {"MPLBACKEND": backend})
    for name in (OUTPUTS, CACHE):  # for processes that work in another folder
        if given := os.environ.get(name):
            os.environ[name] = str(Path(os.path.expanduser(given)).absolute())
    warnings.filters[:] = [known for known in warnings.filters if known[0] != "error"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a character that a terminal lacks stops nothing
            stream.reconfigure(errors="backslashreplace")
