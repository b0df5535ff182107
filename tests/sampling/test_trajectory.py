from itertools import pairwise

import pytest
import torch

from cddpm_core.config.seeds import torch_generator
from cddpm_core.data.dataset import ConditionDataset
from cddpm_core.sampling.denoiser import Denoiser
from cddpm_core.sampling.guidance import Guided
from cddpm_core.sampling.sample import sample
from cddpm_core.sampling.trajectory import trajectory

LABELS = ConditionDataset("new_test").labels[:1]


@pytest.mark.parametrize(("sampler", "steps", "moments"), [
    ("ddim", 10, 12), ("dpm_solver++", 10, 10), ("sde_dpm_solver++", 15, 12),
    ("ddpm", 20, 12), ("ddpm", 20, 40)])
def test_a_trajectory_goes_from_noise_to_the_finished_image(tiny_pipeline, sampler, steps,
                                                            moments):
    pipeline, x_shape = tiny_pipeline, tiny_pipeline.codec.mean.shape
    options = {"sampler": sampler, "num_inference_steps": steps,
               "denoiser": Guided(Denoiser(pipeline.unet, pipeline.scheduler), 2.0)}
    found = trajectory(pipeline, LABELS[0], 9, moments, **options)
    assert len(found) == min(moments, steps + 1)
    timesteps = [moment["timestep"] for moment in found]
    assert timesteps[0] == 19 and timesteps[-1] == -1
    assert timesteps == sorted(set(timesteps), reverse=True)
    assert found[0]["step"] == 0 and found[-1]["step"] == steps
    gaps = [a - b for a, b in pairwise(timesteps)]
    assert max(gaps) <= 20 / min(moments - 1, steps) + 2
    noise = torch.randn(x_shape, generator=torch_generator(9, "noise"))
    assert torch.equal(found[0]["x_t"], noise)
    image = sample(pipeline, LABELS, [9], **options)[0]
    assert torch.allclose(pipeline.codec.decode(found[-1]["x_t"]), image, atol=1e-5)
    assert all(moment["x_t"].shape == moment["x_0"].shape == x_shape for moment in found)
