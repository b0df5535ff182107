"""Progress bars, and whether anybody is watching them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm
from tqdm.auto import tqdm as auto_tqdm

__all__ = ["HEADLESS", "by_hand", "headless", "papermill_output", "progress"]

HEADLESS = "CDDPM_HEADLESS"  # set while the pipeline runs a notebook


def _parent_command() -> list[str]:
    try:
        return psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return []


def papermill_output() -> Path | None:
    """The output notebook of the ``papermill`` command this kernel was started by, if any."""
    command = _parent_command()
    notebooks = [Path(word) for word in command if word.endswith(".ipynb")]
    if any("papermill" in Path(word).name for word in command[:3]) and len(notebooks) == 2:
        return notebooks[1].absolute()
    return None


def headless() -> bool:
    """True in a kernel that papermill drives, where nobody watches a live widget."""
    return HEADLESS in os.environ or papermill_output() is not None


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
