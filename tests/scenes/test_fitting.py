"""Fitting a scene to a frame: to renders of known scenes, and to a real one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.scenes.fitting import compare_folder, fit_objects, unproject
from cddpm_core.scenes.render import RADIUS, project, render_frames
from cddpm_core.scenes.scene import SceneObject

REFERENCE = SHARED / "reference"
REAL_OBJECTS = ("purple sphere", "brown cylinder", "red sphere", "brown cube", "blue cylinder")
SCENE = (SceneObject("green cube", 0.0, 0.0, 0.4), SceneObject("gray cylinder", -2.2, 1.9, 0.0))


@given(st.floats(-5, 5), st.floats(-5, 5))
@settings(max_examples=25)
def test_unproject_is_the_inverse_of_project(x: float, y: float) -> None:
    u, v = project(np.array([x]), np.array([y]), np.full(1, RADIUS))
    assert unproject(u[0], v[0]) == pytest.approx((x, y), abs=1e-2)


@pytest.mark.parametrize("named", [False, True])
def test_a_rendered_scene_is_found_again(named: bool) -> None:
    frame = render_frames(SCENE)[0]
    found = fit_objects(frame, [name for name, *_ in SCENE] if named else None)
    assert {name for name, *_ in found} == {name for name, *_ in SCENE}
    positions = {name: (x, y) for name, x, y, _ in found}
    for name, x, y, _ in SCENE:
        assert positions[name] == pytest.approx((x, y), abs=0.1)
    again = render_frames(found)[0]
    assert np.abs(again.astype(int) - frame).mean() < 0.5


def test_an_empty_ground_has_no_objects() -> None:
    empty = render_frames([("gray sphere", 0.0, 2000.0, 0.0)])[0]
    assert fit_objects(empty) == ()


def test_a_folder_with_labels_is_compared_by_them(rendered: Path) -> None:
    labels = list(json.loads((rendered / "train.json").read_text()).items())
    compared = compare_folder(rendered, max_frames=2)
    assert [frame.file for frame in compared] == [file for file, _ in labels[:2]]
    for frame, (_, names) in zip(compared, labels, strict=False):
        assert {name for name, *_ in frame.objects} == set(names)
        assert frame.difference < 1 and frame.difference_in_boxes < 5


def test_a_frame_of_another_scene_is_no_continuation(tmp_path: Path) -> None:
    # Its labels would allow one, but its green cube is elsewhere.
    other = (SceneObject("yellow cylinder", 0.0, 0.0, 0.0), SceneObject("green cube", 2.6, -1, 0.0))
    frames = {"a.png": SCENE[:1], "b.png": other}
    for name, scene in frames.items():
        Image.fromarray(render_frames(scene)[0]).save(tmp_path / name)
    (tmp_path / "train.json").write_text(json.dumps({
        name: [o.name for o in scene] for name, scene in frames.items()}))
    for comparison, scene in zip(compare_folder(tmp_path), frames.values(), strict=True):
        positions = {o.name: (o.x, o.y) for o in scene}
        assert {o.name for o in comparison.objects} == set(positions)
        for found in comparison.objects:
            assert (found.x, found.y) == pytest.approx(positions[found.name], abs=0.1)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no real i-CLEVR scene in ../shared/reference")
def test_the_real_scene_is_found_and_rendered_alike() -> None:
    compared = compare_folder(REFERENCE, max_frames=3)
    assert len(compared) == 3
    for size, frame in enumerate(compared, start=1):
        assert [name for name, *_ in frame.objects] == list(REAL_OBJECTS[:size])
        assert frame.difference < 6 and frame.difference_in_boxes < 15


def test_bad_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reference: .*nowhere is not a folder"):
        compare_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="reference: no 4:3 image in"):
        compare_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="a.png: not a readable image"):
        compare_folder(tmp_path)
