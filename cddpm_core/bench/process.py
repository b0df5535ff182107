"""A process of its own for each measurement, and its peak memory. Nothing here imports torch."""

from __future__ import annotations

import multiprocessing
import re
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

__all__ = ["in_its_own_process", "new_process", "peak_mib"]


def peak_mib() -> float:
    """Return the peak memory of this process: resident, or on a GPU that of its tensors."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    if sys.platform == "linux":  # where ru_maxrss starts at the size of the parent
        status = Path("/proc/self/status").read_text()
        return round(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 2**10, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def new_process() -> ProcessPoolExecutor:
    """Return a pool of one process, which has nothing of this one."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def in_its_own_process(work: Callable, *arguments: Any) -> dict[str, Any]:
    """Return the dict that ``work`` of the arguments returns, and ``peak_mib`` of its process."""
    with new_process() as pool:
        made = pool.submit(work, *arguments).result()
        return {**made, "peak_mib": pool.submit(peak_mib).result()}
