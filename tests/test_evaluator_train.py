"""``evaluator train``: where a stand-in is written, and what is said of it."""

import json
import os

import pytest
import torch

from cddpm_core.__main__ import main
from cddpm_core.evaluation import stand_in, stand_in_training
from cddpm_core.evaluation.evaluator import Evaluator
from cddpm_core.evaluation.stand_in import StandInNetwork, load_evaluator, load_stand_in
from cddpm_core.runs.run import OUTPUTS

COMMAND = ["evaluator", "train", "--images", "40", "--epochs", "1", "--seed", "3", "--device",
           "cpu"]


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture
def untrained(monkeypatch):
    """The options of each training, which only initialises the network."""
    calls = []

    def train(**options):
        calls.append(options)
        return Evaluator(StandInNetwork(), "stand-in", "", heldout={"micro": 0.25, "images": 40})

    monkeypatch.setattr(stand_in_training, "train_stand_in", train)
    return calls


def test_a_private_one_is_trained_and_the_command_says_how_to_use_it(outputs, capsys):
    assert main(COMMAND) == 0
    path = outputs / "evaluator/seed3.safetensors"
    said = capsys.readouterr().out
    assert said.endswith(f"use it with -p evaluator {os.path.relpath(path)}\n")
    found = load_evaluator(path)
    assert not found.known and f"micro {found.heldout['micro']:.4f} on held-out scenes" in said


def test_it_goes_where_it_is_asked_to(tmp_path, outputs, untrained, capsys):
    path = tmp_path / "new/mine.safetensors"
    assert main([*COMMAND, "--out", str(path)]) == 0
    assert load_stand_in(path).heldout == {"micro": 0.25, "images": 40}
    assert untrained == [{"seed": 3, "num_images": 40, "epochs": 1,
                          "device": torch.device("cpu")}]
    assert not outputs.exists()


def test_a_release_replaces_weights_and_card(tmp_path, untrained, monkeypatch, capsys):
    weights, card = tmp_path / "weights.safetensors", tmp_path / "card.json"
    for name, path in (("WEIGHTS", weights), ("CARD", card)):
        monkeypatch.setattr(stand_in, name, path)
    assert main([*COMMAND, "--release"]) == 0
    assert capsys.readouterr().out.endswith("all runs use it now\n")
    about = json.loads(card.read_text())
    assert about["sha256"] == load_stand_in(weights).sha256
    assert about["command"] == "python -m cddpm_core " + " ".join(
        ["evaluator train", "--seed 3", "--images 40", "--epochs 1"])
    assert about["recipe"] == {"seed": 3, "num_images": 40, "epochs": 1}
    assert about["heldout"] == {"micro": 0.25, "images": 40} and about["seconds"] >= 0
    assert about["made_with"]["machine"] and about["made_with"]["commit"]


@pytest.mark.parametrize(("options", "words"), [
    (["--out", "mine.pth"], "--out: expected a file *.safetensors, found mine.pth"),
    (["--out", "a.safetensors", "--release"], "--out: expected none with --release"),
    (["--device", "tpu"], "device"), (["--epochs", "0"], "--epochs")])
def test_a_mistake_is_named_before_the_training(untrained, capsys, options, words):
    assert main([*COMMAND, *options]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and not untrained
