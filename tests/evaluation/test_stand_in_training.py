"""Training the stand-in evaluator: that it repeats, and that it learns."""

from __future__ import annotations

import torch

from cddpm_core.evaluation.stand_in_training import train_stand_in


def test_training_repeats_for_a_seed() -> None:
    first, again = (train_stand_in(seed=0, num_images=40, epochs=1, batch_size=20,
                                   heldout_images=20, progress=False) for _ in range(2))
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2)
    for weight in first.model.parameters():
        if weight.ndim > 1:  # as they are stored
            assert torch.equal(weight, weight.bfloat16().float())
    assert first.kind == "stand-in" and first.heldout["images"] == 20
    assert set(first.heldout) == {"images"} | {
        prefix + key for prefix in ("", "crowded_")
        for key in ("micro", "macro", "augmented_micro")}
