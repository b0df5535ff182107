import numpy as np
import pytest
import torch
from conftest import SHARED

from cddpm_core.data import IclevrDataset
from cddpm_core.images import load_image
from cddpm_core.labels import OBJECTS
from cddpm_core.layout import find_places, scene_layouts
from cddpm_core.render import HEIGHT, RADIUS, WIDTH, project
from cddpm_core.scenes import _rng, sample_scene


def places_of(dataset, index):
    return dataset.places[index, [OBJECTS.index(n) for n in dataset.label_sets[index]]].numpy()


def test_objects_are_found_where_they_were_rendered(dataset):
    for number in range(12):
        scene = sample_scene(_rng(5, number), 3)
        x, y = np.array([(o.x, o.y) for o in scene]).T
        u, v = project(x, y, np.full_like(x, RADIUS))
        true = np.stack([u / WIDTH, v / HEIGHT], 1)
        for frame in range(3):
            found = places_of(dataset, 3 * number + frame)
            assert found.shape == (frame + 1, 2)
            assert np.abs(found - true[:frame + 1]).max() < 5 / 64


def test_absent_objects_have_no_place(dataset):
    assert dataset.places.shape == (36, 24, 2) and dataset.places.dtype == torch.float32
    assert torch.equal(~dataset.places[..., 0].isnan(), dataset.labels > 0.5)


def test_a_later_frame_keeps_the_places_of_the_one_before(dataset):
    for number in range(12):
        first, second, third = (places_of(dataset, 3 * number + frame) for frame in range(3))
        assert np.array_equal(first, second[:1]) and np.array_equal(second, third[:2])


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_that_are_left_out_still_show_where_objects_of_the_others_stand(
        dataset, rendered, in_memory):
    hidden = dataset.label_sets[1::3] + dataset.label_sets[:3]  # all second frames, a whole scene
    kept = IclevrDataset(rendered, leave_out=hidden, in_memory=in_memory)
    rows = [dataset.files.index(path) for path in kept.files]
    assert 10 < len(rows) < 24
    assert torch.equal(kept.places.nan_to_num(-1), dataset.places[rows].nan_to_num(-1))


def test_only_the_frames_that_are_wanted_are_compared(dataset):
    read = []

    def pixels(index):
        read.append(index)
        return dataset.pixels[index]

    files = [path.name for path in dataset.files]
    find_places(files, dataset.label_sets, pixels, wanted=[5])
    assert {i for i in read if i % 3} == {4, 5}


def test_frames_of_real_scenes_give_the_places_seen_in_them():
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip("the real frames are not at ../shared/reference")
    frames = [load_image(folder / f"real_seq_{i}_320x240.png") for i in range(5)]
    # As read off the contact sheet, in pixels at 320 x 240; frames from one object to five.
    seen = {"purple sphere": (160, 104), "brown cylinder": (266, 108), "red sphere": (82, 122),
            "brown cube": (93, 85), "blue cylinder": (202, 154)}
    names = list(seen)
    labels = [names[:k + 1] for k in range(5)] + [["gray cube"]]
    files = [f"real_{k}.png" for k in range(5)] + ["other_0.png"]
    blank = frames[0].copy()
    blank[21:34, 28:36] = blank[21:34, 20:28]
    found = find_places(files, labels, [*frames, blank].__getitem__)[4]
    for name, place in seen.items():
        away = found[OBJECTS.index(name)] * (320, 240) - place
        assert np.abs(away).max() < 12, (name, away)


def test_without_frames_of_scenes_no_place_is_known():
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    labels = [["red cube"], ["red cube", "blue cube"], ["cyan sphere"]]
    for files in (["a.png", "b.png", "c.png"], ["x_0.png", "x_5.png", "y_0.png"]):
        assert np.isnan(find_places(files, labels, images.__getitem__)).all()


def test_a_frame_whose_label_is_not_the_one_before_and_a_name_more_is_not_of_its_scene():
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    labels = [["red cube"], ["blue cube", "red cube"], ["cyan sphere"]]
    found = find_places(["x_0.png", "x_1.png", "y_0.png"], labels, images.__getitem__)
    assert np.isnan(found).all()


def test_layouts_are_those_of_whole_scenes_in_the_order_of_their_labels(dataset):
    layouts = dataset.layouts()
    assert layouts.shape == (12, 3, 2)
    for number in range(12):
        assert np.array_equal(layouts[number], places_of(dataset, 3 * number + 2))
    assert len(scene_layouts(dataset.places.numpy(), dataset.label_sets, most=5)) == 5


def test_a_set_without_scenes_has_no_layouts(tmp_path, rendered):
    nowhere = np.full((2, 24, 2), np.nan, np.float32)
    assert scene_layouts(nowhere, [["red cube"], ["red cube", "blue cube"]]).shape == (0, 2, 2)


def test_images_need_not_be_in_memory(rendered, dataset):
    again = IclevrDataset(rendered, in_memory=False)
    assert torch.equal(again.places.nan_to_num(-1), dataset.places.nan_to_num(-1))
