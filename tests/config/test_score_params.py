import pytest

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import project_root
from cddpm_core.config.score_params import SCORE_FIELDS, ScoreParams, score_params


def test_values_are_converted_and_checked():
    found = ScoreParams(images="a", cell="64", padding=2.0)
    assert found.grid() == {"cell": 64, "padding": 2, "columns": 0}
    assert ScoreParams(padding=-1).grid()["padding"] is None
    for values, words in (({"cell": "x"}, "cell: expected int, found 'x'"),
                          ({"padding": -2}, "padding: found -2, expected at least -1"),
                          ({"tone": "kept"}, r"tone: found 'kept' \(did you mean 'keep'\?\)"),
                          ({"colums": 8}, r"unknown parameter 'colums' \(did you mean 'columns'")):
        with pytest.raises(UserError, match=words):
            ScoreParams(**values)


def test_a_path_may_be_below_the_root_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = score_params({"images": "outputs/quick_test.png", "conditions": "test",
                          "PAPERMILL_OUTPUT_PATH": "a.ipynb"})
    assert found.images == str(project_root() / "outputs/quick_test.png")
    assert found.conditions == "test" and set(found.model_dump()) == set(SCORE_FIELDS)
    with pytest.raises(UserError, match="notebook parameters: unknown parameter 'image'"):
        score_params({"image": "a.png"})


def test_a_path_in_the_working_directory_comes_first(tmp_path, monkeypatch):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/quick_test.png").write_text("")
    monkeypatch.chdir(tmp_path)
    assert score_params({}).images == "outputs/quick_test.png"
