import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cddpm_core.data.labels import OBJECTS, to_multi_hot
from cddpm_core.sampling.layout_prior import LayoutPrior

LAYOUTS = np.random.default_rng(1).uniform(0.2, 0.8, (5, 3, 2)).astype(np.float32)
PRIOR = LayoutPrior.of(LAYOUTS)
conditions = st.lists(st.sampled_from(OBJECTS), min_size=1, max_size=3, unique=True)


def sampled(names, seeds, choices=1):
    """Positions of the named objects in their order, (B, n, 2)."""
    labels = to_multi_hot(names).expand(len(seeds), -1)
    positions = PRIOR.sample(labels, seeds, choices)
    assert positions.shape == (len(seeds), 24, 2)
    assert torch.equal(~positions.isnan().any(-1), labels > 0.5)
    return positions[:, [OBJECTS.index(name) for name in names]]


def gap(layout):
    """The distance of the two nearest objects."""
    return torch.pdist(layout).min()


@given(conditions, st.integers(0, 2**40))
@settings(max_examples=40)
def test_positions_are_those_of_a_scene_in_the_order_of_the_condition(names, seed):
    found, again = (sampled(names, [seed])[0] for _ in range(2))
    assert torch.equal(found, again)
    assert any(np.array_equal(found, layout[:len(names)]) for layout in LAYOUTS)


def test_every_scene_is_sampled_and_an_image_does_not_depend_on_its_batch():
    names = ["red cube", "gray sphere"]
    found = sampled(names, range(60))
    assert len({tuple(layout.flatten().tolist()) for layout in found}) == len(LAYOUTS)
    assert torch.equal(sampled(names, [7])[0], found[7])


@given(st.lists(st.sampled_from(OBJECTS), min_size=2, max_size=3, unique=True),
       st.integers(0, 99))
@settings(max_examples=25)
def test_of_several_scenes_the_one_with_the_widest_gaps_is_taken(names, seed):
    best = max(gap(torch.from_numpy(layout[:len(names)])) for layout in LAYOUTS)
    assert gap(sampled(names, [seed], 200)[0]) == best
    assert gap(sampled(names, [seed], 2)[0]) >= gap(sampled(names, [seed])[0])


def test_a_single_object_has_the_position_of_the_first_scene_of_the_seed():
    assert torch.equal(sampled(["red cube"], range(5), 8), sampled(["red cube"], range(5)))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_objects_after_the_last_one_of_a_layout_have_no_position(size):
    names = ["red cube", "gray sphere", "blue cylinder"]
    found = LayoutPrior.of(LAYOUTS[:, :size]).sample(to_multi_hot(names)[None], [3], 4)[0]
    placed = [not found[OBJECTS.index(name)].isnan().any() for name in names]
    assert placed == [index < size for index in range(3)]
