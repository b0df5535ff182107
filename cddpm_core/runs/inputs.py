"""What a stage is made from, and what of it has changed since the stage last ran."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cddpm_core.config.errors import shown
from cddpm_core.config.files import sha256_of, typed_path
from cddpm_core.config.folders import DEPTH, pictures_in
from cddpm_core.config.schema import FIELDS, Params, keys_affecting
from cddpm_core.runs.modules import PACKAGE, reached_modules, read_notebook, short_hash
from cddpm_core.runs.run import Run, word_files

__all__ = ["NEW", "data_fingerprint", "stage_inputs", "why_run"]

EVALUATORS = "evaluation/stand_in.py"  # reached by whatever uses an evaluator
# Files that are read by a module of the package are inputs where that module is.
PACKAGE_DATA = {"data/labels.py": "data/lab", EVALUATORS: "evaluator"}
FOLLOWED = ("data", "blender", "clevr_assets", "evaluator", "reference")  # not compared as text
NEW = "not run before"
STATES = {"failed": "it failed before", "by hand": "its notebook was run by hand since"}


def stage_inputs(notebook: Path, params: Params, run: Run,
                 needs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that the stage of a notebook is made from, as JSON has it.

    ``params`` holds the values of the declared parameters that can change a result, ``notebook``
    a hash, ``modules`` a hash of the code of each module, ``files`` a hash of each other file or
    group of files, ``needs`` what identifies the results of the stages it reads. Paths are not
    compared but the files they lead to, so that data may be moved. The report, which lists all
    parameters, depends on all.
    """
    about = read_notebook(notebook)
    report = notebook.stem == "report"
    names = FIELDS if report else [key for key in FIELDS if key in about.declared
                                   and key not in keys_affecting("nothing")]
    values = {key: value for key, value in params.to_dict().items()
              if key in names and key not in FOLLOWED}
    modules = reached_modules(about.code)
    files = _package_data(modules) | _given_files(params, about.declared, modules)
    if report:
        others = [Run("bench", run.outputs) / "bench.json", *(
            Run(name, run.outputs) / file for name in params.runs if name != run.name
            for file in ("params.yaml", "metrics.json", "scores.json", "history.jsonl"))]
        others += (PACKAGE / "report/assets/words").iterdir()
        files |= {"/".join(path.parts[-2:]): sha256_of(path) for path in others if path.exists()}
        files |= {name: sha256_of(path) for name, path in word_files(run, params).items()}
    found = {"params": values, "notebook": about.sha256, "modules": modules, "files": files,
             "needs": dict(needs)}
    return json.loads(json.dumps(found))


def _given_files(params: Params, declared: Iterable[str],
                 modules: Mapping[str, str]) -> dict[str, str]:
    found = {}
    if "data" in declared and params.data:
        found["the images"] = short_hash(data_fingerprint(params, times=True))
    elif "renderer" in declared and params.renderer == "cycles":
        found["Blender or CLEVR's assets"] = short_hash(data_fingerprint(params))
    if f"{PACKAGE.name}/{EVALUATORS}" in modules and params.evaluator:
        found["the evaluator"] = sha256_of(typed_path(params.evaluator))
    if "reference" in declared and params.reference:
        frames = pictures_in(typed_path(params.reference), DEPTH)
        found["the reference frames"] = short_hash([_facts(path, True) for path in frames])
        if params.clevr_assets:
            from cddpm_core.scenes.version import cycles_version

            found["Blender or CLEVR's assets"] = cycles_version(
                params.blender, params.clevr_assets, params.cycles_samples, params.cycles_denoise)
    return found


def data_fingerprint(params: Params, *, times: bool = False) -> dict[str, Any]:
    """Return what identifies the training data, wherever it lies.

    For a folder: hashes of ``train.json`` and of names and sizes of the images (``times`` adds
    those of their last changes), and their number. For rendered data: the version of the renderer.
    """
    if not params.data:
        from cddpm_core.scenes.version import scenes_version

        return {"rendered": scenes_version(params)}
    from cddpm_core.data.images import folder_files

    folder = typed_path(params.data)
    files = folder_files(folder)
    images = [(name, *_facts(path, times)[1:]) for name, path in files.found.items()]
    return {"labels": sha256_of(folder / "train.json"), "images": short_hash(images),
            "count": len(images)}


def _facts(path: Path, times: bool) -> tuple[Any, ...]:
    about = path.stat()
    return (path.name, about.st_size, *([about.st_mtime_ns] if times else []))


def _package_data(modules: Mapping[str, str]) -> dict[str, str]:
    return {path.relative_to(PACKAGE.parent).as_posix(): sha256_of(path)
            for module, folder in PACKAGE_DATA.items() if f"{PACKAGE.name}/{module}" in modules
            for path in sorted((PACKAGE / folder).rglob("*"))
            if path.is_file() and path.suffix != ".md"}


def why_run(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return why a stage has to run; None if nothing it was made from has changed.

    ``before`` is what ``status.json`` records of it (empty: never run), ``now`` its `stage_inputs`.
    """
    if "state" not in before or "inputs" not in before:
        return NEW
    if before["state"] != "done":
        return STATES.get(before["state"], "it was interrupted")
    old, said = before["inputs"], []
    params = _differing(old["params"], now["params"])
    if gone := [key for key in params if key not in now["params"]]:
        params = [key for key in params if key not in gone]
        said.append(f"{_listed(gone)} no longer matter{'s' if len(gone) == 1 else ''}")
    if len(params) == 1 and (key := params[0]) in old["params"]:
        said.append(f"{key} changed from {shown(old['params'][key])} to "
                    f"{shown(now['params'][key])}")
    elif params:
        said.append(f"{_listed(params)} changed")
    things = [*(["its notebook"] if old["notebook"] != now["notebook"] else []),
              *_differing(old["modules"], now["modules"]), *_differing(old["files"], now["files"])]
    if things:
        said.append(f"{_listed(things)} changed")
    if needs := _differing(old["needs"], now["needs"]):
        said.append(f"the results of {_listed(needs)} changed")
    return ", ".join(said) or None


def _differing(old: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [key for key in {**old, **now} if key not in old or key not in now
            or old[key] != now[key]]


def _listed(names: list[str]) -> str:
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
