"""Finding the scene behind a frame: in renders whose scene is known, and in a real one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cddpm_core.errors import UserError
from cddpm_core.fitting import compare_folder, fit_objects, unproject
from cddpm_core.render import RADIUS, project, render_frames

REFERENCE = SHARED / "reference"
REAL_OBJECTS = ("purple sphere", "brown cylinder", "red sphere", "brown cube", "blue cylinder")
SCENE = (("green cube", 0.0, 0.0, 0.4), ("red sphere", 2.6, -1.1, 0.0),
         ("gray cylinder", -2.2, 1.9, 0.0))


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
    places = {name: (x, y) for name, x, y, _ in found}
    for name, x, y, _ in SCENE:
        assert places[name] == pytest.approx((x, y), abs=0.1)
    again = render_frames(found)[0]
    assert np.abs(again.astype(int) - frame).mean() < 0.5


def test_an_empty_ground_has_no_objects() -> None:
    empty = render_frames([("gray sphere", 0.0, 2000.0, 0.0)])[0]
    assert fit_objects(empty) == ()


def test_a_folder_with_labels_is_compared_by_them(rendered: Path) -> None:
    labels = list(json.loads((rendered / "train.json").read_text()).items())
    compared = compare_folder(rendered, most=3)
    assert [frame.file for frame in compared] == [file for file, _ in labels[:3]]
    for frame, (_, names) in zip(compared, labels, strict=False):
        assert {name for name, *_ in frame.objects} == set(names)
        assert frame.difference < 1 and frame.difference_in_boxes < 5


def test_frames_of_two_scenes_are_told_apart(tmp_path: Path) -> None:
    other = (("yellow cylinder", 0.0, 0.0, 0.0),)
    for name, scene in (("a.png", SCENE[:1]), ("b.png", other)):
        Image.fromarray(render_frames(scene)[0]).save(tmp_path / name)
    first, second = compare_folder(tmp_path)
    assert [name for name, *_ in first.objects] == ["green cube"]
    assert [name for name, *_ in second.objects] == ["yellow cylinder"]


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no real i-CLEVR scene in ../shared/reference")
def test_the_real_scene_is_found_and_drawn_alike() -> None:
    compared = compare_folder(REFERENCE)
    assert len(compared) == 5
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
