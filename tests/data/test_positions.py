import numpy as np
import pytest
import torch
from conftest import SHARED

from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.data.images import load_image
from cddpm_core.data.labels import OBJECTS
from cddpm_core.data.positions import find_positions, scene_layouts, scene_numbers
from cddpm_core.scenes.render import HEIGHT, RADIUS, WIDTH, project
from cddpm_core.scenes.scene import scene_of

NOISE = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)


def positions_of(dataset, index):
    named = [OBJECTS.index(name) for name in dataset.conditions[index]]
    return dataset.positions[index, named].numpy()


def test_objects_are_found_where_they_were_rendered(dataset):
    assert dataset.positions.shape == (36, 24, 2) and dataset.positions.dtype == torch.float32
    assert torch.equal(~dataset.positions[..., 0].isnan(), dataset.labels > 0.5)
    for number in range(12):
        scene = scene_of(5, "train", number, 3)
        x, y = np.array([(o.x, o.y) for o in scene.objects]).T
        u, v = project(x, y, np.full_like(x, RADIUS))
        true = np.stack([u / WIDTH, v / HEIGHT], 1)
        frames = [positions_of(dataset, 3 * number + frame) for frame in range(3)]
        for frame, found in enumerate(frames):
            assert found.shape == (frame + 1, 2)
            assert np.abs(found - true[:frame + 1]).max() < 5 / 64
            assert np.array_equal(found, frames[-1][:frame + 1])  # objects stay


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_that_are_left_out_still_help_to_find_positions(dataset, rendered, in_memory):
    hidden = dataset.conditions[1::3] + dataset.conditions[:3]  # all second frames, a whole scene
    kept = IclevrDataset(rendered, leave_out=hidden, in_memory=in_memory)
    rows = [dataset.files.index(path) for path in kept.files]
    assert 10 < len(rows) < 24
    assert torch.equal(kept.positions.nan_to_num(-1), dataset.positions[rows].nan_to_num(-1))


def test_only_wanted_frames_and_those_before_them_are_compared(dataset):
    read = []

    def pixels(index):
        read.append(index)
        return dataset.pixels[index]

    files = [path.name for path in dataset.files]
    find_positions(files, dataset.conditions, pixels, wanted=[5])
    assert {i for i in read if i % 3} == {4, 5}


def test_frames_of_a_scene_share_its_number(dataset):
    files = [path.name for path in dataset.files]
    assert scene_numbers(files, dataset.conditions).tolist() == [3 * (i // 3) for i in range(36)]
    # The second frame is not there, so nothing says what the third one has to do with the first.
    assert scene_numbers(["a_0.png", "a_2.png", "b.png"], [["x"], ["x", "y", "z"], ["x"]]
                         ).tolist() == [0, 1, 2]
    # Numbered in a row, but of other labels: images of their own.
    assert scene_numbers(["a_0.png", "a_1.png"], [["x"], ["y", "x"]]).tolist() == [0, 1]


def test_positions_in_real_frames():
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the real frames are not at ../shared/reference")
    frames = [load_image(folder / f"real_seq_{i}_320x240.png") for i in range(5)]
    # As read off the contact sheet, in pixels at 320 x 240; frames from one object to five.
    seen = {"purple sphere": (160, 104), "brown cylinder": (266, 108), "red sphere": (82, 122),
            "brown cube": (93, 85), "blue cylinder": (202, 154)}
    names = list(seen)
    conditions = [names[:k + 1] for k in range(5)] + [["gray cube"]]
    files = [f"real_{k}.png" for k in range(5)] + ["other_0.png"]
    blank = frames[0].copy()
    blank[21:34, 28:36] = blank[21:34, 20:28]
    found = find_positions(files, conditions, [*frames, blank].__getitem__)[4]
    for name, position in seen.items():
        away = found[OBJECTS.index(name)] * (320, 240) - position
        assert np.abs(away).max() < 12, (name, away)


CHAIN = [["red cube"], ["red cube", "blue cube"], ["cyan sphere"]]


@pytest.mark.parametrize(("files", "conditions"), [
    (["a.png", "b.png", "c.png"], CHAIN),
    (["x_0.png", "x_5.png", "y_0.png"], CHAIN),
    (["x_0.png", "x_1.png", "y_0.png"], [["red cube"], ["blue cube", "red cube"], ["cyan sphere"]]),
], ids=["no frames", "no consecutive frames", "not the names before and one more"])
def test_without_frames_of_scenes_no_position_is_known(files, conditions):
    assert np.isnan(find_positions(files, conditions, NOISE.__getitem__)).all()


def test_layouts_are_those_of_whole_scenes_in_the_order_of_their_conditions(dataset):
    layouts = dataset.layouts()
    assert layouts.shape == (12, 3, 2)
    for number in range(12):
        assert np.array_equal(layouts[number], positions_of(dataset, 3 * number + 2))
    few = scene_layouts(dataset.positions.numpy(), dataset.conditions, max_scenes=5)
    assert np.array_equal(few, layouts[:5])
    unknown = np.full((2, 24, 2), np.nan, np.float32)
    assert scene_layouts(unknown, CHAIN[:2]).shape == (0, 2, 2)
