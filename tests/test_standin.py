"""The stand-in evaluator: training, its cache, and what it names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cddpm_core import standin as module
from cddpm_core.evaluator import score
from cddpm_core.standin import stand_in, train_stand_in

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
REAL_OBJECTS = ("purple sphere", "brown cylinder", "red sphere", "brown cube", "blue cylinder")
TINY = {"seed": 0, "num_images": 40, "epochs": 1, "batch_size": 20, "progress": False}


@pytest.fixture
def small_heldout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELDOUT_IMAGES", 20)


def test_stand_in_trains_and_is_cached(
    tmp_path: Path, images: torch.Tensor, small_heldout: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = stand_in(tmp_path, **TINY)
    assert trained.kind == "stand-in"
    assert set(trained.heldout) == {"images"} | {
        prefix + key for prefix in ("", "crowded_")
        for key in ("micro", "macro", "augmented_micro")}
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "evaluator.json",
        "evaluator.safetensors",
    ]
    monkeypatch.setattr(module, "train_stand_in", pytest.fail)
    cached = stand_in(tmp_path, **TINY)
    assert cached.sha256 == trained.sha256 and cached.heldout == trained.heldout
    torch.testing.assert_close(cached(images), trained(images))


def test_training_repeats_for_a_seed(small_heldout: None) -> None:
    first, again = (train_stand_in(**TINY) for _ in range(2))
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("file", ["evaluator.safetensors", "evaluator.json"])
def test_a_damaged_cache_is_trained_again(
    tmp_path: Path, small_heldout: None, file: str
) -> None:
    trained = stand_in(tmp_path, **TINY)
    (folder,) = tmp_path.iterdir()
    (folder / file).write_bytes((folder / file).read_bytes()[:-100])
    with pytest.warns(UserWarning, match="damaged.*to be trained again"):
        again = stand_in(tmp_path, **TINY)
    assert set(again.heldout) == set(trained.heldout)
    assert stand_in(tmp_path, **TINY).sha256 == again.sha256


@pytest.mark.skipif(
    os.environ.get("CDDPM_SLOW") != "1", reason="trains for minutes; set CDDPM_SLOW=1 to run it"
)
def test_the_stand_in_names_what_it_should() -> None:
    evaluator = train_stand_in(progress=False)
    assert evaluator.heldout["micro"] >= 0.99 and evaluator.heldout["macro"] >= 0.99
    assert evaluator.heldout["augmented_micro"] >= 0.97
    files = [REFERENCE / f"real_seq_{i}_320x240.png" for i in range(5)]
    if not files[0].exists():
        pytest.skip("no real i-CLEVR scene in ../shared/reference")
    small = [
        Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
        for file in files
    ]
    frames = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 127.5 - 1
    result = score(evaluator(frames), [REAL_OBJECTS[: k + 1] for k in range(5)])
    assert result["objects"] == 15 and result["micro"] == 1.0
