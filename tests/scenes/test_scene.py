"""Sampled scenes: what stands where, and when an object is refused."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.data.labels import OBJECTS
from cddpm_core.scenes import scene as module
from cddpm_core.scenes.render import RADIUS, render_frames, visible_pixels
from cddpm_core.scenes.scene import (
    GAP,
    MARGIN,
    MIN_PIXELS,
    MIN_VISIBLE,
    REACH,
    sample_scene,
    scene_of,
)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**63), count=st.integers(1, 5))
def test_scenes_obey_the_rules(seed: int, count: int) -> None:
    scene, shift = sample_scene(np.random.default_rng(seed), count)
    assert shift.shape == (3, 3) and np.abs(shift).max() <= 1
    assert len(scene) == count
    assert (scene[0].x, scene[0].y) == (0, 0)
    assert len({o.name for o in scene}) == count and {o.name for o in scene} <= set(OBJECTS)
    for k, a in enumerate(scene):
        assert abs(a.x) + abs(a.y) <= REACH + 1e-9 and 0 <= a.rotation <= 2 * math.pi
        for b in scene[:k]:
            assert math.hypot(a.x - b.x, a.y - b.y) >= 2 * RADIUS + GAP
            assert min(abs(a.x - b.x), abs(a.y - b.y)) >= MARGIN
    for k in range(1, count + 1):
        seen, whole = visible_pixels(scene[:k])
        assert (seen >= MIN_PIXELS).all() and (seen >= MIN_VISIBLE * whole).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**63))
def test_every_object_lies_within_the_image(seed: int) -> None:
    scene = sample_scene(np.random.default_rng(seed), 5)
    image = render_frames(scene.objects)[0].astype(int)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (np.ptp(border, axis=-1) < 22).all()  # the ground alone has so little colour


def test_one_seed_one_scene() -> None:
    first, again = (scene_of(7, "train", 0, 4) for _ in range(2))
    assert first.objects == again.objects and (first.lamp_shift == again.lamp_shift).all()
    for other in (scene_of(8, "train", 0, 4), scene_of(7, "heldout", 0, 4),
                  scene_of(7, "train", 1, 4)):
        assert other.objects != first.objects and (other.lamp_shift != first.lamp_shift).all()


@pytest.mark.parametrize("count", [0, 6])
def test_count_out_of_range(count: int) -> None:
    with pytest.raises(UserError, match="expected 1 to 5"):
        sample_scene(np.random.default_rng(0), count)


def test_label_statistics_are_as_even_as_the_labs() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(o.name for _ in range(400) for o in sample_scene(rng, 3).objects)
    # Each of 24 objects is one of three in an eighth of the scenes: 50 here, sd 6.6.
    assert set(counts) == set(OBJECTS)
    assert all(25 <= count <= 75 for count in counts.values())


def test_objects_follow_their_probabilities() -> None:
    probabilities = np.array([1.0 if name.endswith("cube") else 0.0 for name in OBJECTS])
    scene = sample_scene(np.random.default_rng(0), 5, probabilities / probabilities.sum())
    assert {o.name.split()[1] for o in scene.objects} == {"cube"}


def test_an_impossible_scene_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GAP", 100.0)
    monkeypatch.setattr(module, "MAX_ATTEMPTS", 2)
    assert len(sample_scene(np.random.default_rng(0), 1).objects) == 1
    with pytest.raises(RuntimeError, match="no scene of .* found in 2 attempts"):
        sample_scene(np.random.default_rng(0), 2)
