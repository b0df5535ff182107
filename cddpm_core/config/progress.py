"""Progress bars, and whether anybody is watching them."""

from __future__ import annotations

import os
import sys
from typing import Any

from tqdm import tqdm
from tqdm.auto import tqdm as auto_tqdm

__all__ = ["HEADLESS", "by_hand", "headless", "progress"]

HEADLESS = "CDDPM_HEADLESS"  # set while the pipeline runs a notebook


def headless() -> bool:
    """True in a kernel that a program drives, papermill say, where nobody watches a live widget."""
    if HEADLESS in os.environ:
        return True
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    # Programs say that they cannot be asked for input, which JupyterLab and its like can.
    return kernel is not None and not kernel.get_parent().get("content", {}).get(
        "allow_stdin", True)


def by_hand() -> bool:
    """True in a kernel whose notebook somebody is looking at."""
    return "ipykernel" in sys.modules and not headless()


def progress(**options: Any) -> tqdm:
    """Return a progress bar: a live widget by hand in Jupyter, plain text elsewhere.

    Under papermill the bar is refreshed every few seconds only, so that a log
    stays readable. Options are those of `tqdm.tqdm`.
    """
    watched = by_hand()
    if not watched:
        options.setdefault("mininterval", 0.5 if sys.stderr.isatty() else 5.0)
    options.setdefault("dynamic_ncols", True)
    return (auto_tqdm if watched else tqdm)(**options)
