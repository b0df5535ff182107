"""What a run was made with: machine, versions and commit, inputs, and a hash of every file."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from cddpm_core.config.device import arithmetic_of, device_of
from cddpm_core.config.errors import UserError
from cddpm_core.config.files import (
    SCHEMA,
    project_root,
    sha256_of,
    typed_path,
    write_json,
)
from cddpm_core.config.schema import Params
from cddpm_core.data.source import data_source
from cddpm_core.evaluation.stand_in import WEIGHTS
from cddpm_core.runs.run import Run

__all__ = ["made_with", "verify", "write_manifest"]


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
    describe = ["git", "-C", str(project_root()), "describe", "--always", "--exclude=*",
                "--abbrev=12", "--dirty= with uncommitted changes"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"


def write_manifest(run: Run, params: Params) -> dict[str, Any]:
    """Write ``manifest.json`` of a run, after all its other files, and return its content.

    ``params`` are the resolved parameters with their seeds, ``made_with`` machine,
    versions and commit, ``inputs`` the label file and the weights of the evaluators with
    path and SHA-256, ``files`` the SHA-256 of each file of the run.
    """
    found = {"schema": SCHEMA, "params": params.to_dict(),
             "made_with": made_with(params, device_of(params)),
             "inputs": {name: {"path": str(path), "sha256": sha256_of(path)}
                        for name, path in _inputs(run, params).items()},
             "files": _files(run)}
    write_json(run / "manifest.json", found)
    return found


def verify(run: Run) -> list[str]:
    """Return a sentence for each file that differs from the manifest.

    Raises `UserError` if there is no readable manifest.
    """
    manifest = run.read("manifest.json")
    if not {"inputs", "files"} <= manifest.keys():
        raise UserError(f"{run / 'manifest.json'}: no manifest, 'make report' writes it at the end")
    faults = []
    for name, about in manifest["inputs"].items():
        if not Path(about["path"]).exists():
            faults.append(f"{name}: {about['path']} does not exist any more")
        elif sha256_of(about["path"]) != about["sha256"]:
            faults.append(f"{name}: {about['path']} has changed")
    written, now = manifest["files"], _files(run)
    faults += [f"{name}: does not exist any more" for name in written if name not in now]
    faults += [f"{name}: has changed" for name in written if now.get(name, written[name])
               != written[name]]
    return faults + [f"{name}: did not exist when the manifest was written" for name in now
                     if name not in written]


def _inputs(run: Run, params: Params) -> dict[str, Path]:
    found = {"data": data_source(params, run.cache).folder / "train.json"}
    if params.evaluator:
        found["evaluator"] = typed_path(params.evaluator)
    return {**found, "released stand-in": WEIGHTS}


def _files(run: Run) -> dict[str, str]:
    """Hashes of all files of the run but the manifest, hidden files and earlier trainings."""
    found = {}
    for path in sorted(run.folder.rglob("*")):
        parts = path.relative_to(run.folder).parts
        hidden = any(part.startswith(".") for part in parts) or parts[0] in (
            "previous", "manifest.json", "holder.json")
        if path.is_file() and not hidden:
            found["/".join(parts)] = sha256_of(path)
    return found
