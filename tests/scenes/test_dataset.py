"""Rendered data sets, in a folder and in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.data.labels import read_objects, read_train
from cddpm_core.scenes import dataset as module
from cddpm_core.scenes.dataset import render_dataset, render_set
from cddpm_core.scenes.render import Lighting, render_frames
from cddpm_core.scenes.scene import scene_of


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
    calls = []

    def fail_late(*args, **kwargs):
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return render_frames(*args, **kwargs)

    monkeypatch.setattr(module, "render_frames", fail_late)
    with pytest.raises(KeyboardInterrupt):
        render_dataset(tmp_path, num_scenes=6, seed=3, workers=1, progress=False)
    assert not (tmp_path / "train.json").exists()
    monkeypatch.undo()
    render_dataset(tmp_path, num_scenes=6, seed=3, workers=2, progress=False)
    assert contents(tmp_path) == contents(dataset)


def _left_edge(image: Image.Image) -> np.ndarray:
    return np.asarray(image)[60:120, :20].mean((0, 1))


def test_each_scene_has_its_own_light_and_its_frames_share_it(dataset: Path) -> None:
    corners = {}
    for file in sorted((dataset / "iclevr").iterdir()):
        with Image.open(file) as image:
            corners.setdefault(file.name[:-6], []).append(_left_edge(image))
    spread = [np.ptp(frames, axis=0).max() for frames in corners.values()]
    assert max(spread) < 3  # grain and faint shadows
    assert np.std([frames[0] for frames in corners.values()], axis=0).min() > 1


def test_no_scenes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="num_scenes"):
        render_dataset(tmp_path, num_scenes=0, seed=0)


def test_frames_are_those_of_the_scene(dataset: Path) -> None:
    labels = json.loads((dataset / "train.json").read_text())
    scene = scene_of(3, "train", 2, 3)
    assert labels["CLEVR_train_000002_2.png"] == [o.name for o in scene.objects]
    with Image.open(dataset / "iclevr" / "CLEVR_train_000002_2.png") as image:
        clean = render_frames(scene.objects, lighting=Lighting(scene.lamp_shift))[0]
        grain = np.asarray(image).astype(int) - clean
        assert abs(grain.mean()) < 0.1 and 0.8 < grain.std() < 2


def test_set_in_memory_matches_labels_and_positions() -> None:
    images, labels, centres = render_set(13, 0, "some")
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
    for again in (render_set(13, 0, "some", workers=3), render_set(13, 0, "some", workers=1)):
        np.testing.assert_array_equal(again[0], images)
    assert (render_set(5, 1, "some")[0] != images[:5]).any()
    assert (render_set(5, 0, "other")[0] != images[:5]).any()
