import json

import numpy as np
import pytest
import torch
from conftest import LABELS
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cddpm_core import data
from cddpm_core.data import ConditionDataset, IclevrDataset, varying_rows
from cddpm_core.errors import UserError
from cddpm_core.images import check_folder, load_image, to_tensor
from cddpm_core.labels import OBJECTS, from_multi_hot


def test_items_of_a_set_in_the_labs_layout(folder):
    dataset = IclevrDataset(folder)
    assert len(dataset) == 3
    for (image, label), names in zip(dataset, LABELS.values(), strict=False):
        assert image.shape == (3, 64, 64) and image.dtype == torch.float32
        assert -1 <= image.min() < -0.2 and 0.2 < image.max() <= 1
        assert label.shape == (24,) and label.dtype == torch.float32
        assert from_multi_hot(label) == tuple(names)


def test_standard_deviation_is_that_of_the_pixels(dataset):
    everything = torch.stack([dataset[i][0] for i in range(len(dataset))])
    std = dataset.mean_and_std()[1]
    assert torch.allclose(std, everything.std(0, correction=0), atol=1e-5)


@given(st.integers(1, 6).flatmap(lambda k: st.tuples(
    st.just(2**k), st.sampled_from([1, 2, 4, 8, 16, 32]).filter(lambda m: m <= 2**k),
    st.lists(st.integers(0, 2**k - 1), max_size=4))))
def test_varying_rows_hold_every_row_that_varies_and_fit_the_levels(case):
    height, multiple, varying = case
    std = torch.full((3, height, 5), 1.9 / 127.5)
    for row in varying:
        std[row % 3, row, row % 5] = 2.1 / 127.5
    top, bottom = varying_rows(std, multiple)
    assert 0 <= top < bottom <= height and (bottom - top) % multiple == 0
    assert all(top <= row < bottom for row in varying)
    if varying:
        assert bottom - top < max(varying) + 1 - min(varying) + multiple
    else:
        assert (top, bottom) == (0, height)


def test_rendered_scenes_vary_in_the_middle_rows_alone(dataset):
    top, bottom = varying_rows(dataset.mean_and_std()[1], 8)
    assert 0 < top < bottom < 64
    outside = torch.ones(64, dtype=torch.bool)
    outside[top:bottom] = False
    images = torch.stack([dataset[i][0] for i in range(len(dataset))])
    assert (images - images.mean(0))[:, :, outside].abs().max() < 12 / 127.5


@pytest.mark.parametrize("in_memory", [True, False])
def test_batch_is_the_items_together(rendered, in_memory):
    dataset = IclevrDataset(rendered, in_memory=in_memory)
    indices = np.array([5, 0, 35])
    images, labels = dataset.batch(indices)
    assert torch.equal(images, torch.stack([dataset[i][0] for i in indices]))
    assert torch.equal(labels, torch.stack([dataset[i][1] for i in indices]))


def test_in_memory_equals_reading_the_files(rendered):
    held, read = IclevrDataset(rendered), IclevrDataset(rendered, in_memory=False)
    assert held.pixels.dtype == np.uint8 and held.pixels.shape == (36, 64, 64, 3)
    assert read.pixels is None
    for index in range(len(held)):
        assert torch.equal(held[index][0], read[index][0])
        assert torch.equal(held[index][1], read[index][1])


def test_resized_images_are_kept_until_a_file_changes(folder, tmp_path):
    cache = tmp_path / "pixels"
    pixels = IclevrDataset(folder, cache=cache).pixels
    kept, = cache.iterdir()
    np.save(kept, 255 - pixels)
    again = IclevrDataset(folder, cache=cache)
    assert (again.pixels == 255 - pixels).all()
    Image.new("RGB", (8, 8), "red").save(again.files[0])
    changed = IclevrDataset(folder, cache=cache).pixels
    assert (changed[0] == (255, 0, 0)).all() and (changed[1:] == pixels[1:]).all()
    assert len(IclevrDataset(folder, cache=cache, leave_out=[again.label_sets[0]])) == 2


@pytest.mark.parametrize("content", [b"", b"no array", "cut"])
def test_damaged_kept_images_are_read_again(folder, tmp_path, content):
    pixels = IclevrDataset(folder, cache=tmp_path / "pixels").pixels
    kept, = (tmp_path / "pixels").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-9] if content == "cut" else content)
    assert (IclevrDataset(folder, cache=tmp_path / "pixels").pixels == pixels).all()
    assert kept.read_bytes() == whole


def test_images_kept_by_another_way_of_reading_are_read_again(folder, tmp_path, monkeypatch):
    pixels = IclevrDataset(folder, cache=tmp_path / "pixels").pixels
    kept, = (tmp_path / "pixels").iterdir()
    np.save(kept, 255 - pixels)
    monkeypatch.setattr(data, "READING_VERSION", data.READING_VERSION + 1)
    assert (IclevrDataset(folder, cache=tmp_path / "pixels").pixels == pixels).all()


def test_images_are_read_where_none_can_be_kept(folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert IclevrDataset(folder, cache=tmp_path / "file").pixels.shape == (3, 64, 64, 3)


def test_images_and_labels_are_in_the_order_of_the_label_file(folder):
    reversed_labels = dict(reversed(LABELS.items()))
    first = IclevrDataset(folder)
    (folder / "train.json").write_text(json.dumps(reversed_labels))
    second = IclevrDataset(folder)
    assert torch.equal(first[0][0], second[2][0]) and torch.equal(first[0][1], second[2][1])
    assert not torch.equal(first[0][0], second[0][0])


def test_mean_image_is_the_mean(dataset):
    everything = torch.stack([dataset[i][0] for i in range(len(dataset))])
    assert torch.allclose(dataset.mean_and_std()[0], everything.mean(0), atol=1e-6)
    few = dataset.mean_and_std(most=2)[0]
    assert torch.allclose(few, everything[[0, -1]].mean(0), atol=1e-6)


def test_mean_image_of_several_parts(rendered):
    dataset = IclevrDataset(rendered)
    repeat = np.arange(1000) % 36
    dataset.pixels, dataset.labels = dataset.pixels[repeat], dataset.labels[repeat]
    dataset.files = [dataset.files[i] for i in repeat]
    expected = to_tensor(dataset.pixels).mean(0)
    assert torch.allclose(dataset.mean_and_std()[0], expected, atol=1e-5)


@pytest.mark.parametrize("in_memory", [True, False])
def test_missing_image_is_named_before_any_is_read(folder, in_memory):
    for name in list(LABELS)[1:]:
        (folder / "iclevr" / name).unlink()
    (folder / "iclevr" / list(LABELS)[0]).write_bytes(b"unreadable")
    with pytest.raises(UserError) as error:
        IclevrDataset(folder, in_memory=in_memory)
    assert "CLEVR_train_000000_1.png: no such image; 2 of the 3 images" in str(error.value)
    with pytest.raises(UserError, match="000000_1.png: no such image"):
        check_folder(folder)


def test_image_that_vanishes_later_is_named(folder):
    dataset = IclevrDataset(folder, in_memory=False)
    dataset.files[2].unlink()
    with pytest.raises(UserError, match="CLEVR_train_000000_2.png: no such image"):
        dataset[2]


def spoil(path, how):
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "header alone": whole[:20],
                      "empty": b"", "text": b"not an image\n" * 10,
                      "wrong checksum": whole[:60] + b"????" + whole[64:]}[how])


@pytest.mark.parametrize("how", ["truncated", "header alone", "empty", "text", "wrong checksum"])
def test_unreadable_image_is_one_sentence(folder, how):
    path = folder / "iclevr/CLEVR_train_000000_1.png"
    spoil(path, how)
    for read in (lambda: IclevrDataset(folder),
                 lambda: IclevrDataset(folder, in_memory=False)[1], lambda: load_image(path)):
        with pytest.raises(UserError) as error:
            read()
        assert f"{path}: not a readable image" in str(error.value)
        assert "\n" not in str(error.value)


def test_folder_in_place_of_an_image_is_one_sentence(folder):
    path = folder / "iclevr/CLEVR_train_000000_1.png"
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="not a readable image"):
        IclevrDataset(folder)


@pytest.mark.parametrize(("content", "words"), [
    ("{", "malformed JSON at line 1"),
    ("", "malformed JSON"),
    ("{}", "expected a non-empty object"),
    ('{"a.png": ["red cubes"]}', "did you mean 'red cube'"),
    ('{"a.png": []}', "the label list is empty"),
    ('{"a.png": "red cube"}', "expected a list of object names"),
    ("9" * 5000, "cannot be read"),
    ("[" * 100000, "cannot be read"),
    (b"\xff\xfe\x00", "cannot be read"),
])
def test_bad_label_file_is_one_sentence(folder, content, words):
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / "train.json").write_bytes(raw)
    for read in (lambda: IclevrDataset(folder), lambda: check_folder(folder)):
        with pytest.raises(UserError) as error:
            read()
        assert words in str(error.value) and "train.json" in str(error.value)
        assert "\n" not in str(error.value)


def test_other_indices_of_objects_are_refused(folder):
    swapped = {name: 23 - i for i, name in enumerate(OBJECTS)}
    (folder / "objects.json").write_text(json.dumps(swapped))
    with pytest.raises(UserError, match="objects.json: 'gray cube' has index 23, expected 0"):
        IclevrDataset(folder)


def test_no_label_file_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="train.json: no such file"):
        IclevrDataset(tmp_path)
    with pytest.raises(UserError, match="is not a folder, expected one with train.json"):
        check_folder(tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "objects"), [("test", 72), ("new_test", 84)])
def test_conditions_by_name(name, objects):
    conditions = ConditionDataset(name)
    assert conditions.name == name and len(conditions) == len(conditions.label_sets) == 32
    assert conditions.labels.shape == (32, 24)
    assert (conditions.labels > 0.5).sum() == objects
    for label, names in zip(conditions, conditions.label_sets, strict=False):
        assert from_multi_hot(label) == tuple(names)


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_conditions_by_path(tmp_path, kind):
    (tmp_path / "mine.json").write_text('[["red cube"], ["cyan sphere", "gray cube"]]')
    conditions = ConditionDataset(kind(tmp_path / "mine.json"))
    assert conditions.name == "mine"
    assert conditions.label_sets == [("red cube",), ("cyan sphere", "gray cube")]
    assert conditions[0].nonzero().flatten().tolist() == [1]


@pytest.mark.parametrize("source", ["tests", "no/such.json"])
def test_unknown_conditions_are_one_sentence(source):
    with pytest.raises(UserError, match="did you mean 'test'|no such file"):
        ConditionDataset(source)


def test_images_have_the_strides_of_their_shape(dataset):
    image, batch = dataset[0][0], dataset.batch(np.array([0, 1]))[0]
    assert image.stride() == (64 * 64, 64, 1)
    assert batch.stride() == (3 * 64 * 64, 64 * 64, 64, 1)
