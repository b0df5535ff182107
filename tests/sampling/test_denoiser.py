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
        seen = []

        def network(*given, output=output, seen=seen):
            seen.append(given)
            return output

        found = Denoiser(network, scheduler)(x_t, t, labels, positions)
        assert torch.allclose(found, x_0, atol=1e-4)
        assert [id(value) for value in seen[0]] == [id(v) for v in (x_t, t, labels, positions)]


@torch.no_grad()
def test_bf16_is_near_float32_which_it_returns(tiny_pipeline, dataset, monkeypatch):
    monkeypatch.setattr(device, "computes_bf16", lambda device: True)
    unet, scheduler = tiny_pipeline.unet, tiny_pipeline.scheduler
    x_t = torch.randn(2, *tiny_pipeline.codec.x_shape, generator=torch.Generator().manual_seed(0))
    full, half = (Denoiser(unet, scheduler, precision)(x_t, 12, dataset.labels[:2])
                  for precision in ("no", "bf16"))
    assert full.dtype == half.dtype == torch.float32
    assert not torch.equal(full, half) and (full - half).abs().mean() < 0.05
    expected = predicted_x_0(scheduler, unet(x_t, 12, dataset.labels[:2]), x_t, 12)
    assert torch.equal(full, expected)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_each_image_may_have_its_own_timestep(kind):
    scheduler = SCHEDULERS[kind]
    x_t, output = torch.randn(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 800])
    found = Denoiser(lambda *given: output, scheduler)(x_t, t, torch.zeros(2, 24))
    for i in range(2):
        alone = Denoiser(lambda *given, i=i: output[i:i + 1], scheduler)(
            x_t[i:i + 1], int(t[i]), torch.zeros(1, 24))
        assert torch.allclose(found[i:i + 1], alone, atol=1e-6)
