"""The parameters of a notebook, as its cells are run in a real IPython."""

import subprocess
import sys

import nbformat
import pytest
from conftest import ROOT
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from cddpm_core.config.cells import cell_parameters
from cddpm_core.config.errors import UserError
from cddpm_core.config.manual import NOTEBOOKS, parameters_cell
from cddpm_core.config.schema import Params

TOP = 'run: str = ""  # the run\nseed: int = 0\n'
BOTTOM = 'epochs: int = 2\nstudent_id: str = ""'
PARAMETERS = TOP + BOTTOM


@pytest.fixture
def shell():
    """Runs cells, and returns the parameters that a cell which is run then finds."""
    ipython = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))

    def run(*cells, **startup):
        ipython.user_ns |= startup
        for cell in cells:
            ipython.run_cell(cell, store_history=True).raise_error()
        ipython.user_ns["find"] = lambda names: cell_parameters(names, Params)
        result = ipython.run_cell("find(globals())", store_history=True)
        result.raise_error()
        return result.result[0]

    return run


DEFAULTS = {"run": "", "seed": 0, "epochs": 2, "student_id": ""}
INJECTED = "# Parameters\nepochs = 7\n"


@pytest.mark.parametrize(("cells", "changes"), [
    ([PARAMETERS], {}),
    ([PARAMETERS, INJECTED], {"epochs": 7}),
    ([PARAMETERS, INJECTED, "epochs = 9\nseed = 1001000003\nrun = object()\nrows = {}"],
     {"epochs": 7}),
    ([PARAMETERS, "for seed in range(3): pass"], {}),
    ([PARAMETERS, PARAMETERS.replace("epochs: int = 2", "epochs: int = 5")], {"epochs": 5}),
    ([PARAMETERS, INJECTED, PARAMETERS], {}),
    ([PARAMETERS, "# Parameters\nepochz = 7", "# Parameters\nepochs = 7"], {"epochs": 7}),
    ([PARAMETERS + "\nepochz: int = 3", PARAMETERS], {}),
    ([PARAMETERS + "\nfor epochs in (5,): pass", PARAMETERS], {}),
    ([TOP, BOTTOM], {}),
    ([TOP, BOTTOM, TOP.replace("0", "3"), BOTTOM.replace("2", "4")], {"seed": 3, "epochs": 4}),
    ([TOP, BOTTOM.replace("2", "4"), TOP], {"epochs": 4}),
    ([PARAMETERS.replace('student_id: str = ""', "student_id: str = 716_221")],
     {"student_id": "716_221"}),
    ([PARAMETERS.replace('student_id: str = ""', "student_id: str = 1.10")],
     {"student_id": "1.10"}),
    ([PARAMETERS.replace("= 2", "= 2 * 3")], {"epochs": 6}),
    (["import os", PARAMETERS.replace('run: str = ""', "run: str = os.path.basename('a/b')")],
     {"run": "b"}),
    ([PARAMETERS + "\nimport math  # for a cell of my own\nprint('hello')"], {}),
    (["%precision 3\n" + PARAMETERS], {}),
    (["%%time\n" + PARAMETERS, INJECTED], {"epochs": 7}),
    ([PARAMETERS, "%%timeit -n1 -r1\nepochs: int = 3"], {}),
    ([PARAMETERS, 'run = "mine"\nseed = 5'], {}),
    ([PARAMETERS, "seed: int = 3"], {"seed": 3}),
    ([PARAMETERS, "def f(seed: int = 3): pass", "try:\n    seed: int = 4\nfinally: pass"], {}),
    ([PARAMETERS, "session = dict(globals())\nrun, p = 'a', 'b'"], {}),
])
def test_parameters_are_those_of_the_parameters_cell_and_of_papermills(shell, cells, changes):
    assert shell(*cells) == {**DEFAULTS, **changes}


@pytest.mark.parametrize("first", ['run = "mine"', '# Parameters\nrun = "mine"\nepochs = 2'])
def test_a_parameters_cell_need_not_give_types(shell, first):
    assert shell(first)["run"] == "mine"
    assert shell(INJECTED)["epochs"] == 7
    assert shell(first.replace("mine", "other"))["run"] == "other"


def test_a_notebook_that_ipython_runs_as_a_file_has_its_parameters_in_it(shell, tmp_path):
    """As by %run and `ipython a.ipynb`, which put no cell into the history."""
    nbformat.write(nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_markdown_cell("run: str"), *map(nbformat.v4.new_code_cell, (
            "%precision 3\n" + PARAMETERS, "# Parameters\nepochs = 7",
            "found = find(globals())"))]), tmp_path / "a.ipynb")
    here = PARAMETERS.replace('run: str = ""', 'run: str = "here"')
    assert shell(here)["run"] == "here"
    assert shell(f"%run {tmp_path / 'a.ipynb'}", "assert found[0]['epochs'] == 7 and not "
                 "found[0]['run']")["run"] == "here"


def test_what_a_startup_file_defines_is_no_parameter(shell):
    assert shell(PARAMETERS, DATA_ROOT="/data", epochs=50, guidance_scale=9.0) == DEFAULTS


def test_a_value_that_another_cell_gives_is_named_and_not_used(shell, capsys):
    assert shell(PARAMETERS, "epochs = 9\nstudent_id = 7") == DEFAULTS
    assert capsys.readouterr().out.splitlines()[:2] == [
        "epochs stays 2, as in the parameters cell; another cell says 9",
        "student_id stays '', as in the parameters cell; another cell says 7"]


@pytest.mark.parametrize(("cells", "words"), [
    (["x = 1"], "the parameters cell, which begins with 'run: str = ...', was not run"),
    ([PARAMETERS + "\nif True:\n    epochs = 5"], "found 'if True:'"),
    ([PARAMETERS + "\nepochs += 5"], "found 'epochs [+]= 5'"),
    (["def size(): return 1", PARAMETERS.replace("= 2", "= size()"), "del size"],
     "epochs = 'size..' cannot be computed .NameError"),
])
def test_what_is_no_parameters_cell_is_one_sentence(shell, cells, words):
    with pytest.raises(UserError, match=words):
        shell(*cells)


@pytest.mark.parametrize("name", sorted({*NOTEBOOKS} - {"score"}))
def test_the_parameters_cells_of_the_notebooks_are_known(shell, name):
    found = shell(parameters_cell(name))
    assert found == {key: getattr(Params(), key) for key in found} and "run" in found


def test_papermills_paths_stand_beside_the_parameters():
    found = cell_parameters({"run": "a", "PAPERMILL_OUTPUT_PATH": "b"}, Params)
    assert found == ({"run": "a"}, {"PAPERMILL_OUTPUT_PATH": "b"})


@pytest.mark.parametrize("program", [[], ["-m", "IPython"]])
def test_a_notebook_as_a_script_has_its_parameters_in_its_file(tmp_path, program):
    (tmp_path / "script.py").write_text(
        f"#!/usr/bin/env python\n# coding: utf-8\n\n# # Title\n\n# In[1]:\n\n\n{PARAMETERS}\n\n\n"
        "# In[2]:\n\n\nfrom IPython import get_ipython\n"
        "from cddpm_core.config.cells import cell_parameters\n"
        "from cddpm_core.config.schema import Params\n\n"
        "print(cell_parameters(globals(), Params)[0])\n\n\n# In[ ]:\n\n\nseed = 5\n")
    done = subprocess.run([sys.executable, *program, "script.py"], cwd=tmp_path, text=True,
                          capture_output=True, env={"PYTHONPATH": str(ROOT), "TERM": "dumb"})
    assert done.stdout.splitlines()[-1] == f"{DEFAULTS}", done.stderr
