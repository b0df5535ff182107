"""The manifest of a run: its parameters, versions and inputs, and a hash of every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cddpm_core.config.device import device_of
from cddpm_core.config.errors import UserError
from cddpm_core.config.files import SCHEMA, check_schema, sha256_of, typed_path, write_json
from cddpm_core.config.schema import Params
from cddpm_core.data.source import data_source
from cddpm_core.evaluation.stand_in import WEIGHTS
from cddpm_core.runs.provenance import made_with
from cddpm_core.runs.run import Run

__all__ = ["verify", "write_manifest"]


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
    path = run / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema, inputs, files = (manifest[key] for key in ("schema", "inputs", "files"))
        known = {name: (Path(about["path"]), about["sha256"]) for name, about in inputs.items()}
        written = dict(files)
    except FileNotFoundError:
        raise UserError(f"{path}: no manifest, 'make report' writes it at the end") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a readable manifest ({type(error).__name__})") from None
    check_schema({"schema": schema}, path)
    faults = []
    for name, (file, sha256) in known.items():
        if not file.exists():
            faults.append(f"{name}: {file} does not exist any more")
        elif sha256_of(file) != sha256:
            faults.append(f"{name}: {file} has changed")
    now = _files(run)
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
