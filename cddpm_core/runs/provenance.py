"""What a result was made with: machine, versions and commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from cddpm_core.config.device import arithmetic_of
from cddpm_core.config.files import project_root
from cddpm_core.config.schema import Params

__all__ = ["made_with"]


def made_with(params: Params, device: torch.device) -> dict[str, str]:
    """Return machine, versions and git commit, as strings for the report's appendix."""
    memory = psutil.virtual_memory().total / 2**30
    # Processors of one name may have different vector instructions, and be ten times as fast.
    machine = (f"{_processor()} ({torch.backends.cpu.get_cpu_capability()}), {os.cpu_count()} "
               f"cores, {memory:.0f} GiB")
    if device.type == "cuda":
        machine += f", {torch.cuda.get_device_name(device)}"
    packages = ("cddpm-core", "torch", "torchvision", "diffusers", "numpy")
    return {"machine": machine, "device": str(device),
            "arithmetic": arithmetic_of(params.mixed_precision, device),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(), **{name: version(name) for name in packages},
            "commit": _commit()}


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _commit() -> str:
    git = ["git", "-C", str(project_root())]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True,
                                text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"],
                                 capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return f"{commit} with uncommitted changes" if changed else commit
