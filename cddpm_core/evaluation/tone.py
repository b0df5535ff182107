"""The tone of images, judged by the ground: whether it was changed after they were generated.

Every i-CLEVR image shows the same gray ground, darker at the top. So its brightness from top to
bottom tells how the levels of an image were changed. ``make_grid(normalize=True)`` stretches them
until the darkest value of the grid is 0 and the brightest 255, where real frames lie between 25
and 190: the ground becomes brighter by 20 to 40 levels, and such images are no longer those that
were scored. `set_back` undoes that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["GROUND", "Tone", "read_tone", "set_back"]

# Levels of 255 of the ground, from top to bottom in eighths of the height: medians over 96 frames
# that CLEVR's generator rendered, each third of them with lamps of its own.
GROUND = np.array([105.0, 106.4, 118.5, 128.1, 128.5, 131.6, 136.4, 140.8])
# By how much the mean of these may differ, and the contrast by which factor. A single frame is up
# to 7 levels away and its contrast between 0.8 and 1.6.
MAX_AWAY, MAX_CONTRAST = 12.0, 2.0
MAX_MISFIT = 6.0  # levels, after the best change of contrast and brightness: else it is no ground


@dataclass(frozen=True)
class Tone:
    """The tone of a set of images.

    ``kind`` is ``plain``; ``stretched`` to the range of all images; ``stretched each``, to its own
    range; ``other``, changed in another way; or ``unknown``, without the ground of i-CLEVR.
    ``ground`` is the mean level of the ground, of 255. ``contrast`` is relative to real frames.
    """

    kind: str
    ground: float
    contrast: float


def read_tone(images: np.ndarray) -> Tone:
    """Return the tone of uint8 images (N, H, W, 3)."""
    bands = _bands(images)
    scale, shift = _fit(bands)
    misfit = np.abs(scale * bands + shift - GROUND).mean()
    contrast = 1 / max(scale, 1e-3)
    low, high = images.min((1, 2, 3)), images.max((1, 2, 3))
    usual = (abs(bands.mean() - GROUND.mean()) <= MAX_AWAY
             and 1 / MAX_CONTRAST <= contrast <= MAX_CONTRAST)
    # A JPEG's extremes may be 2 levels off.
    if misfit > MAX_MISFIT or scale <= 0:
        kind = "unknown"
    elif usual:
        kind = "plain"
    elif len(images) > 1 and ((low <= 2) & (high >= 253)).mean() >= 0.9:
        kind = "stretched each"
    elif low.min() <= 2 and high.max() >= 253:
        kind = "stretched"
    else:
        kind = "other"
    return Tone(kind, float(bands.mean()), float(contrast))


def set_back(images: np.ndarray, *, each: bool = False) -> np.ndarray:
    """Return uint8 images (N, H, W, 3) with the contrast and brightness that give the ground
    its usual tone, as float32 levels in [0, 255]; ``each`` image by itself, or all alike."""
    parts = np.split(images, len(images)) if each else [images]
    changed = [np.polyval(_fit(_bands(part)), part.astype(np.float32)) for part in parts]
    return np.concatenate(changed).clip(0, 255).astype(np.float32)


def _bands(images: np.ndarray) -> np.ndarray:
    """The median of each row over images, columns and channels, as 8 means from top to bottom."""
    rows = np.median(images.transpose(1, 0, 2, 3).reshape(images.shape[1], -1), axis=1)
    return np.array([part.mean() for part in np.array_split(rows, len(GROUND))])


def _fit(bands: np.ndarray) -> tuple[float, float]:
    """The factor and the summand that bring bands nearest to `GROUND`."""
    if np.ptp(bands) < 1:
        return 0.0, float(GROUND.mean())
    scale, shift = np.polyfit(bands, GROUND, 1)
    return float(scale), float(shift)
