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
from cddpm_core.scenes.fitting import compare_folder, fit_lamps, fit_objects, unproject
from cddpm_core.scenes.render import RADIUS, Lighting, project, render_frames
from cddpm_core.scenes.scene import SceneObject, scene_of

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
    shift = scene_of(0, "fit", 0, 1).lamp_shift
    frame = render_frames(SCENE, lighting=Lighting(shift))[0]
    found = fit_objects(frame, [name for name, *_ in SCENE] if named else None)
    assert {o.name for o in found.objects} == {name for name, *_ in SCENE}
    positions = {o.name: (o.x, o.y) for o in found.objects}
    for name, x, y, _ in SCENE:
        assert positions[name] == pytest.approx((x, y), abs=0.1)
    again = render_frames(found.objects, lighting=Lighting(found.lamp_shift))[0]
    assert np.abs(again.astype(int) - frame).mean() < 0.5


def test_the_lamps_of_an_empty_ground_are_found_and_no_object() -> None:
    shift = np.array([[0.5, -0.4, 0.3], [-0.6, 0.2, 0.5], [0.4, 0.4, -0.5]])
    empty = render_frames([], lighting=Lighting(shift))[0]
    found = render_frames([], lighting=Lighting(fit_lamps(empty)))[0]
    assert np.abs(found.astype(int) - empty).mean() < 0.3
    assert fit_objects(empty).objects == ()


def test_a_folder_with_labels_is_compared_by_them(rendered: Path) -> None:
    labels = list(json.loads((rendered / "train.json").read_text()).items())
    compared = compare_folder(rendered, max_frames=2)
    assert [frame.file for frame in compared] == [file for file, _ in labels[:2]]
    for frame, (_, names) in zip(compared, labels, strict=False):
        assert {o.name for o in frame.scene.objects} == set(names)
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
        assert {o.name for o in comparison.scene.objects} == set(positions)
        for found in comparison.scene.objects:
            assert (found.x, found.y) == pytest.approx(positions[found.name], abs=0.1)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no real i-CLEVR scene in ../shared/reference")
def test_the_real_scene_is_found_and_rendered_alike() -> None:
    compared = compare_folder(REFERENCE, max_frames=3)
    assert len(compared) == 3
    for size, frame in enumerate(compared, start=1):
        assert [o.name for o in frame.scene.objects] == list(REAL_OBJECTS[:size])
        assert frame.difference < 1.5 and frame.difference_in_boxes < 3.5


def test_bad_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reference: .*nowhere is not a folder"):
        compare_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="reference: no 4:3 image in"):
        compare_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="a.png: not a readable image"):
        compare_folder(tmp_path)
