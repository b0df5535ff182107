"""A run as the pipeline leaves it, and what is done with it afterwards."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, SMALLER

from cddpm_core.__main__ import main
from cddpm_core.config.presets import read_yaml
from cddpm_core.config.schema import resolve
from cddpm_core.data.labels import OBJECTS
from cddpm_core.evaluation.evaluator import ResNet18
from cddpm_core.runs import stages
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.runs.stages import STAGES, run_stages


def test_ends_with_the_results_and_the_two_paths(smoke):
    lines = (smoke.outputs / "printed.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines[:len(STAGES)]] == list(STAGES)
    assert any(f"test: micro {smoke.read('metrics.json')['test']['micro']:.4f}" in line
               for line in lines)
    assert lines[-2].endswith("smoke/report.html") and lines[-1].endswith("smoke/report.pdf")


def test_leaves_what_other_tools_rely_on(smoke):
    metrics = smoke.read("metrics.json")
    assert metrics["data"]["kind"] == "rendered" and metrics["data"]["images"] == 72
    assert metrics["evaluator"]["released"] and metrics["second"] is None
    for part, key in [("evaluator", "heldout_micro"), ("test", "micro"), ("test", "macro"),
                      ("new_test", "micro"), ("new_test", "macro")]:
        assert 0 <= metrics[part][key] <= 1
    assert metrics["train"]["images_per_second"] > 0 and metrics["train"]["seconds"] > 0
    assert metrics["sample"]["images_per_second"] > 0 and metrics["total_seconds"] > 0
    assert metrics["sample"]["num_inference_steps"] == 4
    assert len(metrics["sampling"]["variants"]) == 4 and len(metrics["timesteps"]["variants"]) == 2
    assert smoke.params() == resolve(
        {**read_yaml(ROOT / "params/smoke.yaml"), **SMALLER, "run": "smoke"})
    for name in ("test", "new_test"):
        assert len(list((smoke / "images" / name).glob("*.png"))) == 32
    for path in ["history.jsonl", "model/model_index.json", "model/unet/config.json",
                 "model/unet/diffusion_pytorch_model.safetensors", "model/codec/config.json",
                 "model/scheduler/scheduler_config.json", *(f"{name}.ipynb" for name in STAGES)]:
        assert (smoke / path).stat().st_size > 0
    assert not [path for path in smoke.folder.rglob("*") if path.name.endswith(".tmp")]


def test_each_stage_records_what_it_was_made_from(smoke):
    assert list(smoke.stages()) == list(STAGES)
    for name, about in smoke.stages().items():
        assert about["state"] == "done" and about["why"], name
        assert set(about["inputs"]) == {"params", "notebook", "modules", "files", "needs"}
        assert "cddpm_core/runs/session.py" in about["inputs"]["modules"]


def test_every_file_is_as_the_manifest_says(smoke_copy, capsys):
    assert main(["verify", "--run", "smoke"]) == 0
    assert "every file is as manifest.json says" in capsys.readouterr().out
    with open(smoke_copy / "images/test/0.png", "ab") as picture:
        picture.write(b" ")
    assert main(["verify", "--run", "smoke"]) == 2
    out, err = capsys.readouterr()
    assert out == "images/test/0.png: has changed\n" and err.startswith("Error: ")


def test_it_can_be_submitted(smoke_copy):
    assert main(["submission", "--run", "smoke"]) == 0
    assert (smoke_copy.outputs / "smoke.zip").stat().st_size > 0


def test_finished_stages_are_not_computed_again(smoke_copy, monkeypatch, capsys):
    monkeypatch.setattr(stages, "_execute", lambda notebook, *_: pytest.fail(str(notebook)))
    run_stages(list(STAGES), smoke_copy.params())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(STAGES)
    assert all("finished before, in" in line for line in lines)


def test_a_forced_run_keeps_the_earlier_training(smoke_copy, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(stages, "_execute", lambda notebook, *_: ran.append(notebook.stem))
    run_stages(["data", "train"], smoke_copy.params(), force=True)
    aside, = (smoke_copy / "previous").iterdir()
    assert ran == ["data", "train"] and (aside / "checkpoint.pt").exists()
    assert f"train: runs again, as asked; the earlier training is kept in {aside}" in (
        capsys.readouterr().out)


def test_an_official_evaluator_is_named_as_such_beside_the_released_one(smoke, smoke_copy,
                                                                        tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": ResNet18().state_dict()}, path)
    run_stages(["evaluate"], smoke_copy.params().replace(evaluator=str(path)))
    metrics = smoke_copy.read("metrics.json")
    found = metrics["evaluator"]
    assert (found["kind"], found["known"], found["heldout_micro"]) == ("official", False, None)
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    before, second = smoke.read("metrics.json"), metrics["second"]
    assert second["evaluator"] == before["evaluator"]
    for name in ("test", "new_test"):  # the same images, as the released stand-in scored them
        alone = {key: value for key, value in before[name].items() if key != "one_layout"}
        assert second[name].items() >= alone.items()


def test_papermill_alone_runs_a_notebook_on_real_data(folder, tmp_path, monkeypatch, rendered):
    """In the folder it is given, with a frame to compare and conditions to leave out.

    The folder is as people have them: an image is missing, and systems have added files.
    """
    monkeypatch.setenv(OUTPUTS, str(tmp_path))
    labels = json.loads((folder / "train.json").read_text()) | {"gone.png": ["gray cube"]}
    (folder / "train.json").write_text(json.dumps(labels), encoding="utf-8-sig")
    (folder / "objects.json").write_text(json.dumps(
        {name: i for i, name in enumerate(reversed(OBJECTS))}))
    for name in ("mine", "frames"):
        (tmp_path / name).mkdir()
    shutil.copy(sorted(rendered.rglob("*_0.png"))[0], tmp_path / "frames/a.PNG")
    (tmp_path / "frames/._a.PNG").write_bytes(b"no image")
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "notebooks/data.ipynb",
         str(tmp_path / "mine/data.ipynb"), "-f", "params/smoke.yaml", "-p", "epochs", "3",
         "-p", "data", str(folder), "-p", "reference", str(tmp_path / "frames"),
         "-p", "holdout", "test_conditions", "-p", "missing", "skip"],
        cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    run = Run("mine")
    data = run.read("metrics.json")["data"]
    assert run.params().epochs == 3 and data["kind"] == "given"
    assert (data["images"], data["left_out"], data["missing"]) == (2, 1, 1)
    printed = (run / "data.ipynb").read_text()
    assert "1 of the images that train.json names are missing, and left out" in printed
    assert "objects.json numbers the objects in another order" in printed
    assert data["overlap"] == {name: {"conditions": 32, "seen": 0} for name in ("test", "new_test")}
    assert [frame["difference"] < 1 for frame in data["reference"]] == [True]
    assert (run / "figures/data_reference.png").exists()
