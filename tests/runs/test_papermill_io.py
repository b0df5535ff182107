import json
import os
import subprocess
import sys

import nbformat
import pytest
from click import ClickException
from papermill.iorw import papermill_io

from cddpm_core.runs.run import OUTPUTS, Run

PATH = "outputs/mine/train.ipynb"
CODE = "from cddpm_core.runs.session import open_session\n\nsession = open_session(globals())"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda text: papermill_io.get_handler(PATH).write(text, PATH)


def parameterised(**parameters):
    first = nbformat.v4.new_code_cell('run = ""\ndata = ""', metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(CODE)], metadata={
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    if parameters:
        notebook["metadata"]["papermill"] = {"parameters": parameters}
    return nbformat.writes(notebook)


def test_papermill_makes_the_folder_of_a_new_run(tmp_path, write):
    write("{}")
    assert (tmp_path / PATH).read_text() == "{}"


def test_parameters_of_the_schema_are_written(tmp_path, write):
    text = parameterised(epochs=2, learning_rate="1e-4", sweep_steps=[1, 2])
    write(text)
    assert (tmp_path / PATH).read_text() == text
    write(parameterised())


@pytest.mark.parametrize(("parameters", "sentence"), [
    ({"epochz": 2}, "unknown parameter 'epochz'"),
    ({"epochs": "two"}, "epochs: expected int, found 'two'"),
    ({"sampler": "ddin"}, "sampler: found 'ddin' .did you mean 'ddim'")])
def test_a_mistyped_parameter_is_one_sentence_before_anything_is_written(tmp_path, write,
                                                                         parameters, sentence):
    with pytest.raises(ClickException, match=sentence):
        write(parameterised(**parameters))
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(("parameters", "sentence"), [
    ({"image": "a.png"}, "unknown parameter 'image' .did you mean 'images'"),
    ({"cell": "wide"}, "cell: expected int, found 'wide'")])
def test_the_parameters_of_a_score_are_its_own(tmp_path, write, parameters, sentence):
    def text(**given):
        return parameterised(**given).replace("open_session", "score_params")

    write(text(images="a.png", padding="2"))
    with pytest.raises(ClickException, match=sentence):
        write(text(**parameters))


def test_other_notebooks_keep_their_own_parameters(tmp_path, write):
    text = json.dumps({"cells": [], "metadata": {"papermill": {"parameters": {"alpha": 1}}}})
    write(text)
    assert (tmp_path / PATH).read_text() == text


def test_papermill_alone_keeps_a_relative_path_as_the_place_it_was_typed_for(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/data.ipynb").write_text(parameterised())
    run = Run("rel", outputs=tmp_path / "here/outputs")
    run.set_stage("data", "done", seconds=1)
    done = subprocess.run([sys.executable, "-m", "papermill", "data.ipynb",
                           "outputs/rel/data.ipynb", "-p", "data", "../ic"],
                          cwd=tmp_path / "here", capture_output=True, text=True,
                          env={**os.environ, OUTPUTS: str(run.outputs)})
    assert done.returncode == 0, done.stderr[-2000:]
    assert run.params().data == str(tmp_path / "here/../ic")
    assert run.stages()["data"]["state"] == "by hand"
