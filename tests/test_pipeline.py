"""The main job end to end, at smoke size: every notebook, by papermill, to the report."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from PIL import Image

from cddpm_core.evaluator import build_resnet18
from cddpm_core.labels import OBJECTS
from cddpm_core.params import resolve
from cddpm_core.pipeline import EXPERIMENTS, STAGES, with_needs
from cddpm_core.presets import read_yaml
from cddpm_core.runs import OUTPUTS

PYTHON = [sys.executable, "-m"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


def command(outputs, *words):
    return subprocess.run([*PYTHON, *map(str, words)], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, OUTPUTS: str(outputs)})


@pytest.fixture(scope="module")
def smoke(outputs):
    done = command(outputs, "cddpm_core", "report", "--params", "params/smoke.yaml")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return outputs / "smoke", done


def test_ends_with_the_results_and_the_two_paths(smoke):
    folder, done = smoke
    html, pdf = done.stdout.splitlines()[-2:]
    assert html.endswith("smoke/report.html") and pdf.endswith("smoke/report.pdf")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"test: micro {metrics['test']['micro']:.4f}" in done.stdout


def test_every_file_is_as_the_manifest_says(smoke, outputs):
    folder, _ = smoke
    before = command(outputs, "cddpm_core", "verify", "--run", "smoke")
    assert before.returncode == 0 and "every file is as manifest.json says" in before.stdout
    picture = folder / "images/test/0.png"
    kept = picture.read_bytes()
    picture.write_bytes(kept + b" ")
    after = command(outputs, "cddpm_core", "verify", "--run", "smoke")
    picture.write_bytes(kept)
    assert after.returncode == 2 and after.stdout == "images/test/0.png: has changed\n"
    assert "Error: " in after.stderr and "Traceback" not in after.stderr


def test_leaves_what_other_tools_rely_on(smoke):
    folder, _ = smoke
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["data"]["kind"] == "rendered"
    assert metrics["evaluator"]["kind"] == "stand-in"
    for part, key in [("evaluator", "heldout_micro"), ("test", "micro"), ("test", "macro"),
                      ("new_test", "micro"), ("new_test", "macro")]:
        assert 0 <= metrics[part][key] <= 1
    assert metrics["train"]["images_per_second"] > 0 and metrics["train"]["seconds"] > 0
    assert metrics["sample"]["images_per_second"] > 0
    assert metrics["sample"]["num_inference_steps"] == 12
    assert metrics["total_seconds"] > 0
    expected = resolve({**read_yaml(ROOT / "params/smoke.yaml"), "run": "smoke"})
    assert resolve(read_yaml(folder / "params.yaml")) == expected
    status = json.loads((folder / "status.json").read_text())
    assert {name: s["state"] for name, s in status["stages"].items()} == dict.fromkeys(
        STAGES, "done")
    for name in ("test", "new_test"):
        assert len(list((folder / "images" / name).glob("*.png"))) == 32
    for path in ["history.jsonl", "model/unet/config.json",
                 "model/unet/diffusion_pytorch_model.safetensors",
                 "model/scheduler/scheduler_config.json", *(f"{name}.ipynb" for name in STAGES)]:
        assert (folder / path).stat().st_size > 0
    assert list((folder / "figures").glob("*.png"))
    assert (folder / "report.html").read_text().lstrip().lower().startswith("<!doctype html")
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF-")
    assert not [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".part"))]


def test_finished_stages_are_not_computed_again(smoke, outputs):
    folder, _ = smoke
    before = {name: (folder / f"{name}.ipynb").stat().st_mtime_ns for name in STAGES}
    again = command(outputs, "cddpm_core", "report", "--params", "params/smoke.yaml")
    assert again.returncode == 0
    assert again.stdout.count("finished before") == len(STAGES)
    assert before == {name: (folder / f"{name}.ipynb").stat().st_mtime_ns for name in STAGES}


def test_a_changed_parameter_runs_again_only_what_depends_on_it(smoke, outputs):
    again = command(outputs, "cddpm_core", "stage", "denoise", "--params", "params/smoke.yaml",
                    "-p", "denoise_steps", "10")
    assert again.returncode == 0, again.stderr[-2000:]
    assert again.stdout.count("finished before") == 2
    assert "denoise: done" in again.stdout


def test_an_experiment_stays_in_the_report_until_the_training_is_another(smoke, outputs):
    again = command(outputs, "cddpm_core", "report", "--params", "params/smoke.yaml",
                    "-p", "experiments", "[]")
    assert again.returncode == 0, again.stderr[-2000:]
    assert "left out" not in again.stdout and "sampling: " not in again.stdout
    assert "Fréchet distance" in (outputs / "smoke/report.html").read_text()
    assert "The best is" in (outputs / "smoke/report.html").read_text()
    metrics = json.loads((outputs / "smoke/metrics.json").read_text())
    assert len(metrics["sampling"]["arms"]) == 4 and len(metrics["timesteps"]["arms"]) == 2
    changed = command(outputs, "cddpm_core", "report", "--params", "params/smoke.yaml",
                      "-p", "experiments", "[]", "-p", "candidates", "1")
    assert changed.returncode == 0, changed.stderr[-2000:]
    for name in EXPERIMENTS:
        assert f"{name}: not finished, or not of this training and sampler; left" in changed.stdout
        assert not list((outputs / "smoke/figures").glob(f"{name}_*.png"))
    metrics = json.loads((outputs / "smoke/metrics.json").read_text())
    assert not {"sampling", "timesteps"} & set(metrics) and "analyse" in metrics
    assert "has not been run yet" in (outputs / "smoke/report.html").read_text()


def test_papermill_alone_runs_a_notebook_into_the_folder_it_is_given(smoke, outputs):
    target = outputs / "mine/data.ipynb"
    target.parent.mkdir()
    done = command(outputs, "papermill", "notebooks/data.ipynb", target,
                   "-f", "params/smoke.yaml", "-p", "epochs", 3)
    assert done.returncode == 0, done.stderr[-2000:]
    assert read_yaml(target.parent / "params.yaml")["epochs"] == 3
    assert json.loads((target.parent / "metrics.json").read_text())["data"]["images"] == 360


def test_data_notebook_compares_and_leaves_out_as_asked(smoke, outputs):
    shown = next((outputs / "cache/data").glob("heldout-*"))
    (outputs / "asked").mkdir()
    done = command(outputs, "papermill", "notebooks/data.ipynb", outputs / "asked/data.ipynb",
                   "-f", "params/smoke.yaml", "-p", "reference", shown,
                   "-p", "holdout", "test_conditions")
    assert done.returncode == 0, done.stderr[-3000:]
    data = json.loads((outputs / "asked/metrics.json").read_text())["data"]
    assert data["left_out"] > 0 and data["images"] + data["left_out"] == 360
    assert data["overlap"] == {name: {"sets": 32, "seen": 0} for name in ("test", "new_test")}
    assert [len(frame["objects"]) for frame in data["reference"]] == [1, 2, 3, 1, 2, 3]
    assert max(frame["difference"] for frame in data["reference"]) < 1
    assert (outputs / "asked/figures/data_reference.png").exists()


def test_papermill_alone_fails_on_a_mistyped_parameter(outputs):
    target = outputs / "other/data.ipynb"
    target.parent.mkdir()
    done = command(outputs, "papermill", "notebooks/data.ipynb", target,
                   "-f", "params/smoke.yaml", "-p", "epochz", 3)
    assert done.returncode != 0
    assert "unknown parameter 'epochz' (did you mean 'epochs'?)" in done.stderr


def test_real_data_and_the_official_evaluator_are_named_as_such(outputs, tmp_path):
    """Made-up files in the real layout: 320x240 RGBA images and weights of the lab's shape."""
    labels = json.loads((ROOT.parent / "shared/lab/train.json").read_text()) if (
        ROOT.parent / "shared/lab/train.json").exists() else {
        f"CLEVR_train_{i:06d}_0.png": [name] for i, name in enumerate(OBJECTS)}
    labels = dict(list(labels.items())[:40])
    (tmp_path / "iclevr").mkdir()
    for index, name in enumerate(labels):
        Image.new("RGBA", (320, 240), (100 + index, 90, 80, 255)).save(tmp_path / "iclevr" / name)
    (tmp_path / "train.json").write_text(json.dumps(labels))
    checkpoint = tmp_path / "checkpoint.pth"
    torch.save({"model": build_resnet18().state_dict()}, checkpoint)
    done = command(outputs, "cddpm_core", "stage", "analyse", "--params", "params/smoke.yaml",
                   "--run", "real", "--data", tmp_path, "--evaluator", checkpoint)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json.loads((outputs / "real/metrics.json").read_text())
    assert metrics["data"]["kind"] == "real" and metrics["data"]["images"] == len(labels)
    assert metrics["evaluator"]["kind"] == "official"
    assert metrics["evaluator"]["known"] is False
    assert metrics["evaluator"]["heldout_micro"] is None
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert metrics["evaluator"]["sha256"] == sha256


def test_needs_come_in_the_order_of_the_pipeline():
    assert with_needs("denoise") == ["data", "train", "denoise"]
    assert with_needs("report") == list(STAGES)
    assert with_needs("report", []) == [name for name in STAGES if name not in EXPERIMENTS]
    assert with_needs("sampling", []) == ["data", "train", "evaluate", "sampling"]
