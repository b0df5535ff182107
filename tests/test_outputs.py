import json

import pytest
from click import ClickException
from conftest import ROOT
from papermill.iorw import papermill_io

PATH = "outputs/mine/train.ipynb"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda text: papermill_io.get_handler(PATH).write(text, PATH)


def parameterised(**parameters):
    notebook = json.loads((ROOT / "notebooks/train.ipynb").read_text())
    notebook["metadata"]["papermill"] = {"parameters": parameters}
    return json.dumps(notebook)


def test_papermill_makes_the_folder_of_a_new_run(tmp_path, write):
    write("{}")
    assert (tmp_path / PATH).read_text() == "{}"


def test_parameters_of_the_schema_are_written(tmp_path, write):
    text = parameterised(epochs=2, learning_rate="1e-4", sweep_steps=[1, 2])
    write(text)
    assert (tmp_path / PATH).read_text() == text
    write((ROOT / "notebooks/train.ipynb").read_text())


@pytest.mark.parametrize(("parameters", "sentence"), [
    ({"epochz": 2}, "unknown parameter 'epochz' .did you mean 'epochs'"),
    ({"epochs": "two"}, "epochs: expected int, found 'two'"),
    ({"sampler": "ddin"}, "sampler: found 'ddin' .did you mean 'ddim'")])
def test_a_mistyped_parameter_is_one_sentence_before_anything_is_written(tmp_path, write,
                                                                         parameters, sentence):
    with pytest.raises(ClickException, match=sentence):
        write(parameterised(**parameters))
    assert not (tmp_path / "outputs").exists()


def test_other_notebooks_keep_their_own_parameters(tmp_path, write):
    text = json.dumps({"cells": [], "metadata": {"papermill": {"parameters": {"alpha": 1}}}})
    write(text)
    assert (tmp_path / PATH).read_text() == text
