"""The augmentation of the stand-in's training images."""

from __future__ import annotations

import torch

from cddpm_core.evaluation.augmentation import augment, move


def test_augmentation_stays_in_range_and_repeats(images: torch.Tensor) -> None:
    first, again, other = (
        augment(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == images.shape and first.abs().max() <= 1
    torch.testing.assert_close(first, again)
    assert not torch.equal(first, other)


def test_centres_move_with_the_image() -> None:
    images, centres = torch.full((16, 3, 64, 64), -1.0), torch.full((16, 2, 2), float("nan"))
    images[:, :, 20:24, 40:44] = 1.0
    centres[:, 0] = torch.tensor([42.0, 22.0])
    moved, positions = move(images, centres, torch.Generator().manual_seed(0))
    for image, position in zip(moved, positions, strict=True):
        rows, columns = torch.nonzero(image[0] > 0.5, as_tuple=True)
        spot = torch.stack([columns.float().mean() + 0.5, rows.float().mean() + 0.5])
        torch.testing.assert_close(spot, position[0], atol=0.8, rtol=0)
        assert position[1].isnan().all()
