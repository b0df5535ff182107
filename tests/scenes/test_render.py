"""The renderer: compared with a real scene, if there is one, and with the physics of light."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image

from cddpm_core.data.labels import COLOURS, OBJECTS, SHAPES
from cddpm_core.scenes.render import (
    HEIGHT,
    RADIUS,
    WIDTH,
    project,
    render_frames,
    visible_pixels,
)

REFERENCE = SHARED / "reference"
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "real_seq_4_320x240.png").exists(),
    reason="no real i-CLEVR scene in ../shared/reference",
)
# The objects of the real scene, at the positions fitted to their silhouettes.
SCENE = (
    ("purple sphere", 0.0, -0.018, 0.0),
    ("brown cylinder", 3.852, -0.370, 0.0),
    ("red sphere", -2.598, -1.499, 0.0),
    ("brown cube", -2.828, 1.838, 0.111),
    ("blue cylinder", 1.195, -3.488, 0.0),
)


@pytest.fixture(scope="module")
def ours() -> np.ndarray:
    return render_frames(SCENE, first=1).astype(float)


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    files = [REFERENCE / f"real_seq_{i}_320x240.png" for i in range(len(SCENE))]
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]).astype(float)


def squash(frame: np.ndarray) -> np.ndarray:
    image = Image.fromarray(frame.astype(np.uint8))
    return np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)).astype(float)


def silhouettes(frames: np.ndarray) -> list[np.ndarray]:
    """Return each object's mask: the coloured pixels that its frame changed."""
    masks = []
    for i, frame in enumerate(frames):
        coloured = np.ptp(frame, axis=-1) > 25
        new = np.abs(frame - frames[i - 1]).max(-1) > 14 if i else True
        masks.append(_largest(coloured & new))
    return masks


def _largest(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_opening, label

    parts, count = label(binary_opening(mask))
    sizes = [(parts == k).sum() for k in range(1, count + 1)]
    return parts == 1 + int(np.argmax(sizes))


def box(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@needs_reference
def test_difference_from_the_real_frames_at_64(ours: np.ndarray, real: np.ndarray) -> None:
    inside = np.zeros((HEIGHT, WIDTH))
    for frame, truth, mask in zip(ours, real, silhouettes(real), strict=True):
        left, top, right, bottom = box(mask)
        inside[top:bottom, left:right] = 255
        difference = np.abs(squash(frame) - squash(truth))
        assert difference.mean() < 6
        assert difference[squash(inside) > 127].mean() < 15


@needs_reference
def test_statistics_are_those_of_the_real_frames(ours: np.ndarray, real: np.ndarray) -> None:
    for frame, truth in zip(ours, real, strict=True):
        a, b = squash(frame), squash(truth)
        np.testing.assert_allclose(a.mean((0, 1)), b.mean((0, 1)), rtol=0.1)
        np.testing.assert_allclose(a.std((0, 1)), b.std((0, 1)), rtol=0.1)


@needs_reference
def test_objects_have_the_real_sizes_positions_and_colours(
    ours: np.ndarray, real: np.ndarray
) -> None:
    masks = zip(silhouettes(ours), silhouettes(real), strict=True)
    for frame, truth, (mask, true_mask) in zip(ours, real, masks, strict=True):
        a, b = box(mask), box(true_mask)
        np.testing.assert_allclose(a[2:] - a[:2], b[2:] - b[:2], rtol=0.1)
        assert np.abs(a - b).max() <= 4
        np.testing.assert_allclose(frame[mask].mean(0), truth[true_mask].mean(0), rtol=0.1)


def test_first_object_stands_at_the_image_centre() -> None:
    u, v = project(np.zeros(1), np.zeros(1), np.full(1, RADIUS))
    assert u[0] * 64 / WIDTH == pytest.approx(32, abs=0.5)
    assert v[0] * 64 / HEIGHT == pytest.approx(27.5, abs=0.5)


def test_background_levels_are_the_known_ones() -> None:
    empty = render_frames([("red cube", 0.0, 2000.0, 0.0)])[0].astype(float)
    assert empty[:10].mean() == pytest.approx(104, abs=4)
    np.testing.assert_allclose(empty[-8:, 230:250].mean((0, 1)), (158, 155, 150), atol=8)
    left = empty[95:120, :25].mean((0, 1))
    assert left[2] > left[0] + 5  # the fill lamp's patch is bluish


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_has_its_own_colour(name: str) -> None:
    frame = render_frames([(name, 0.0, 0.0, 0.3)])[0].astype(float)
    middle = frame[98:112, 154:166].mean((0, 1))
    others = {}
    for colour in COLOURS:
        other = render_frames([(f"{colour} {name.split()[1]}", 0.0, 0.0, 0.3)])[0].astype(float)
        others[colour] = np.abs(other[98:112, 154:166].mean((0, 1)) - middle).sum()
    assert sorted(others, key=others.get)[0] == name.split()[0]
    assert sorted(others.values())[1] > 15


@pytest.mark.parametrize("shape", SHAPES)
def test_an_object_darkens_the_ground_and_nothing_far_away(shape: str) -> None:
    empty = render_frames([("red cube", 0.0, 2000.0, 0.0)])[0].astype(int)
    frame = render_frames([(f"gray {shape}", 0.0, 0.0, 0.0)])[0].astype(int)
    assert (frame[:60] == empty[:60]).all()
    below = np.s_[126:132, 140:180]
    assert frame[below].mean() < empty[below].mean() - 3


def test_the_nearer_object_hides_the_farther_in_any_order() -> None:
    near, far = ("red cube", 0.0, -2.0, 0.2), ("green cube", 0.0, 1.5, 0.2)
    one, other = render_frames([near, far])[0], render_frames([far, near])[0]
    assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
    seen, whole = visible_pixels([near, far])
    assert seen[0] == whole[0] and seen[1] < whole[1]


def test_frames_grow_by_one_object_and_leave_the_first_untouched() -> None:
    frames = render_frames(SCENE, first=1)
    assert frames.shape == (5, HEIGHT, WIDTH, 3) and frames.dtype == np.uint8
    for k in range(5):
        np.testing.assert_array_equal(frames[k], render_frames(SCENE[: k + 1])[0])


def test_sphere_is_taller_than_wide_once_squashed() -> None:
    frame = render_frames([("red sphere", 0.0, 0.0, 0.0)])[0]
    left, top, right, bottom = box(_largest(np.ptp(squash(frame), axis=-1) > 25))
    assert (bottom - top) / (right - left) == pytest.approx(4 / 3, rel=0.2)
