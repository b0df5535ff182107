"""Where objects stand, and the data sets that are written of them."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cddpm_core.errors import UserError
from cddpm_core.labels import OBJECTS, read_objects, read_train
from cddpm_core.render import RADIUS, render_frames, visible_pixels
from cddpm_core.scenes import (
    GAP,
    MARGIN,
    MIN_PIXELS,
    MIN_SHARE,
    REACH,
    render,
    render_dataset,
    render_set,
    sample_scene,
)


def as_tuples(scene):
    return [(o.name, o.x, o.y, o.rotation) for o in scene]


@settings(max_examples=60)
@given(seed=st.integers(0, 2**63), count=st.integers(1, 5))
def test_layout_keeps_its_rules(seed: int, count: int) -> None:
    scene = sample_scene(np.random.default_rng(seed), count)
    assert len(scene) == count
    assert (scene[0].x, scene[0].y) == (0, 0)
    assert len({o.name for o in scene}) == count and {o.name for o in scene} <= set(OBJECTS)
    for k, a in enumerate(scene):
        assert abs(a.x) + abs(a.y) <= REACH + 1e-9 and 0 <= a.rotation <= 2 * math.pi
        for b in scene[:k]:
            assert math.hypot(a.x - b.x, a.y - b.y) >= 2 * RADIUS + GAP
            assert min(abs(a.x - b.x), abs(a.y - b.y)) >= MARGIN
    for k in range(1, count + 1):
        seen, whole = visible_pixels(as_tuples(scene[:k]))
        assert (seen >= MIN_PIXELS).all() and (seen >= MIN_SHARE * whole).all()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**63))
def test_every_object_lies_within_the_image(seed: int) -> None:
    scene = sample_scene(np.random.default_rng(seed), 5)
    image = render(scene).astype(int)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    assert (np.ptp(border, axis=-1) < 22).all()  # the ground alone has so little colour


def test_one_seed_one_scene() -> None:
    first, again = (sample_scene(np.random.default_rng(7), 4) for _ in range(2))
    assert first == again
    assert sample_scene(np.random.default_rng(8), 4) != first


@pytest.mark.parametrize("count", [0, 6])
def test_count_out_of_range(count: int) -> None:
    with pytest.raises(UserError, match="expected 1 to 5"):
        sample_scene(np.random.default_rng(0), count)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    render_dataset(folder, num_scenes=6, seed=3, workers=1, progress=False)
    return folder


def test_dataset_has_the_labs_layout(dataset: Path) -> None:
    labels = read_train(dataset / "train.json")
    assert read_objects(dataset / "objects.json")["gray cube"] == 0
    names = [f"CLEVR_train_{scene:06d}_{frame}.png" for scene in range(6) for frame in range(3)]
    assert list(labels) == names
    assert sorted(path.name for path in (dataset / "iclevr").iterdir()) == names
    with Image.open(dataset / "iclevr" / names[0]) as image:
        assert image.size == (320, 240) and image.mode == "RGB" and image.format == "PNG"


def test_each_list_is_the_one_before_plus_one(dataset: Path) -> None:
    labels = read_train(dataset / "train.json")
    for scene in range(6):
        rows = [labels[f"CLEVR_train_{scene:06d}_{frame}.png"] for frame in range(3)]
        assert [len(row) for row in rows] == [1, 2, 3]
        assert rows[1][:1] == rows[0] and rows[2][:2] == rows[1]


def test_bytes_do_not_depend_on_the_number_of_workers(dataset: Path, tmp_path: Path) -> None:
    render_dataset(tmp_path, num_scenes=6, seed=3, workers=4, progress=False)
    assert contents(tmp_path) == contents(dataset)


def test_another_seed_gives_other_images(dataset: Path, tmp_path: Path) -> None:
    render_dataset(tmp_path, num_scenes=1, seed=4, progress=False)
    file = "iclevr/CLEVR_train_000000_2.png"
    assert contents(tmp_path)[file] != contents(dataset)[file]


def test_a_killed_run_can_be_run_again(dataset: Path, tmp_path: Path, monkeypatch) -> None:
    from cddpm_core import scenes

    drawn = []

    def fail_late(*args, **kwargs):
        drawn.append(1)
        if len(drawn) > 4:
            raise KeyboardInterrupt
        return render_frames(*args, **kwargs)

    monkeypatch.setattr(scenes, "render_frames", fail_late)
    with pytest.raises(KeyboardInterrupt):
        render_dataset(tmp_path, num_scenes=6, seed=3, workers=1, progress=False)
    assert not (tmp_path / "train.json").exists()
    monkeypatch.undo()
    render_dataset(tmp_path, num_scenes=6, seed=3, workers=2, progress=False)
    assert contents(tmp_path) == contents(dataset)


def test_light_jitter_moves_the_light_and_nothing_else(dataset: Path, tmp_path: Path) -> None:
    render_dataset(tmp_path, num_scenes=2, seed=3, light_jitter=0.5, progress=False)
    assert read_train(tmp_path / "train.json").items() <= read_train(dataset / "train.json").items()
    for file in (tmp_path / "iclevr").iterdir():
        images = (Image.open(folder / "iclevr" / file.name) for folder in (tmp_path, dataset))
        lit, plain = (np.asarray(image).astype(int) for image in images)
        assert 0.5 < np.abs(lit - plain).mean() < 20
    with pytest.raises(UserError, match="light_jitter"):
        render_dataset(tmp_path, num_scenes=1, seed=3, light_jitter=9, progress=False)


def test_no_scenes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="num_scenes"):
        render_dataset(tmp_path, num_scenes=0, seed=0)


def test_frames_are_those_of_the_scene(dataset: Path) -> None:
    labels = json.loads((dataset / "train.json").read_text())
    rng = np.random.default_rng(np.random.SeedSequence(3, spawn_key=(2,)))
    scene = sample_scene(rng, 3)
    assert labels["CLEVR_train_000002_2.png"] == [o.name for o in scene]
    with Image.open(dataset / "iclevr" / "CLEVR_train_000002_2.png") as image:
        np.testing.assert_array_equal(np.asarray(image), render(scene))


def test_label_statistics_are_as_even_as_the_labs() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(name for _ in range(400) for name in (o.name for o in sample_scene(rng, 3)))
    # Each of 24 objects is one of three in an eighth of the scenes: 50 here, sd 6.6.
    assert set(counts) == set(OBJECTS)
    assert all(25 <= count <= 75 for count in counts.values())


def test_set_in_memory_matches_labels_and_places() -> None:
    images, labels, centres = render_set(13, seed=0)
    assert images.shape == (13, 64, 64, 3) and images.dtype == np.uint8
    assert labels.shape == (13, 24) and centres.shape == (13, 24, 2)
    assert labels.sum(1).tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3]
    assert (np.isnan(centres[..., 0]) == (labels == 0)).all()
    assert ((centres[labels > 0] > 3) & (centres[labels > 0] < 61)).all()
    for k in range(1, 5):  # what a frame adds lies where its new object stands
        change = np.abs(images[k].astype(int) - images[k - 1]).sum(-1)
        new = np.flatnonzero(labels[k] - labels[k - 1])
        row, column = np.unravel_index(change.argmax(), change.shape)
        assert np.abs(centres[k, new[0]] - (column, row)).max() < 9
    for again in (render_set(13, seed=0, workers=3), render_set(13, seed=0, workers=1)):
        np.testing.assert_array_equal(again[0], images)
    assert (render_set(5, seed=1)[0] != images[:5]).any()
