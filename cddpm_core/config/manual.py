"""What is written from the schema: ``params/README.md`` and the notebooks' parameters cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cddpm_core.config.files import write_text
from cddpm_core.config.presets import read_yaml
from cddpm_core.config.schema import CHAPTERS, FIELDS, Parameter, keys_in, resolve
from cddpm_core.config.score_params import SCORE_FIELDS

__all__ = ["NOTEBOOKS", "declared", "manual", "parameters_cell", "write_manual"]

TITLES = {"run": "Run", "data": "Data", "evaluator": "Evaluator", "model": "Model",
          "noise": "Noise and loss", "training": "Training", "sampling": "Sampling",
          "experiments": "Experiments and analyses", "report": "Report"}

# The chapters and single keys that each notebook declares besides `run`. It reads the others from
# the run's params.yaml.
NOTEBOOKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "data": (("data",), ("device", "reference")),
    "train": (("run", "data", "evaluator", "model", "noise", "training", "sampling"), ()),
    "evaluate": (("run", "evaluator", "sampling"), ("mixed_precision",)),
    "denoise": (("run", "sampling"), ("mixed_precision", "denoise_steps")),
    "analyse": (("run", "data", "evaluator", "sampling"),
                ("label_drop", "ema_decay", "mixed_precision", "analysis_images")),
    "timesteps": ((), ("device", "max_steps", "experiment_timesteps", "experiment_epochs")),
    "sampling": ((), ("device", "sweep_samplers", "sweep_steps", "sweep_guidance")),
    "report": (("report",), ()),
    "explore": ((), ("device",)),
    "score": ((), ()),  # which is about no run, and has the parameters of `ScoreParams`
}


def write_manual(root: Path) -> list[Path]:
    """Write the manual and the parameters cells below ``root``; return the files that changed."""
    texts = {root / "params/README.md": manual(root / "params")}
    for name in NOTEBOOKS:
        path = root / f"notebooks/{name}.ipynb"
        texts[path] = _with_parameters(path.read_text(encoding="utf-8"), name)
    changed = [path for path, text in texts.items()
               if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        write_text(path, texts[path])
    return changed


def declared(notebook: str) -> dict[str, Parameter]:
    """Return the parameters that a notebook declares, in the order of the schema."""
    if notebook == "score":
        return SCORE_FIELDS
    chapters, keys = NOTEBOOKS[notebook]
    wanted = {"run", *keys_in(*chapters), *keys}
    return {key: field for key, field in FIELDS.items() if key in wanted}


def parameters_cell(notebook: str) -> str:
    """Return the source of a notebook's parameters cell: a typed default and comment per line."""
    lines = []
    for key, field in declared(notebook).items():
        text = isinstance(field.default, str | list)
        default = json.dumps(field.default, ensure_ascii=False) if text else repr(field.default)
        lines.append(f"{key}: {field.type} = {default}  # {field.help}")
    return "\n".join(lines)


def _with_parameters(notebook: str, name: str) -> str:
    """The JSON of a notebook with the parameters cell of the notebook ``name``."""
    content = json.loads(notebook)
    cell, = (c for c in content["cells"] if "parameters" in c["metadata"].get("tags", []))
    cell["source"] = parameters_cell(name).splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def manual(folder: Path) -> str:
    """Return the manual for the params files of a folder, as Markdown."""
    presets = {path.stem: resolve(read_yaml(path), str(path)).to_dict()
               for path in sorted(folder.glob("*.yaml"))}
    chapters = "\n\n".join(f"## {TITLES[chapter]}\n\n{_table(chapter, presets)}"
                           for chapter in CHAPTERS)
    return ("# Parameters\n\n"
            "A params file holds the values that differ from the defaults below. The same keys "
            "and values are allowed in a notebook's parameters cell, after `-p` on the command "
            "line and in Python. `python -m cddpm_core manual` writes this file and the "
            "parameters cells of the notebooks from the schema in `cddpm_core/config/params.py`."
            "\n\n## Presets\n\n"
            f"{_listed(folder)}\n\n"
            "Each file of `ablations/` changes one thing (`make ablations`):\n\n"
            f"{_listed(folder / 'ablations')}\n\n"
            "Each file of `experiments/` adds an experiment to the run `quick` "
            "(`make experiments`):\n\n"
            f"{_listed(folder / 'experiments')}\n\n"
            f"{chapters}\n")


def _table(chapter: str, presets: dict[str, dict[str, Any]]) -> str:
    lines = [["parameter", "meaning", "default", "allowed", "where a preset differs"], ["---"] * 5]
    for key in keys_in(chapter):
        field = FIELDS[key]
        others = [f"{name} {_code(values[key])}" for name, values in presets.items()
                  if values[key] != field.default]
        other, values = field.only_with or ("", ())
        when = f" (only if `{other}` is {' or '.join(map(_code, values))})" if other else ""
        lines.append([f"`{key}`", field.help + when, _code(field.default), _allowed(field),
                      ", ".join(others)])
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
                     for line in lines)


def _code(value: Any) -> str:
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" else "empty"


def _allowed(field: Parameter) -> str:
    if field.choices:
        allowed = ", ".join(map(_code, field.choices))
        return f"list of {allowed}" if field.type == "list[str]" else allowed
    names = {"bool": "`true`, `false`", "str": "text", "int": "integer", "float": "number",
             "list[int]": "list of integers", "list[float]": "list of numbers",
             "list[str]": "list of texts"}
    if field.low is None:
        return names[field.type]
    return f"{names[field.type]}, {field.low:,.10g} to {field.high:,.10g}"


def _listed(folder: Path) -> str:
    """The params files of a folder, with their first lines, which say what they are."""
    first = {path.name: path.read_text(encoding="utf-8").splitlines()[0]
             for path in sorted(folder.glob("*.yaml"))}
    return "\n".join(f"- `{name}`: {line.removeprefix('#').strip()}"
                     for name, line in first.items())
