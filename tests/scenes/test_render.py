"""The renderer: compared with Cycles, if its frames are there, and with the physics of light."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from conftest import SHARED
from PIL import Image

from cddpm_core.data.labels import COLOURS, OBJECTS, SHAPES
from cddpm_core.scenes.lamps import YAW
from cddpm_core.scenes.render import (
    HEIGHT,
    RADIUS,
    WIDTH,
    Lighting,
    object_box,
    project,
    render_frames,
    visible_pixels,
)
from cddpm_core.scenes.scene import scene_of

SCENE = (
    ("purple sphere", 0.0, 0.0, 0.0),
    ("brown cylinder", 3.2, -0.3, 0.0),
    ("red sphere", -2.2, -1.2, 0.0),
    ("brown cube", -2.3, 1.5, 0.111),
    ("blue cylinder", 1.0, -2.9, 0.0),
)
CYCLES = SHARED / "clevr"
needs_cycles = pytest.mark.skipif(not (CYCLES / "scenes.json").exists(),
                                  reason="no frames rendered by Cycles in ../shared/clevr")


def cycles_scene(number: int) -> tuple[list[tuple], np.ndarray]:
    """Return objects and lamps of a scene in ``../shared/clevr``, in the renderer's axes.

    Its positions were taken along axes turned by 0.8149, not by the camera's yaw.
    """
    scene = json.loads((CYCLES / "scenes.json").read_text())[number]
    turn = 0.81493 - YAW
    c, s = math.cos(turn), math.sin(turn)
    objects = [(name, c * x - s * y, s * x + c * y, rotation - YAW)
               for name, x, y, rotation in scene["objects"]]
    return objects, np.array([scene["lamps"][f"Lamp_{k}"] for k in ("Key", "Fill", "Back")])


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Frames by Cycles and by us, squashed to 64x64, and the mask of the objects' boxes."""
    found = []
    for number in range(32):
        objects, shift = cycles_scene(number)
        for k, ours in enumerate(render_frames(objects, first=1, lighting=Lighting(shift))):
            with Image.open(CYCLES / f"frames/{number:06d}_{k}.png") as picture:
                theirs = np.asarray(picture.convert("RGB"))
            boxes = np.zeros((HEIGHT, WIDTH, 3))
            for left, top, right, bottom in map(object_box, objects[: k + 1]):
                boxes[top:bottom, left:right] = 255
            found.append((squash(theirs), squash(ours), squash(boxes)[..., 0] > 127))
    return found


def squash(frame: np.ndarray) -> np.ndarray:
    image = Image.fromarray(frame.astype(np.uint8))
    return np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR)).astype(float)


def _largest(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_opening, label

    parts, count = label(binary_opening(mask))
    sizes = [(parts == k).sum() for k in range(1, count + 1)]
    return parts == 1 + int(np.argmax(sizes))


def box(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(mask)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@needs_cycles
def test_frames_are_those_of_cycles(pairs: list) -> None:
    whole = [np.abs(ours - theirs).mean() for theirs, ours, _ in pairs]
    boxes = [np.abs(ours - theirs)[mask].mean() for theirs, ours, mask in pairs]
    assert np.mean(whole) < 0.6 and max(whole) < 1.2
    assert np.mean(boxes) < 1.6 and max(boxes) < 3.5


@needs_cycles
def test_neither_ground_nor_objects_are_brighter_or_darker_than_by_cycles(pairs: list) -> None:
    for inside, bound in ((False, 0.2), (True, 0.9)):
        bias = [(ours - theirs)[mask == inside].mean(0) for theirs, ours, mask in pairs]
        assert np.abs(np.mean(bias, axis=0)).max() < bound


@needs_cycles
def test_scenes_differ_in_light_as_much_as_those_of_cycles(pairs: list) -> None:
    def spread(frames: list[np.ndarray], masks: list[np.ndarray]) -> float:
        empty = [np.where(mask[..., None], np.nan, frame)
                 for frame, mask in zip(frames, masks, strict=True)]
        return float(np.mean([np.nanmean(np.abs(a - b))
                              for i, a in enumerate(empty) for b in empty[:i]]))

    theirs = spread([t for t, _, _ in pairs[::3]], [mask for _, _, mask in pairs[::3]])
    objects = [scene_of(0, "spread", i, 1) for i in range(32)]
    frames = [squash(render_frames([], lighting=Lighting(scene.lamp_shift))[0])
              for scene in objects]
    ours = spread(frames, [np.zeros((64, 64), bool)] * 32)
    assert 3 < theirs < 4 and 3 < ours < 4


@needs_cycles
def test_the_grain_is_that_of_cycles() -> None:
    objects, shift = cycles_scene(0)
    light = Lighting(shift)
    clean = render_frames(objects[:1], lighting=light)[0].astype(float)
    grainy = render_frames(objects[:1], lighting=light, grain=np.random.default_rng(0))[0]
    with Image.open(CYCLES / "frames/000000_0.png") as picture:
        theirs = np.asarray(picture.convert("RGB"))
    for rows in (np.s_[:30, 80:240], np.s_[200:, 80:240]):
        ours, real = (grainy - clean)[rows].std(), (theirs - clean)[rows].std()
        assert ours == pytest.approx(real, rel=0.3)


def test_first_object_stands_at_the_image_centre() -> None:
    u, v = project(np.zeros(1), np.zeros(1), np.full(1, RADIUS))
    assert u[0] * 64 / WIDTH == pytest.approx(32, abs=0.5)
    assert v[0] * 64 / HEIGHT == pytest.approx(27.5, abs=0.5)


def test_background_levels_are_the_known_ones() -> None:
    empty = render_frames([])[0].astype(float)
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
    empty = render_frames([])[0].astype(int)
    frame = render_frames([(f"gray {shape}", 0.0, 0.0, 0.0)])[0].astype(int)
    assert np.abs(frame[:40] - empty[:40]).max() <= 1
    below = np.s_[126:132, 140:180]
    assert frame[below].mean() < empty[below].mean() - 3


def test_the_nearer_object_hides_the_farther_in_any_order() -> None:
    near, far = ("red cube", 0.0, -1.0, 0.2), ("green cube", 0.0, 1.0, 0.2)
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
