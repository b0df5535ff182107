import json
import shutil

import numpy as np
import pytest
import torch
from conftest import LABELS
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.data import dataset as module
from cddpm_core.data.dataset import ConditionDataset, IclevrDataset
from cddpm_core.data.images import to_float
from cddpm_core.data.labels import OBJECTS, from_multi_hot


def test_items_are_images_and_labels_in_the_order_of_the_label_file(folder):
    first = IclevrDataset(folder)
    assert len(first) == 3
    for (image, label), names in zip(first, LABELS.values(), strict=False):
        assert image.shape == (3, 64, 64) and image.dtype == torch.float32
        assert -1 <= image.min() < -0.2 and 0.2 < image.max() <= 1
        assert label.shape == (24,) and label.dtype == torch.float32
        assert from_multi_hot(label) == tuple(names)
    (folder / "train.json").write_text(json.dumps(dict(reversed(LABELS.items()))))
    second = IclevrDataset(folder)
    assert torch.equal(first[0][0], second[2][0]) and torch.equal(first[0][1], second[2][1])
    assert not torch.equal(first[0][0], second[0][0])


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_batch_is_its_items(rendered, dataset, in_memory):
    found = dataset if in_memory else IclevrDataset(rendered, in_memory=False)
    assert (found.pixels is not None) == in_memory
    indices = np.array([5, 0, 35])
    images, labels = found.batch(indices)
    assert torch.equal(images, torch.stack([found[i][0] for i in indices]))
    assert torch.equal(labels, torch.stack([found[i][1] for i in indices]))
    assert torch.equal(images, to_float(dataset.pixels[indices]))
    # Group norms are slow on the strides of a permuted view.
    assert images.is_contiguous() and found[0][0].is_contiguous()


def test_the_mean_is_that_of_the_pixels(rendered, dataset):
    everything = to_float(dataset.pixels)
    assert torch.allclose(dataset.mean(), everything.mean(0), atol=1e-6)
    few = dataset.mean(max_images=2)
    assert torch.allclose(few, everything[[0, -1]].mean(0), atol=1e-6)
    large = IclevrDataset(rendered)  # so large that the sums are over several parts
    repeat = np.arange(1000) % 36
    large.pixels, large.labels = large.pixels[repeat], large.labels[repeat]
    large.files = [large.files[i] for i in repeat]
    assert torch.allclose(large.mean(), to_float(large.pixels).mean(0), atol=1e-5)


@pytest.fixture
def cached(folder, tmp_path):
    """A data folder, its pixels, and the file that keeps them."""
    pixels = IclevrDataset(folder, cache=tmp_path / "pixels").pixels
    file, = (tmp_path / "pixels").iterdir()
    return folder, pixels, file


def test_kept_pixels_are_used_until_an_image_changes(cached):
    folder, pixels, file = cached
    np.save(file, 255 - pixels)
    again = IclevrDataset(folder, cache=file.parent)
    assert (again.pixels == 255 - pixels).all()
    Image.new("RGB", (8, 8), "red").save(again.files[0])
    changed = IclevrDataset(folder, cache=file.parent).pixels
    assert (changed[0] == (255, 0, 0)).all() and (changed[1:] == pixels[1:]).all()
    assert len(IclevrDataset(folder, cache=file.parent, leave_out=[again.conditions[0]])) == 2


@pytest.mark.parametrize("content", [b"", b"no array", "cut"])
def test_damaged_kept_pixels_are_read_again(cached, content):
    folder, pixels, file = cached
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] if content == "cut" else content)
    assert (IclevrDataset(folder, cache=file.parent).pixels == pixels).all()
    assert file.read_bytes() == whole


def test_pixels_read_by_other_code_are_read_again(cached, monkeypatch):
    folder, pixels, file = cached
    np.save(file, 255 - pixels)
    monkeypatch.setattr(module, "code_hash", lambda name: "other")
    assert (IclevrDataset(folder, cache=file.parent).pixels == pixels).all()


def test_a_cache_that_cannot_be_written_is_done_without(folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert IclevrDataset(folder, cache=tmp_path / "file").pixels.shape == (3, 64, 64, 3)


def test_the_fingerprint_is_that_of_the_data_not_of_their_path(folder, tmp_path):
    found = IclevrDataset(folder).fingerprint
    other = shutil.copytree(folder, tmp_path / "other", copy_function=shutil.copyfile)
    assert IclevrDataset(other).fingerprint == found
    assert IclevrDataset(other, in_memory=False).fingerprint == found
    assert IclevrDataset(other, image_size=32).fingerprint["pixels"] != found["pixels"]
    again = IclevrDataset(other)
    again.pixels[1, 20, 30, 2] ^= 1
    assert {key for key in found if again.fingerprint[key] != found[key]} == {"pixels"}
    labels = {**LABELS, next(iter(LABELS)): ["blue cube"]}
    (other / "train.json").write_text(json.dumps(labels))
    changed = IclevrDataset(other).fingerprint
    assert {key for key in found if changed[key] != found[key]} == {"labels"}
    (other / "train.json").write_text(json.dumps(dict(list(LABELS.items())[:2])))
    assert IclevrDataset(other).fingerprint["images"] == 2


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_missing_image_is_named_before_any_is_read(folder, in_memory):
    for name in list(LABELS)[1:]:
        (folder / "iclevr" / name).unlink()
    (folder / "iclevr" / list(LABELS)[0]).write_bytes(b"unreadable")
    with pytest.raises(UserError) as error:
        IclevrDataset(folder, in_memory=in_memory)
    assert "CLEVR_train_000000_1.png: no such image; 2 of the 3 images" in str(error.value)


def test_an_image_that_vanishes_later_is_named(folder):
    dataset = IclevrDataset(folder, in_memory=False)
    dataset.files[2].unlink()
    with pytest.raises(UserError, match="CLEVR_train_000000_2.png: no such image"):
        dataset[2]


@pytest.mark.parametrize(("file", "content", "words"), [
    ("train.json", None, "train.json: no such file"),
    ("train.json", '{"a.png": ["red cubes"]}', "did you mean 'red cube'"),
    ("train.json", '{"a.png": ["red cube"]}', "a.png: no such image"),
    ("objects.json", json.dumps({name: 0 for name in OBJECTS}),
     "objects.json: 'red cube' has index 0, which is that of 'gray cube', expected 1"),
])
def test_bad_label_files_are_one_sentence(folder, file, content, words):
    (folder / file).unlink() if content is None else (folder / file).write_text(content)
    with pytest.raises(UserError) as error:
        IclevrDataset(folder)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "objects"), [("test", 72), ("new_test", 84)])
def test_conditions_by_name(name, objects):
    found = ConditionDataset(name)
    assert found.name == name and len(found) == len(found.conditions) == 32
    assert found.labels.shape == (32, 24) and (found.labels > 0.5).sum() == objects
    for label, names in zip(found.labels, found.conditions, strict=True):
        assert from_multi_hot(label) == tuple(names)


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_conditions_by_path(tmp_path, kind):
    (tmp_path / "mine.json").write_text('[["red cube"], ["cyan sphere", "gray cube"]]')
    found = ConditionDataset(kind(tmp_path / "mine.json"))
    assert found.name == "mine"
    assert found.conditions == [("red cube",), ("cyan sphere", "gray cube")]
    assert found.labels[0].nonzero().flatten().tolist() == [1]


@pytest.mark.parametrize("source", ["tests", "no/such.json"])
def test_unknown_conditions_are_one_sentence(source):
    with pytest.raises(UserError, match="did you mean 'test'|no such file"):
        ConditionDataset(source)
