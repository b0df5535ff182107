"""The parameters of a notebook, read from the text of its own cells.

They come from the parameters cell and from the one that papermill puts below it. What else the
notebook's namespace holds is no parameter: a startup file may have put it there, or a later cell.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from cddpm_core.config.errors import UserError, shown
from cddpm_core.config.files import read_text
from cddpm_core.config.parameter import Checked, Parameter

__all__ = ["INPUT_PATH", "OUTPUT_PATH", "cell_parameters"]

# What papermill --inject-paths adds to the parameters.
INPUT_PATH, OUTPUT_PATH = "PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH"
INJECTED = "# Parameters"  # how the cell begins that papermill puts below the parameters cell
CELLS = re.compile(r"^# (?:In\[|%%).*", re.MULTILINE)  # between the cells of a notebook as a script


class _Assigned(NamedTuple):
    """What a cell assigns to one name: the expression, and the text of the cell."""

    expression: ast.expr
    cell: str


def cell_parameters(namespace: Mapping[str, Any],
                    kind: type[Checked]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the parameters of a notebook, given its ``globals()``, and the paths papermill gives.

    They are those of the last parameters cell that was run, and of papermill's cell after it. A
    number in place of a text stays as it was typed. Any other mapping holds the parameters itself.

    Raises `UserError` if the parameters cell was not run, or does something else than assign.
    """
    # What globals() of a module or a notebook has, and a parameter cannot be called.
    values = _of_cells(namespace, kind) if "__name__" in namespace else dict(namespace)
    paths = {name: values.pop(name) for name in list(values) if name.startswith("PAPERMILL_")}
    return values, paths


def _of_cells(namespace: Mapping[str, Any], kind: type[Checked]) -> dict[str, Any]:
    fields = kind.fields()
    first = next(iter(fields))
    declared: list[dict[str, _Assigned]] = []  # of the parameters cell, and of parts split off
    injected: dict[str, _Assigned] = {}
    fault, with_types = None, False
    for cell in _cells_run(namespace):
        found, typed, other = _assignments(cell, fields)
        with_types = with_types or first in typed
        if cell.lstrip().startswith(INJECTED) and declared and not typed:
            injected = found
        elif first in typed:
            declared = [part for part in declared if part.keys().isdisjoint(found)] + [found]
            injected, fault = {}, other
        elif not other and (typed or not with_types and first in found
                            and _is_plain(found[first])):
            # A part that has most of its names again is one that was edited.
            declared = [part for part in declared
                        if 2 * len(part.keys() & found.keys()) < len(part)] + [found]
            injected = {key: value for key, value in injected.items() if key not in found}
    if not declared:
        raise UserError(f"the parameters cell, which begins with '{first}: str = ...', was not run "
                        "in this kernel; run the notebook from its first cell")
    if fault:
        raise UserError("parameters cell: expected lines such as 'seed: int = 0', found "
                        f"{shown(ast.unparse(fault).splitlines()[0])}")
    values: dict[str, Any] = {}
    for part in (*declared, injected):
        for name, assigned in part.items():
            values[name] = _value(name, assigned, fields, {**namespace, **values})
    _tell_of_others(namespace, values)
    return {name: value for name, value in values.items() if not name.startswith("_")}


def _cells_run(namespace: Mapping[str, Any]) -> list[str]:
    """The cells that were run, the latest last; of a notebook that is run as a file those in it."""
    shell = namespace.get("get_ipython", lambda: None)()
    cells = list(shell.history_manager.input_hist_parsed) if shell else []
    file = namespace.get("__file__")
    if not isinstance(file, str) or not os.path.isfile(file):
        return cells
    if not file.endswith(".ipynb"):  # a notebook as a script
        return cells + CELLS.split(read_text(file))
    return cells + [shell.transform_cell("".join(cell["source"])) if shell else
                    "".join(cell["source"]) for cell in json.loads(read_text(file))["cells"]
                    if cell["cell_type"] == "code"]


def _assignments(cell: str, fields: Mapping[str, Parameter]) -> tuple[
        dict[str, _Assigned], set[str], ast.stmt | None]:
    """What a cell assigns, which parameters it gives with a type, and what else it does."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:
        return {}, set(), ast.Pass()
    match body:
        case [ast.Expr(ast.Call(ast.Attribute(attr="run_cell_magic"), [
                ast.Constant("time" | "capture"), _, ast.Constant(str(inside))]))]:
            return _assignments(inside, fields)
    found, typed, other = {}, set(), None
    for node in body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                found[name] = _Assigned(value, cell)
                typed |= {name} & fields.keys()
            case ast.Assign(value=value) if "globals()" in ast.unparse(value):
                break  # the session begins in the same cell
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = _Assigned(value, cell)
            case ast.Import() | ast.ImportFrom() | ast.Expr():
                pass
            case _:
                other = other or node
    return found, typed, other


def _is_plain(assigned: _Assigned) -> bool:
    try:
        ast.literal_eval(assigned.expression)
    except (ValueError, TypeError):
        return False
    return True


def _value(name: str, assigned: _Assigned, fields: Mapping[str, Parameter],
           names: Mapping[str, Any]) -> Any:
    """The value of an expression; a number that stands for a text is the text."""
    expression, cell = assigned
    try:
        value = eval(compile(ast.Expression(expression), "parameters cell", "eval"), {**names})
    except Exception as error:
        raise UserError(f"parameters cell: {name} = {shown(ast.unparse(expression))} cannot be "
                        f"computed ({type(error).__name__}: {error})") from None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and _is_plain(assigned) and name in fields and fields[name].type == "str" and (
            not cell.lstrip().startswith(INJECTED)):
        return ast.get_source_segment(cell, expression)
    return value


def _tell_of_others(namespace: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Print which parameters have another value in the notebook, which does not count."""
    for name, value in values.items():
        other = namespace.get(name, value)
        if isinstance(other, str | int | float | list | tuple) and str(other) != str(value):
            print(f"{name} stays {shown(value)}, as in the parameters cell; another cell says "
                  f"{shown(other)}")
