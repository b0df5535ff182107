"""A notebook in a kernel of its own, which fails or dies."""

import os

import nbformat
import pytest

from cddpm_core.config.errors import UserError
from cddpm_core.config.progress import HEADLESS
from cddpm_core.config.schema import Params
from cddpm_core.runs.stages import _execute


@pytest.mark.parametrize(("code", "words"), [
    ("from cddpm_core.config.errors import UserError\nraise UserError('seed: found that')",
     "^seed: found that$"),
    ("1 / 0", "a.ipynb: ZeroDivisionError: division by zero in cell 2; the traceback is in .*out"),
    ("import os\nos._exit(1)", "a.ipynb: its kernel died .*; the same command resumes"),
], ids=["a user's mistake", "an error", "a death"])
def test_a_notebook_that_fails_is_one_sentence_and_its_output_is_kept(tmp_path, code, words):
    nbformat.write(nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}}, cells=[
        nbformat.v4.new_code_cell("seed: int = 0", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(code)]), tmp_path / "a.ipynb")
    with pytest.raises(UserError, match=words):
        _execute(tmp_path / "a.ipynb", tmp_path / "out.ipynb", Params(seed=7))
    assert "seed = 7" in (tmp_path / "out.ipynb").read_text()
    assert not list(tmp_path.glob(".*")) and HEADLESS not in os.environ
