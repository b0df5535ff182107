"""Training the stand-in evaluator: that it repeats, and how accurate it becomes."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from conftest import SHARED
from PIL import Image

from cddpm_core.config.schema import Params
from cddpm_core.data.images import to_float
from cddpm_core.evaluation.score import score
from cddpm_core.evaluation.stand_in_training import train_stand_in

REAL_OBJECTS = ("purple sphere", "brown cylinder", "red sphere", "brown cube", "blue cylinder")


def test_training_repeats_for_a_seed() -> None:
    first, again = (train_stand_in(seed=0, num_images=40, epochs=1, batch_size=20,
                                   heldout_images=20, progress=False) for _ in range(2))
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2)
    assert first.kind == "stand-in" and first.heldout["images"] == 20
    assert set(first.heldout) == {"images"} | {
        prefix + key for prefix in ("", "crowded_")
        for key in ("micro", "macro", "augmented_micro")}


@pytest.mark.skipif(
    os.environ.get("CDDPM_SLOW") != "1", reason="trains for minutes; set CDDPM_SLOW=1 to run it"
)
def test_the_stand_in_is_accurate() -> None:
    params = Params()
    evaluator = train_stand_in(num_images=params.evaluator_images, epochs=params.evaluator_epochs,
                               progress=False)
    assert evaluator.heldout["micro"] >= 0.99 and evaluator.heldout["macro"] >= 0.99
    assert evaluator.heldout["augmented_micro"] >= 0.97
    files = [SHARED / f"reference/real_seq_{i}_320x240.png" for i in range(5)]
    if not files[0].exists():
        pytest.skip("no real i-CLEVR scene in ../shared/reference")
    small = [
        Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
        for file in files
    ]
    result = score(evaluator(to_float(np.stack(small))), [REAL_OBJECTS[: k + 1] for k in range(5)])
    assert result["objects"] == 15 and result["micro"] == 1.0
