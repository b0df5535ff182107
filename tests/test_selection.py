import pytest
import torch
from conftest import awake
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm import tqdm

from cddpm_core.labels import OBJECTS, to_multi_hot
from cddpm_core.model import ClassConditionedUnet, make_model
from cddpm_core.params import Params
from cddpm_core.sampling import image_seeds, sample
from cddpm_core.schedule import make_scheduler
from cddpm_core.selection import NOISES, candidate_seeds, kept_seeds, sample_candidates, support

LABELS = torch.stack([to_multi_hot(names) for names in (
    ["red cube"], ["cyan sphere", "gray cube"], ["blue cylinder", "red cube", "green sphere"])])
OPTIONS = {"sampler": "dpm_solver++", "num_inference_steps": 4, "guidance_scale": 2.0}


class KnowsItsObjects(ClassConditionedUnet):
    """Whatever the noise, it answers with the pictures of the objects it is told of, added up."""

    def forward(self, x_t, timesteps, labels, places=None):
        pictures = torch.randn(24, *self.x_shape, generator=torch.Generator().manual_seed(1))
        return torch.einsum("bn,nchw->bchw", (labels > 0.5).float(), pictures)


@pytest.fixture
def model(tiny):
    return awake(make_model(tiny)).eval()


@pytest.fixture
def scheduler(tiny):
    return make_scheduler(tiny)


def oracle() -> ClassConditionedUnet:
    model = KnowsItsObjects(class_emb_size=8, blocks=(0,), channels=(1,), layers_per_block=1,
                            image_size=16)
    model.pixel_scale.fill_(0.05)  # so that pictures lie within [-1, 1]
    return model


def picture(model, names) -> torch.Tensor:
    label = to_multi_hot(names)[None] if names else torch.zeros(1, 24)
    return model.denormalise(model(None, 0, label))[0]


def test_candidates_at_given_places_are_judged_at_these(tiny, scheduler):
    model = awake(make_model(tiny, num_layouts=3)).eval()
    model.layouts.uniform_(0.2, 0.8, generator=torch.Generator().manual_seed(1))
    seeds, seen = [1, 2, 3], []

    def watched(x_t, timesteps, labels, places=None):
        seen.append(places)
        return torch.zeros_like(x_t)

    own = model.draw_places(LABELS, seeds)
    model.forward = watched
    sample_candidates(model, scheduler, LABELS, seeds, 2, places=own, **OPTIONS)
    there = {tuple(map(tuple, row)) for row in own.nan_to_num(-1).tolist()}
    assert all({tuple(map(tuple, row)) for row in places.nan_to_num(-1).tolist()} <= there
               for places in seen)


@given(st.lists(st.sampled_from(OBJECTS), min_size=4, max_size=4, unique=True),
       st.integers(1, 3), st.data())
@settings(max_examples=25)
def test_the_image_that_shows_the_label_is_kept_whatever_is_wrong_with_the_others(
        names, count, data):
    model, scheduler = oracle(), make_scheduler(Params())
    label, stranger = names[:count], names[3]
    wrong = data.draw(st.integers(0, count - 1))
    others = [label[:wrong] + label[wrong + 1:],              # one is missing
              label[:wrong] + [stranger] + label[wrong + 1:],  # another stands in its place
              []]
    place = data.draw(st.integers(0, 3))
    shown = others[:place] + [label] + others[place:]
    images = torch.stack([picture(model, each) for each in shown])[None]
    found = support(model, scheduler, images, to_multi_hot(label)[None], [3])
    assert found.shape == (1, 4) and found.argmax(1).tolist() == [place]


def test_support_is_the_least_gain_of_an_object():
    model, scheduler = oracle(), make_scheduler(Params())
    label = ["red cube", "cyan sphere"]
    whole, half = (picture(model, names) for names in (label, label[:1]))
    found = support(model, scheduler, torch.stack([whole, half])[None],
                    to_multi_hot(label)[None], [0])[0]
    # An object that is there makes the error grow when it is left out, by as much as it shrinks
    # where the object is not there.
    assert found[0] > 0 > found[1]


def test_one_candidate_is_the_image_of_the_sampler(model, scheduler):
    seeds = image_seeds(0, 3)
    drawn, kept = sample_candidates(model, scheduler, LABELS, seeds, 1, **OPTIONS)
    assert torch.equal(drawn[:, 0], sample(model, scheduler, LABELS, seeds, **OPTIONS))
    assert kept.tolist() == [0, 0, 0]
    assert kept_seeds(model, scheduler, LABELS, seeds, 1, **OPTIONS) == seeds


def test_the_first_candidate_is_the_image_of_the_sampler_and_the_others_differ(model, scheduler):
    seeds = image_seeds(0, 3)
    drawn, kept = sample_candidates(model, scheduler, LABELS, seeds, 3, **OPTIONS)
    assert drawn.shape == (3, 3, 3, 64, 64) and kept.shape == (3,)
    alone = sample(model, scheduler, LABELS, seeds, **OPTIONS)
    assert torch.allclose(drawn[:, 0], alone, atol=2e-3)
    assert (drawn[:, 1] - drawn[:, 0]).abs().mean() > 1e-3
    assert (drawn[:, 2] - drawn[:, 1]).abs().mean() > 1e-3


def test_the_choice_depends_on_no_other_label(model, scheduler):
    seeds = image_seeds(4, 3)
    options = {**OPTIONS, "batch_size": 5}
    drawn, kept = sample_candidates(model, scheduler, LABELS, seeds, 4, **options)
    found = support(model, scheduler, drawn, LABELS, seeds, batch_size=7)
    for i in range(3):
        alone = support(model, scheduler, drawn[i:i + 1], LABELS[i:i + 1], seeds[i:i + 1])
        assert torch.allclose(alone[0], found[i], rtol=1e-3, atol=1e-5)
    assert kept.tolist() == found.argmax(1).tolist()


def test_a_kept_seed_draws_the_kept_image(model, scheduler):
    seeds = image_seeds(1, 3)
    drawn, kept = sample_candidates(model, scheduler, LABELS, seeds, 3, **OPTIONS)
    again = sample(model, scheduler, LABELS,
                   kept_seeds(model, scheduler, LABELS, seeds, 3, **OPTIONS), **OPTIONS)
    assert torch.allclose(again, drawn[torch.arange(3), kept], atol=2e-3)


def test_the_same_seed_makes_the_same_choice_and_leaves_the_global_generator(model, scheduler):
    before = torch.get_rng_state()
    first = sample_candidates(model, scheduler, LABELS, [1, 2, 3], 3, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(9)
    again = sample_candidates(model, scheduler, LABELS, [1, 2, 3], 3, **OPTIONS)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@given(st.integers(0, 2**31), st.integers(0, 63), st.integers(2, 20))
def test_no_two_images_of_a_file_have_a_seed_in_common(seed, index, candidates):
    seeds = image_seeds(seed, 64)
    own = set(candidate_seeds(seeds[index], candidates))
    assert len(own) == candidates and seeds[index] in own
    for other in seeds[:index] + seeds[index + 1:]:
        assert own.isdisjoint(candidate_seeds(other, candidates))


def test_the_bar_is_advanced_by_each_step_and_each_noise_level(model, scheduler):
    with tqdm(total=10**6, disable=False) as bar:
        sample_candidates(model, scheduler, LABELS, [1, 2, 3], 2, bar=bar, batch_size=4, **OPTIONS)
        assert bar.n == 2 * 4 + len(NOISES)
