import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config import device
from cddpm_core.config.schema import Params
from cddpm_core.sampling.denoiser import Denoiser
from cddpm_core.scheduler.process import make_scheduler, predicted_x_0, target

SCHEDULERS = {kind: make_scheduler(Params(prediction_type=kind))
              for kind in ("epsilon", "v_prediction", "sample")}


@given(st.integers(0, 700), st.integers(0, 9))
def test_networks_of_all_predictions_are_the_same_denoiser(t, seed):
    x_0, epsilon = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    labels, positions = torch.zeros(2, 24), torch.zeros(2, 24, 2)
    for scheduler in SCHEDULERS.values():
        output = target(scheduler, x_0, epsilon, torch.tensor([t]))
        x_t = scheduler.add_noise(x_0, epsilon, torch.tensor([t]))

        def network(x, steps, y, where, x_t=x_t, output=output):
            assert (steps, len(y), len(where)) == (t, len(x), len(x))
            return torch.cat([output[i:i + 1] for i in range(2) for row in x
                              if torch.equal(row, x_t[i])])

        found = Denoiser(network, scheduler)(x_t, t, labels, positions)
        assert torch.allclose(found, x_0, atol=1e-4)


@torch.no_grad()
def test_bf16_is_near_float32_which_it_returns(tiny_pipeline, dataset, monkeypatch):
    monkeypatch.setattr(device, "computes_bf16", lambda device: True)
    unet, scheduler = tiny_pipeline.unet, tiny_pipeline.scheduler
    x_t = torch.randn(2, *tiny_pipeline.codec.mean.shape,
                      generator=torch.Generator().manual_seed(0))
    full, half = (Denoiser(unet, scheduler, precision)(x_t, 12, dataset.labels[:2])
                  for precision in ("no", "bf16"))
    assert full.dtype == half.dtype == torch.float32
    assert not torch.equal(full, half) and (full - half).abs().mean() < 0.05
    expected = predicted_x_0(scheduler, unet(x_t, 12, dataset.labels[:2]), x_t, 12)
    assert torch.allclose(full, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_each_image_may_have_its_own_timestep(kind):
    scheduler = SCHEDULERS[kind]
    x_t, output = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 800])

    def network(x, steps, *given):
        return output[[[3, 800].index(int(step)) for step in steps.expand(len(x))]]

    found = Denoiser(network, scheduler)(x_t, t, torch.zeros(2, 24))
    for i in range(2):
        alone = Denoiser(network, scheduler)(x_t[i:i + 1], t[i], torch.zeros(1, 24))
        assert torch.allclose(found[i:i + 1], alone, atol=1e-6)


@pytest.mark.parametrize("images", [1, 2, 3])
def test_halves_of_the_images_are_the_same_as_all_with_their_gradients(
        tiny_pipeline, dataset, images):
    unet, scheduler = tiny_pipeline.unet.eval(), tiny_pipeline.scheduler
    x_t = torch.randn(images, *tiny_pipeline.codec.mean.shape,
                      generator=torch.Generator().manual_seed(0)).requires_grad_()
    cores, sizes = torch.get_num_threads(), []

    def network(x, *given):
        sizes.append((len(x), torch.get_num_threads()))
        return unet(x, *given)

    torch.set_num_threads(2)
    try:
        found = Denoiser(network, scheduler)(x_t, 12, dataset.labels[:images])
    finally:
        torch.set_num_threads(cores)
    assert sorted(sizes) == {1: [(1, 2)], 2: [(1, 1), (1, 1)], 3: [(1, 1), (2, 1)]}[images]
    expected = predicted_x_0(scheduler, unet(x_t, 12, dataset.labels[:images]), x_t, 12)
    assert torch.allclose(found, expected, atol=1e-5)
    gradients = [torch.autograd.grad(x_0.square().sum(), x_t)[0] for x_0 in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-4) and gradients[0].any()
    with torch.no_grad():
        assert not Denoiser(unet, scheduler)(x_t, 12, dataset.labels[:images]).requires_grad
