import pytest
import torch

from cddpm_core.config.schema import Params
from cddpm_core.model.network import make_network
from cddpm_core.model.refinement import PRIOR_STD, Refinement
from cddpm_core.scheduler.process import alpha_bar, make_scheduler


def refinement(T: int = 100) -> tuple[Refinement, torch.Tensor]:
    """A new refinement, with no change by its layers, and alpha_bar of its noise levels."""
    scheduler = make_scheduler(Params(num_train_timesteps=T))
    made = Refinement(4, T)
    made.log_snr.copy_(alpha_bar(scheduler).log() - (1 - alpha_bar(scheduler)).log())
    return made, alpha_bar(scheduler)


@torch.no_grad()
def test_the_mean_of_normal_values_is_found_from_prediction_and_x_t():
    """Of x_0 with the predicted mean and variance no other estimate has a smaller error."""
    made, levels = refinement()
    generator = torch.Generator().manual_seed(0)
    std = torch.tensor([0.02, 0.15, 1.0]).view(1, 3, 1, 1)
    for t in (1, 10, 30, 60, 99):
        mean = torch.randn(8, 3, 32, 32, generator=generator)
        x_0 = mean + std * torch.randn(mean.shape, generator=generator)
        a = levels[t]
        x_t = a.sqrt() * x_0 + (1 - a).sqrt() * torch.randn(mean.shape, generator=generator)
        variance = (2 * (std / PRIOR_STD).log()).expand(mean.shape)
        found = made(torch.cat([mean, variance], 1), x_t, t)
        error = (found - x_0).square().mean((0, 2, 3))
        expected = 1 / (1 / std.flatten()**2 + a / (1 - a))
        assert torch.allclose(error, expected, rtol=0.05), t


@torch.no_grad()
def test_a_new_network_returns_x_t_without_noise_and_its_prediction_in_noise():
    made, levels = refinement(1000)
    x_t, mean = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    prediction = torch.cat([mean, torch.zeros(1, 3, 8, 8)], 1)
    assert torch.allclose(made(prediction, x_t, 0), x_t, atol=0.02)
    assert torch.allclose(made(prediction, x_t, 999), mean, atol=0.02)
    assert made(prediction, 5 * x_t, 999).isfinite().all()


@torch.no_grad()
def test_each_image_has_the_noise_level_of_its_timestep():
    made, _ = refinement()
    x_t = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    prediction, t = torch.zeros(3, 6, 8, 8), torch.tensor([2, 40, 95])
    found = made(prediction, x_t, t)
    for i in range(3):
        assert torch.allclose(found[i:i + 1], made(prediction[:1], x_t[i:i + 1], int(t[i])))


@pytest.mark.parametrize(("changes", "there"), [
    ({}, True), ({"refine_channels": 0}, False), ({"prediction_type": "epsilon"}, False),
    ({"prediction_type": "v_prediction"}, False),
    ({"backbone": "unet", "conditioning": "class_embedding"}, True)])
def test_networks_that_predict_x_0_are_refined(tiny, changes, there):
    params = tiny.replace(**changes)
    network = make_network(params, layout=True)
    assert hasattr(network, "refinement") == there
    if there:
        a = alpha_bar(make_scheduler(params))
        assert torch.allclose(network.refinement.log_snr.sigmoid(), a, rtol=1e-4)


@torch.no_grad()
def test_a_new_network_keeps_an_image_that_has_hardly_any_noise(tiny):
    network = make_network(tiny.replace(num_train_timesteps=1000), layout=False)
    x_t = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    x_0 = network(x_t, 0, torch.zeros(2, 24))
    assert float((x_0 - x_t).abs().max()) < 0.05
