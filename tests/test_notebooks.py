"""The notebooks as files: clean, without definitions, and with the parameters they use."""

import ast
import re

import nbformat
import papermill
import pytest
from conftest import ROOT

from cddpm_core.config.manual import NOTEBOOKS, declared
from cddpm_core.config.schema import FIELDS
from cddpm_core.runs.stages import STAGES


def read(name):
    return nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)


def code_cells(name):
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def test_every_stage_has_its_notebook():
    assert set(NOTEBOOKS) == {*STAGES, "explore", "score"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_is_a_clean_valid_notebook(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert cell.id and cell.source.strip()
    for cell in code_cells(name):
        assert not cell.outputs and cell.execution_count is None


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_defines_nothing_of_its_own(name):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in code_cells(name):
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, kinds)]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_begins_with_prose_then_parameters_then_the_session(name):
    prose, parameters, session = read(name).cells[:3]
    assert prose.cell_type == "markdown" and prose.source.startswith("# ")
    assert parameters.metadata.tags == ["parameters"]
    assert any(f"{opens}(globals())" in session.source
               for opens in ("open_session", "open_trained", "score_params"))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_papermill_sees_every_parameter_with_its_type_and_meaning(name):
    found = papermill.inspect_notebook(str(ROOT / f"notebooks/{name}.ipynb"))
    assert list(found) == list(declared(name))
    for key, about in found.items():
        expected = declared(name)[key]
        assert (about["inferred_type_name"], about["help"]) == (expected.type, expected.help)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_declares_the_parameters_it_uses(name):
    source = "\n".join(cell.source for cell in code_cells(name))
    used = set(re.findall(r"\bp\.([a-z_]+)\b", source)) - {"replace", "to_dict", "grid"}
    if name in ("timesteps", "report"):  # which are about a run with parameters of its own
        assert used <= set(FIELDS)
    else:
        assert used <= set(declared(name))
