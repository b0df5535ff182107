"""The manual of the parameters, ``params/README.md``, written from the schema and the presets."""

from __future__ import annotations

from pathlib import Path

from cddpm_core.params import FIELDS, Params, resolve
from cddpm_core.presets import read_yaml

__all__ = ["manual"]


def manual(folder: Path) -> str:
    """Return the text of the manual for the params files of a folder, as Markdown."""
    defaults = Params().to_dict()
    presets = {path.stem: resolve(read_yaml(path), str(path)).to_dict()
               for path in sorted(folder.glob("*.yaml"))}
    rows = []
    for key, field in FIELDS.items():
        others = [f"{name} {_code(values[key])}" for name, values in presets.items()
                  if values[key] != defaults[key] and key != "run"]
        rows.append([_code(key), field.metadata["help"], field.type, _code(defaults[key]),
                     _allowed(field.metadata), ", ".join(others)])
    head = ["parameter", "meaning", "type", "quick", "allowed", "where a preset differs"]
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
                      for line in lines)
    return ("# Parameters\n\n"
            "Every parameter of every notebook and preset, from the schema in "
            "`cddpm_core/params.py`. The same values are allowed from papermill, make and "
            "Python. This file is written by `python -m cddpm_core manual`.\n\n"
            f"{table}\n\n"
            "A key that a params file leaves out has the value of quick. The files of "
            "`ablations/` each change what their first line says, `recipe.yaml` nothing:\n\n"
            f"{_listed(folder / 'ablations')}\n\n"
            "Those of `experiments/` add an experiment to the run `quick` (`make experiments`):\n\n"
            f"{_listed(folder / 'experiments')}\n")


def _listed(folder: Path) -> str:
    return "\n".join(f"- `{path.name}`: {_first_line(path)}"
                     for path in sorted(folder.glob("*.yaml")))


def _code(value: object) -> str:
    return f"`{value}`" if value != "" else "empty"


def _allowed(about: dict) -> str:
    if about["choices"]:
        return ", ".join(map(_code, about["choices"]))
    low, high = (None if about[end] is None else f"{about[end]:,.10g}" for end in ("low", "high"))
    if low and high:
        return f"{low} to {high}"
    return f"from {low}" if low else ""


def _first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
