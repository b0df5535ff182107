"""The cache of the stand-in evaluator: when it is trained, and when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cddpm_core.evaluation import stand_in as module
from cddpm_core.evaluation.evaluator import Evaluator, build_resnet18
from cddpm_core.evaluation.stand_in import stand_in
from cddpm_core.evaluation.stand_in_training import plain_state

SETTINGS = {"seed": 0, "num_images": 40, "epochs": 1, "progress": False}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The settings of each training, which only initialises the network."""
    calls: list[dict] = []

    def train(**settings) -> Evaluator:
        calls.append(settings)
        model = build_resnet18()
        sha256 = module.hashlib.sha256(module.save_safetensors(plain_state(model))).hexdigest()
        return Evaluator(model, "stand-in", sha256, heldout={"micro": 0.5, "images": 40})

    monkeypatch.setattr(module, "train_stand_in", train)
    return calls


def test_a_stand_in_is_trained_once(tmp_path: Path, trained: list, images: torch.Tensor) -> None:
    assert stand_in(tmp_path, **SETTINGS, train=False) is None
    first, again = (stand_in(tmp_path, **SETTINGS) for _ in range(2))
    assert len(trained) == 1 and trained[0]["num_images"] == 40
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"evaluator.json", "evaluator.safetensors"}
    assert again.sha256 == first.sha256 and again.heldout == first.heldout
    torch.testing.assert_close(again(images), first(images))


@pytest.mark.parametrize("change", ["seed", "num_images", "epochs", "renderer", "code"])
def test_other_settings_or_code_train_another(
    tmp_path: Path, trained: list, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    stand_in(tmp_path, **SETTINGS)
    settings = {**SETTINGS, **({change: 50} if change in SETTINGS else {})}
    if change == "renderer":
        monkeypatch.setattr(module, "renderer_version", lambda: "other")
    if change == "code":
        monkeypatch.setattr(module, "code_hash", lambda *_: "other")
    assert stand_in(tmp_path, **settings, train=False) is None
    stand_in(tmp_path, **settings)
    assert len(trained) == 2 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("file", ["evaluator.safetensors", "evaluator.json"])
def test_a_damaged_cache_is_trained_again(tmp_path: Path, trained: list, file: str) -> None:
    stand_in(tmp_path, **SETTINGS)
    (folder,) = tmp_path.iterdir()
    (folder / file).write_bytes((folder / file).read_bytes()[:-100])
    with pytest.warns(UserWarning, match="damaged.*training it again"):
        again = stand_in(tmp_path, **SETTINGS)
    assert stand_in(tmp_path, **SETTINGS).sha256 == again.sha256 and len(trained) == 2
