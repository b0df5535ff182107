import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from cddpm_core import evaluation, standin
from cddpm_core.presets import to_yaml
from cddpm_core.runs import Run
from cddpm_core.sources import data_source
from cddpm_core.train import train_run
from cddpm_core.trainer import read_checkpoint

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
# --multi_gpu is what starts several processes on one machine, whatever they compute on.
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes=2",
              "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no",
              "--main_process_port=0"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """An outputs folder with the data and an evaluator of little use in its cache."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def params(tiny, outputs, monkeypatch):
    monkeypatch.setattr(standin, "HELDOUT_IMAGES", 20)
    monkeypatch.setenv("CDDPM_OUTPUTS", str(outputs))
    params = tiny.replace(run="one", num_scenes=12, heldout_scenes=1, epochs=12, evaluate_every=6,
                          evaluator_images=64, evaluator_epochs=1, batch_size=8,
                          experiment_epochs=0, muon_learning_rate=0.002)
    run = Run("one", outputs=outputs)
    data_source(params, run)
    evaluation.get_evaluator(params, run)
    return params


def in_two_processes(launcher, params, folder):
    """Train in two processes that share the work by gloo; return what they printed."""
    file = folder / "params.yaml"
    file.write_text(to_yaml(params))
    done = subprocess.run([sys.executable, "-m", *launcher, "-m", "cddpm_core.train",
                           "--params", str(file)], cwd=ROOT, text=True, capture_output=True,
                          timeout=300)
    return done.returncode, done.stdout + done.stderr


def assert_alike(one: Run, two: Run):
    """Two runs went the same way, but for rounding."""
    a, b = (read_checkpoint(run / "checkpoint.pt") for run in (one, two))
    assert a["step"] == b["step"] == 54
    start = sum(weight.norm() for weight in a["model"].values())
    moved = sum((a["model"][key] - b["model"][key]).norm() for key in a["model"])
    assert moved < 2e-3 * start
    grids = [np.asarray(Image.open(run / "figures/progress/epoch_006.png")).astype(int)
             for run in (one, two)]
    assert np.abs(grids[0] - grids[1]).mean() < 1
    first, second = ([line for line in run.history() if "test" in line] for run in (one, two))
    assert [line["step"] for line in first] == [line["step"] for line in second]
    for x, y in zip(first, second, strict=True):
        # In images of so short a training, rounding tips an object or two of 72.
        assert x["test"]["micro"] == pytest.approx(y["test"]["micro"], abs=0.06)


def test_two_processes_train_as_one_does_also_when_their_number_changes(params, outputs, tmp_path):
    assert train_run(params)["finished"]
    one = Run("one", outputs=outputs)
    code, said = in_two_processes(ACCELERATE, params.replace(run="two"), tmp_path)
    assert code == 0, said
    assert said.count("training:   0%") == 1  # one progress bar, of the first process
    two = Run("two", outputs=outputs)
    assert_alike(one, two)
    first, second = ([line for line in run.history() if "loss" in line] for run in (one, two))
    assert [line["step"] for line in first] == [line["step"] for line in second] == [25, 50, 54]
    assert [line["loss"] for line in first] == pytest.approx([line["loss"] for line in second],
                                                             rel=1e-3)
    half = params.replace(run="changed", max_steps=5)
    code, said = in_two_processes(TORCHRUN, half, tmp_path)
    assert code == 0, said
    assert read_checkpoint(outputs / "changed/checkpoint.pt")["step"] == 5
    assert train_run(half.replace(max_steps=0, gradient_accumulation_steps=3))["finished"]
    changed = Run("changed", outputs=outputs)
    assert_alike(one, changed)
    assert [line["step"] for line in changed.history()] == [5, 25, 27, 50, 54]


def test_the_train_notebook_launches_them_by_a_parameter(params, outputs, tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(to_yaml(params.replace(run="notebook", epochs=2, num_processes=2)))
    done = subprocess.run([sys.executable, "-m", "cddpm_core", "stage", "train", "--params",
                           str(file)], cwd=ROOT, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "training: 100%" in done.stderr
    run = Run("notebook", outputs=outputs)
    assert read_checkpoint(run / "checkpoint.pt")["step"] == 9
    assert run.read("metrics.json")["train"]["finished"]


def test_more_processes_than_images_are_one_sentence(params, tmp_path):
    code, said = in_two_processes(TORCHRUN, params.replace(run="few", batch_size=1), tmp_path)
    assert code != 0
    assert "Error: batch_size: expected at least one image for each of the 2 processes" in said


def test_a_fault_of_the_first_process_alone_ends_them_all(params, outputs, tmp_path):
    (outputs / "held").mkdir()
    hold = ("import sys, time; from cddpm_core.lock import locked\n"
            "with locked(sys.argv[1]): print('held', flush=True); time.sleep(300)")
    holder = subprocess.Popen([sys.executable, "-c", hold, str(outputs / "held")],
                              stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    code, said = in_two_processes(TORCHRUN, params.replace(run="held"), tmp_path)
    holder.kill()
    assert code != 0 and f"in use by process {holder.pid}" in said
    assert not (outputs / "held/checkpoint.pt").exists()


SAMPLE = """
import sys, torch
from accelerate import Accelerator
from cddpm_core import ConditionDataset, image_seeds, load_trained, sample
from cddpm_core.runs import Run
run = Run("one")
accelerator = Accelerator(cpu=True)
for count in (7, 1):
    images = sample(*load_trained(run, run.params()), ConditionDataset("test").labels[:count],
                    image_seeds(0, count), sampler="sde_dpm_solver++", num_inference_steps=5,
                    guidance_scale=2, batch_size=3, accelerator=accelerator)
    if accelerator.is_main_process:
        torch.save(images, f"{sys.argv[1]}/{accelerator.num_processes}_{count}.pt")
accelerator.end_training()
"""


def test_images_drawn_by_two_processes_are_those_of_one(params, tmp_path):
    train_run(params)
    script = tmp_path / "draw.py"
    script.write_text(SAMPLE)
    for command in ([], ["-m", *TORCHRUN]):
        subprocess.run([sys.executable, *command, str(script), str(tmp_path)], cwd=ROOT, check=True,
                       timeout=300)
    for count in (7, 1):
        one, two = (torch.load(tmp_path / f"{n}_{count}.pt", weights_only=True) for n in (1, 2))
        assert one.shape == (count, 3, 64, 64)
        assert torch.allclose(one, two, atol=1e-4)
