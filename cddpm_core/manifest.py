"""The manifest of a run: what it was made from, with what, and a hash of every file it wrote."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from cddpm_core.devices import device_of
from cddpm_core.errors import UserError
from cddpm_core.params import Params
from cddpm_core.provenance import made_with
from cddpm_core.runs import SCHEMA, Run, check_schema, write_json
from cddpm_core.sources import data_source

__all__ = ["verify", "write_manifest"]


def write_manifest(run: Run, params: Params) -> dict[str, Any]:
    """Write ``manifest.json`` of a run, to be called last, and return what it holds.

    ``params`` are the resolved parameters with their seeds, ``made_with`` machine,
    versions and commit, ``inputs`` the label file and the evaluator's weights with
    path and SHA-256, ``files`` the SHA-256 of each file of the run.
    """
    found = {"schema": SCHEMA, "params": params.to_dict(),
             "made_with": made_with(params, device_of(params)),
             "inputs": {name: {"path": str(path), "sha256": _sha256(path)}
                        for name, path in _inputs(run, params).items()},
             "files": _files(run)}
    write_json(run / "manifest.json", found)
    return found


def verify(run: Run) -> list[str]:
    """Return a sentence for each file that is not as the manifest says; none if all are.

    Raises `UserError` if there is no manifest, or none that can be read.
    """
    path = run / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema, inputs, files = (manifest[key] for key in ("schema", "inputs", "files"))
        known = {name: (Path(about["path"]), about["sha256"]) for name, about in inputs.items()}
        written = dict(files)
    except FileNotFoundError:
        raise UserError(f"{path}: no manifest, 'make report' writes it at its end") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a readable manifest ({type(error).__name__})") from None
    check_schema({"schema": schema}, path)
    faults = []
    for name, (file, sha256) in known.items():
        if not file.exists():
            faults.append(f"{name}: {file} is not there any more")
        elif _sha256(file) != sha256:
            faults.append(f"{name}: {file} has changed")
    now = _files(run)
    faults += [f"{name}: is not there any more" for name in written if name not in now]
    faults += [f"{name}: has changed" for name in written if now.get(name, written[name])
               != written[name]]
    return faults + [f"{name}: was not there when the manifest was written" for name in now
                     if name not in written]


def _inputs(run: Run, params: Params) -> dict[str, Path]:
    found = {"data": data_source(params, run).folder / "train.json"}
    if params.evaluator:
        return {**found, "evaluator": Path(params.evaluator).expanduser()}
    wanted = run.read("metrics.json").get("evaluator", {}).get("sha256")
    for about in sorted(run.cache.glob("evaluator/*/evaluator.json")):
        if json.loads(about.read_text(encoding="utf-8")).get("sha256") == wanted:
            found["evaluator"] = about.with_name("evaluator.safetensors")
    return found


def _files(run: Run) -> dict[str, str]:
    """Hashes of all files of the run but the manifest, hidden ones and trainings set aside."""
    found = {}
    for path in sorted(run.folder.rglob("*")):
        parts = path.relative_to(run.folder).parts
        hidden = any(part.startswith(".") for part in parts) or parts[0] in (
            "previous", "manifest.json", "holder.json")
        if path.is_file() and not hidden:
            found["/".join(parts)] = _sha256(path)
    return found


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
