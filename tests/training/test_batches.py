import numpy as np
import pytest
import torch

from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.training import batches as module
from cddpm_core.training.batches import Batches

WHOLE, CPU = slice(0, 8), torch.device("cpu")


def alike(one, other):
    """Whether two batches are the same; unknown positions are NaN in both."""
    return all(torch.equal(a.nan_to_num(9), b.nan_to_num(9))
               for a, b in zip(one, other, strict=True))


@pytest.fixture
def make(tiny, dataset):
    """Makes the batches of a training."""
    def made(found=dataset, mine=WHOLE, layout=True, **changes):
        return Batches(tiny.replace(**changes), found, CPU, mine, layout)

    return made


def test_a_batch_is_that_of_its_step_whatever_came_before(make):
    one, other = make(), make()
    for step in range(6):
        one(step)
    for step in (3, 7, 0):
        assert alike(one(step), other(step))
    assert not torch.equal(one(0).epsilon, make(seed=1)(0).epsilon)


def test_images_and_labels_are_those_of_the_data(make, dataset):
    batch, indices = make(label_drop=0.0, guidance_scale=1.0)(2), make().indices(2)
    images, labels = dataset.batch(indices)
    assert torch.equal(batch.images, images) and torch.equal(batch.labels, labels)
    assert torch.equal(batch.positions.nan_to_num(9), dataset.positions[indices].nan_to_num(9))
    assert make(layout=False)(2).positions.isnan().all()


def test_an_image_of_three_objects_comes_three_times_as_often_as_one_of_one(make, dataset):
    objects = np.array([len(names) for names in dataset.conditions])
    found = make()
    seen = np.bincount(np.concatenate([objects[found._order(epoch)] for epoch in range(200)]))
    assert seen[1:] / seen[1] == pytest.approx([1, 2, 3], rel=0.05)


@pytest.mark.parametrize("epoch", range(3))
def test_images_come_up_as_often_as_they_have_objects(make, dataset, epoch):
    """Rounded up or down by chance, so that the counts over epochs are right on average."""
    objects = np.array([len(names) for names in dataset.conditions])
    found = make()._order(epoch)
    assert len(found) == len(dataset)
    often = np.bincount(found, minlength=len(dataset))
    assert (abs(often - objects / objects.mean()) < 1).all() and often.std() > 0
    alike = make(image_sampling="uniform")._order(epoch)
    assert sorted(alike) == list(range(len(dataset)))


@pytest.mark.parametrize("held", [0.25, 0.0])
def test_images_that_are_not_held_are_read_in_time(make, rendered, monkeypatch, held):
    """From files, or from memory that the device has not enough of."""
    monkeypatch.setattr(module, "_memory", lambda device: 1e12 * held)
    read = make(IclevrDataset(rendered, in_memory=False))
    again = make()
    assert (again.pixels is None) == (held == 0)
    monkeypatch.undo()
    expected = make()
    for step in (0, 1, 2, 7, 3):  # a resumed training jumps
        for found in (read, again):
            assert alike(found(step), expected(step))


def test_the_parts_of_processes_are_the_batch(make):
    whole = make()(4)
    parts = [make(mine=mine)(4) for mine in (slice(0, 3), slice(3, 8))]
    for name in whole._fields:
        both = torch.cat([getattr(part, name) for part in parts])
        assert torch.allclose(both, getattr(whole, name), equal_nan=True)
