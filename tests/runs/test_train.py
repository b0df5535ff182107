import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import load_file

from cddpm_core.config.errors import UserError
from cddpm_core.config.presets import to_yaml
from cddpm_core.evaluation.evaluator import Evaluator, ResNet18
from cddpm_core.runs.archive import RECORD
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.runs.session import Session
from cddpm_core.runs.train import (
    early_variant,
    launch,
    periodic_evaluation,
    train_run,
    train_session,
)
from cddpm_core.training.checkpoint import read_checkpoint
from cddpm_core.training.loop import train

WEIGHTS = "model/unet/diffusion_pytorch_model.safetensors"

# --multi_gpu is what starts several processes on one machine, whatever they compute on.
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
              "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no",
              "--main_process_port=0"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """An outputs folder."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def params(tiny, outputs, rendered, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(outputs))
    return tiny.replace(run="one", data=str(rendered), epochs=4, evaluate_every=2,
                        experiment_epochs=0, muon_learning_rate=0.002)


def assert_alike(one: Run, two: Run):
    """Two trainings are the same but for rounding."""
    a, b = (read_checkpoint(run / "checkpoint.pt") for run in (one, two))
    assert a["step"] == b["step"] == 18
    first, second = (state["parts"]["model"] for state in (a, b))
    start = sum(weight.norm() for weight in first.values())
    assert sum((first[key] - second[key]).norm() for key in first) < 2e-3 * start
    grids = [np.asarray(Image.open(run / "figures/progress/epoch_002.png")).astype(int)
             for run in (one, two)]
    assert np.abs(grids[0] - grids[1]).mean() < 1
    assert one.read("metrics.json")["train"]["finished"]


def test_a_session_trains_once_and_then_has_the_model(params, outputs, rendered, tmp_path):
    session = Session(Run("session"), params)
    result = train_session(session)
    assert result["finished"] and session.run.read("metrics.json")["train"] == result
    assert session.run.read(RECORD)["data"]["count"] == 36
    first = session.pipeline
    link = tmp_path / "link"
    link.symlink_to(rendered)
    again = Session(session.run, params.replace(data=str(link)))  # the same data
    seen = []
    assert train_session(again, watch=seen.append)["steps"] == result["steps"] and not seen
    train_session(session)
    assert session.pipeline is not first  # it is loaded anew


def test_two_processes_train_as_one_does_and_their_number_may_change(params, tmp_path):
    assert train_run(params)["finished"]
    params = params.replace(run="two", max_steps=9, report_to="tensorboard")
    file = tmp_path / "params.yaml"
    file.write_text(to_yaml(params))
    done = subprocess.run([sys.executable, "-m", *ACCELERATE, "-m", "cddpm_core", "train",
                           "--params", str(file)], cwd=ROOT, text=True, capture_output=True,
                          timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training:   0%") == 1  # one progress bar, of the first process
    assert Run("two").read("metrics.json")["train"]["steps"] == 9
    assert len(list((Run("two") / "tensorboard").iterdir())) == 1  # of the first process
    assert train_run(params.replace(max_steps=0, gradient_accumulation_steps=3))["finished"]
    assert_alike(Run("one"), Run("two"))


def test_the_fault_of_a_process_is_that_of_the_training(params, monkeypatch, tmp_path):
    launcher = tmp_path / "python"
    launcher.write_text("#!/bin/sh\necho 'Error: loss: too high'\necho 'what torch says'\nexit 1\n")
    launcher.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(launcher))
    with pytest.raises(UserError, match="^loss: too high$"):
        launch(Run("faulty"), params.replace(num_processes=2))
    launcher.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(UserError, match="2 processes ended with exit code 3; the same command"):
        launch(Run("faulty"), params.replace(num_processes=2))


def test_the_variant_that_is_kept_is_the_training_stopped_there(tiny, dataset, tmp_path):
    params = tiny.replace(evaluate_every=1, experiment_epochs=1, ema_decay=0.5)
    evaluator = Evaluator(ResNet18(), "stand-in", "0" * 64)
    whole, stopped = Run("whole", outputs=tmp_path), Run("stopped", outputs=tmp_path)
    train(params, dataset, whole.folder, evaluate=periodic_evaluation(
        whole, params, dataset, evaluator))
    kept = early_variant(whole, params, 1)
    steps = -(-len(dataset) // params.batch_size)
    result = train(params.replace(max_steps=steps), dataset, stopped.folder)
    assert result["steps"] == steps and not result["finished"]
    first, second, final = (load_file(run / WEIGHTS) for run in (kept, stopped, whole))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], final[key]) for key in first)
    scored = [line for line in whole.history() if "test" in line]
    assert [line["step"] for line in scored] == [steps]
    assert all(line["test"]["sharpness"] > 0 for line in scored)
    assert (whole / "figures/progress/epoch_001.png").exists()


def test_nothing_is_kept_if_none_is_asked_for(tiny, dataset, run):
    params = tiny.replace(evaluate_every=1, experiment_epochs=0)
    evaluator = Evaluator(ResNet18(), "stand-in", "0" * 64)
    train(params, dataset, run.folder, evaluate=periodic_evaluation(
        run, params, dataset, evaluator))
    assert not (run / "timesteps").exists()
