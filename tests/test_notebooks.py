"""The notebooks as files: clean, without definitions, and with the schema's parameters."""

import ast
import re

import nbformat
import papermill
import pytest
from conftest import ROOT

from cddpm_core.config.schema import FIELDS, Params
from cddpm_core.runs.stages import STAGES

NOTEBOOKS = ROOT / "notebooks"
NAMES = [*STAGES, "explore"]


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_cells(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def parameters_cell(name):
    tagged = [c for c in code_cells(name) if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    return tagged[0].source


def test_every_stage_has_its_notebook():
    assert set(NAMES) == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}


@pytest.mark.parametrize("name", NAMES)
def test_is_a_clean_valid_notebook(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert cell.id and cell.source.strip()
    for cell in code_cells(name):
        assert not cell.outputs and cell.execution_count is None


@pytest.mark.parametrize("name", NAMES)
def test_defines_nothing_of_its_own(name):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in code_cells(name):
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, kinds)]


@pytest.mark.parametrize("name", NAMES)
def test_opens_with_prose_then_parameters_then_the_run(name):
    prose, parameters, opened = read(name).cells[:3]
    assert prose.cell_type == "markdown" and prose.source.startswith("# ")
    assert parameters.metadata.tags == ["parameters"]
    assert "run, p = open_" in opened.source


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_typed_commented_and_those_of_the_schema(name):
    source, defaults = parameters_cell(name), Params().to_dict()
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.AnnAssign)
        key = statement.target.id
        assert ast.unparse(statement.annotation) == FIELDS[key].type
        assert ast.literal_eval(statement.value) == defaults[key]
        line = source.splitlines()[statement.lineno - 1]
        assert line.split("  # ")[1] == FIELDS[key].metadata["help"]
    assert source.startswith('run: str = ""')


@pytest.mark.parametrize("name", NAMES)
def test_papermill_sees_every_parameter(name):
    declared = [statement.target.id for statement in ast.parse(parameters_cell(name)).body]
    found = papermill.inspect_notebook(str(NOTEBOOKS / f"{name}.ipynb"))
    assert list(found) == declared
    assert all(about["help"] and about["inferred_type_name"] for about in found.values())


@pytest.mark.parametrize("name", NAMES)
def test_declares_the_parameters_it_uses(name):
    source = "\n".join(cell.source for cell in code_cells(name))
    used = set(re.findall(r"\bp\.([a-z_]+)\b", source)) - {"replace", "to_dict"}
    assert used <= set(FIELDS)
    if name not in ("timesteps", "report"):
        # Those two read the other parameters of the run they are about.
        declared = {statement.target.id for statement in ast.parse(parameters_cell(name)).body}
        assert used <= declared
