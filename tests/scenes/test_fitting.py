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
from cddpm_core.scenes.fitting import (
    compare_folder,
    fit_lamps,
    fit_objects,
    reference_frames,
    unproject,
)
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


@pytest.mark.parametrize("kind", ["as it is", ".PNG", "deeper", "labels", "links"])
def test_frames_are_found_as_people_have_them(tmp_path: Path, kind: str) -> None:
    paths = [tmp_path / "frame_9.png", tmp_path / "frame_10.png"]
    for path in paths:
        Image.new("RGB", (320, 240)).save(path)
        path.with_name(f"._{path.name}").write_bytes(b"no image")
    if kind == ".PNG":
        paths = [path.rename(path.with_suffix(".PNG")) for path in paths]
    elif kind in ("deeper", "labels"):
        (tmp_path / "frames/frames").mkdir(parents=True)
        paths = [path.rename(tmp_path / "frames/frames" / path.name) for path in paths]
    elif kind == "links":
        for path in paths:
            path.rename(path.with_name(f".{path.name}"))
            path.symlink_to(path.with_name(f".{path.name}"))
        (tmp_path / "frame_1.png").symlink_to(tmp_path / "nowhere.png")
    names = [None, None]
    if kind == "labels":
        names = [("cyan sphere",), ("red cube",)]
        (tmp_path / "train.json").write_text(encoding="utf-8-sig", data=json.dumps(
            {"x/frame_9.PNG": names[0], "frame_11.png": names[0], "x/frame_10.PNG": names[1]}))
    assert reference_frames(tmp_path) == list(zip(paths, names, strict=True))


def test_bad_folders_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reference: .*nowhere is not a folder"):
        compare_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="a folder without images, found nothing"):
        compare_folder(tmp_path)
    (tmp_path / "frames.zip").touch()
    with pytest.raises(UserError, match="a folder without images, .*frames.zip is not unpacked"):
        compare_folder(tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match="reference: no 4:3 image in"):
        compare_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="a.png: not a readable image"):
        compare_folder(tmp_path)
