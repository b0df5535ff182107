"""The decorator of compiled functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from numba import config, njit

from cddpm_core.scenes.version import renderer_version

__all__ = ["compiled"]

_FOLDER = Path(__file__).parent / "__pycache__" / f"numba-{renderer_version()}"


def compiled(function: Callable) -> Callable:
    """Compile a function with numba and keep the result on disk, if there is a place to write to.

    numba renews what it keeps when the function's own file changes, not when a constant or function
    that it takes from another file does. So the folder is named by the version of all of them.
    """
    before, config.CACHE_DIR = config.CACHE_DIR, str(_FOLDER)
    try:
        return njit(cache=True, nogil=True, fastmath=True)(function)
    except RuntimeError:  # neither here nor in the user's home
        return njit(nogil=True, fastmath=True)(function)
    finally:
        config.CACHE_DIR = before
