"""``python -m cddpm_core score`` and ``evaluator agreement``, and the notebook of both."""

import json
import os

import numpy as np
import papermill
import pytest
import torch
from conftest import ROOT, normalised
from PIL import Image

from cddpm_core.__main__ import main
from cddpm_core.config.score_params import SCORE_FIELDS
from cddpm_core.evaluation.evaluator import ResNet18
from cddpm_core.evaluation.images import grid_image
from cddpm_core.evaluator_commands import score_command
from cddpm_core.runs.run import OUTPUTS


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path / "outputs"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "outputs"


def save(pixels, path):
    x = torch.from_numpy(pixels).movedim(-1, 1).float() / 127.5 - 1
    grid_image(x, scale=1).save(path)
    return str(path)


def done(capsys, *arguments):
    assert main(["score", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    assert main(list(map(str, arguments))) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Error: ") and err.count("\n") == 1, err
    return err


def test_a_folder_a_grid_and_a_stretched_grid(capsys, tmp_path, outputs, sampled):
    (tmp_path / "made").mkdir()
    for index, pixels in enumerate(sampled):
        Image.fromarray(pixels).save(tmp_path / f"made/{index}.png")
    of_folder = done(capsys, "made")
    of_grid = done(capsys, save(sampled, tmp_path / "grid.png"), "--out", "here")
    stretched = done(capsys, save(normalised(sampled), tmp_path / "stretched.png"))
    assert "micro 0." in of_folder and "Warning" not in of_folder + of_grid
    assert "Warning: tone: stretched by min-max normalisation" in stretched
    folder, = (outputs / "scores").glob("*made")
    found = json.loads((folder / "score.json").read_text())
    assert found == {**json.loads((tmp_path / "here/score.json").read_text()),
                     "given": found["given"]}
    assert f"micro {found['micro']:.4f}" in of_folder and (folder / "score.png").exists()
    assert os.path.relpath(folder / "score.json", tmp_path) in of_folder


def test_several_files_of_a_shell_are_taken_in_the_order_of_their_numbers(capsys, tmp_path, outputs,
                                                                          sampled):
    (tmp_path / "made").mkdir()
    for index, pixels in enumerate(sampled):
        Image.fromarray(pixels).save(tmp_path / f"made/{index}.png")
    assert "Warning" not in done(capsys, *sorted((tmp_path / "made").glob("*.png")))
    assert [path.name.endswith("made") for path in (outputs / "scores").iterdir()] == [True]


def test_the_official_evaluator_and_the_stand_in_stand_side_by_side(capsys, tmp_path, sampled):
    torch.manual_seed(0)
    torch.save({"model": ResNet18().state_dict()}, tmp_path / "checkpoint.pth")
    printed = done(capsys, save(sampled, tmp_path / "grid.png"), "--evaluator", "checkpoint.pth",
                   "--out", "here")
    assert "scored by: checkpoint like the official evaluator's (unknown SHA-256)" in printed
    assert "scored by: released stand-in evaluator" in printed
    assert "released stand-in by −0." in printed
    found = json.loads((tmp_path / "here/score.json").read_text())
    assert found["micro"] < found["second"]["micro"] and found["verdicts"]


def test_mistakes_are_one_sentence(capsys, tmp_path, outputs, sampled):
    grid = save(sampled[:31], tmp_path / "grid.png")
    assert "no such file or folder (did you mean 'grid.png'?)" in refused(
        capsys, "score", "gird.png")
    assert "found 31 images, cell 0 to cell 30, expected 32, one for each row of test" in refused(
        capsys, "score", grid)
    (tmp_path / "many").mkdir()
    for row, pixels in enumerate(sampled):
        Image.fromarray(pixels).save(tmp_path / f"many/{row}.png")
    assert "--out: many has the images, expected another folder" in refused(
        capsys, "score", "many", "--out", "many")
    assert "cell: expected int, found 'x'" in refused(capsys, "score", grid, "--cell", "x")
    assert "Missing argument 'IMAGES...'" in refused(capsys, "score")
    assert "no such folder, expected one with manifest.json" in refused(
        capsys, "evaluator", "agreement", "nowhere")
    assert not outputs.exists()


def test_agreement_is_printed_and_written(capsys, tmp_path, sampled):
    save(sampled, tmp_path / "a.png")
    (tmp_path / "manifest.json").write_text(json.dumps([{
        "file": "a.png", "conditions": "test", "official": 0.5, "metric": "micro",
        "kind": "gan", "quality": "lossless"}]))
    assert main(["evaluator", "agreement", ".", "--out", "here"]) == 0
    printed = capsys.readouterr().out
    assert "a.png: official micro 0.500, found 0." in printed and "mean absolute gap" in printed
    assert json.loads((tmp_path / "here/agreement.json").read_text())["grids"][0]["gap"] > 0.3
    assert (tmp_path / "here/agreement.png").exists()


def test_the_options_of_the_command_are_parameters_of_the_notebook():
    options = {p.name: p for p in score_command.params if p.name != "images"}
    assert {*options, "images", "agreement"} == set(SCORE_FIELDS)
    assert all(options[key].default == SCORE_FIELDS[key].default for key in options)


def test_the_notebook_runs_headless(tmp_path, outputs, sampled):
    images = save(np.ascontiguousarray(sampled[::-1]), tmp_path / "grid.png")
    (tmp_path / "manifest.json").write_text(json.dumps([{
        "file": "grid.png", "conditions": "test", "official": 0.5, "metric": "micro",
        "kind": "gan", "quality": "lossless"}]))
    for agreement in ("", str(tmp_path)):
        ran = papermill.execute_notebook(
            str(ROOT / "notebooks/score.ipynb"), str(tmp_path / "score.ipynb"),
            {"images": images, "out": str(tmp_path / "here"), "agreement": agreement},
            progress_bar=False)
        texts = [output["data"].get("text/markdown", "") for cell in ran.cells
                 if cell.cell_type == "code" for output in cell.outputs if "data" in output]
        assert any("Warning.** order\\: the images fit the labels of test in reverse" in text
                   for text in texts)
        assert any("No folder of grids" in text for text in texts) == (not agreement)
        assert any("mean absolute gap" in text for text in texts) == bool(agreement)
    assert (tmp_path / "here/score.json").exists()
