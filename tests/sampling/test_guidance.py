import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.schema import Params
from cddpm_core.data.labels import to_multi_hot
from cddpm_core.model.codec import PixelCodec
from cddpm_core.sampling.guidance import ClassifierGuided, Guided
from cddpm_core.sampling.sample import sample, sampling_options
from cddpm_core.scheduler.process import alpha_bar, make_scheduler

T = 20
LABELS = torch.stack([to_multi_hot(["red cube"]), to_multi_hot(["gray cube", "cyan sphere"])])
POSITIONS = torch.rand(2, 24, 2, generator=torch.Generator().manual_seed(1))


class Linear:
    """A denoiser that depends on all that it is given, and counts the images."""

    scheduler = make_scheduler(Params(num_train_timesteps=T))

    def __init__(self):
        self.images = 0

    def __call__(self, x_t, t, labels, positions=None):
        self.images += len(x_t)
        where = 0.0 if positions is None else positions.sum((1, 2))
        return x_t * (labels @ torch.arange(24.0) + where - t).view(-1, 1, 1, 1)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


@given(st.floats(-2, 8), st.integers(0, T - 1), st.booleans())
def test_guidance_goes_from_the_unconditional_through_the_conditional(scale, t, located):
    positions, x_t, denoiser = POSITIONS if located else None, noise(2, 3, 4, 4), Linear()
    found = Guided(denoiser, scale)(x_t, t, LABELS, positions)
    conditional = denoiser(x_t, t, LABELS, positions)
    unconditional = denoiser(x_t, t, torch.zeros_like(LABELS), positions)
    expected = unconditional + scale * (conditional - unconditional)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_a_scale_of_one_is_the_denoiser_at_its_own_cost():
    x_t, denoiser = noise(2, 3, 4, 4), Linear()
    guided = Guided(denoiser, 1.0)
    assert guided.scheduler is denoiser.scheduler
    assert torch.equal(guided(x_t, 7, LABELS), denoiser(x_t, 7, LABELS))
    assert denoiser.images == 4


@given(st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted), st.integers(0, T - 1))
def test_guidance_acts_within_its_interval_alone(interval, t):
    x_t, denoiser = noise(2, 3, 4, 4), Linear()
    alone, everywhere = denoiser(x_t, t, LABELS), Guided(denoiser, 4.0)(x_t, t, LABELS)
    inside = interval[0] <= t / T < interval[1]
    found = Guided(denoiser, 4.0, interval)(x_t, t, LABELS)
    assert torch.equal(found, everywhere if inside else alone)
    assert not torch.equal(alone, everywhere)


def bright(images, labels):
    """The log likelihood of images that are bright where the label says so."""
    return -(images.mean((1, 2, 3)) - labels.sum(1) / 10).square()


@pytest.mark.parametrize("t", [0, 9, T - 1])
def test_classifier_guidance_is_its_formula(t):
    codec, denoiser = PixelCodec(8), Linear()
    codec.mean.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(3))
    codec.scale.fill_(0.001)  # so that nothing is clipped
    x_t = noise(2, 3, 8, 8)
    with torch.no_grad():
        found = ClassifierGuided(denoiser, codec, bright, 1e4)(x_t, t, LABELS, POSITIONS)
    x_0 = denoiser(x_t, t, LABELS, POSITIONS)
    means = codec.decode(x_0).mean((1, 2, 3)) - LABELS.sum(1) / 10
    gradient = (-2 * means * 0.001 / (3 * 8 * 8)).view(-1, 1, 1, 1)
    variance = 1 - alpha_bar(denoiser.scheduler)[t]
    assert not found.requires_grad
    assert torch.allclose(found - x_0, 1e4 * variance * gradient.expand_as(x_0), rtol=0.02,
                          atol=1e-4)


def test_classifier_guidance_raises_the_likelihood_of_samples(tiny_pipeline, tiny):
    class Evaluator:
        log_likelihood = staticmethod(bright)

    options = {"sampler": "ddim", "num_inference_steps": 10}
    params = tiny.replace(evaluator_guidance=3000.0)
    guided = sample(tiny_pipeline, LABELS, [5, 6], **options,
                    denoiser=sampling_options(tiny_pipeline, params, Evaluator())["denoiser"])
    alone = sample(tiny_pipeline, LABELS, [5, 6], **options,
                   denoiser=sampling_options(tiny_pipeline, tiny)["denoiser"])
    assert (bright(guided, LABELS) > bright(alone, LABELS)).all()
    assert all(weight.grad is None for weight in tiny_pipeline.unet.parameters())
    with pytest.raises(ValueError, match="evaluator_guidance needs an evaluator, found none"):
        sampling_options(tiny_pipeline, params)
