"""From labels and seeds to images: reverse diffusion with classifier-free guidance.

Each image has a generator of its own, for the first noise and for every
random step, so that it does not depend on the batch it is drawn in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import DDPMScheduler
from tqdm import tqdm

from cddpm_core.model import ClassConditionedUnet
from cddpm_core.schedule import predicted_epsilon, predicted_x_0, sampling_scheduler

__all__ = ["Callback", "autocast", "image_seeds", "sample", "trajectory"]

Callback = Callable[[dict], None]


def image_seeds(seed: int, count: int) -> list[int]:
    """Return one seed an image; image i of a run has the same seed in any batch."""
    return [seed * 1_000_003 + index for index in range(count)]


def autocast(device: torch.device | str, mixed_precision: str) -> torch.autocast:
    """Return the autocast context of ``no`` or ``bf16`` arithmetic on a device."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16,
                          enabled=mixed_precision == "bf16")


@torch.no_grad()
def sample(model: ClassConditionedUnet, scheduler: DDPMScheduler, labels: torch.Tensor,
           seeds: Sequence[int], *, sampler: str = "ddpm", num_inference_steps: int | None = None,
           guidance_scale: float = 1.0, batch_size: int = 32, mixed_precision: str = "no",
           callback: Callback | None = None, bar: tqdm | None = None,
           accelerator: Accelerator | None = None) -> torch.Tensor:
    """Return images drawn for labels, float (N, 3, H, W) in [-1, 1], on the CPU.

    Args:
        model: the network; images are drawn on its device.
        scheduler: the noise schedule it was trained with.
        labels: multi-hot floats, shape (N, 24).
        seeds: N integers, one an image.
        sampler: a name of `schedule.SAMPLERS`; see `sampling_scheduler`.
        num_inference_steps: steps of the sampler; all T by default.
        guidance_scale: w of ``o_null + w (o_label - o_null)`` (Ho & Salimans
            2022); 1 samples the conditional model alone.
        batch_size: images drawn at once.
        mixed_precision: ``no`` or ``bf16`` arithmetic of the network.
        callback: called at each step with ``step``, ``timestep``, ``x_t``
            before the step and the predicted ``x_0``, both standardised.
        bar: a progress bar that is advanced by one each step.
        accelerator: its processes all call this, draw a share each, and get all images.
    """
    if len(labels) != len(seeds):
        raise ValueError(f"expected one seed an image, found {len(seeds)} for {len(labels)} labels")
    model.check_labels(labels)
    steps = num_inference_steps or scheduler.config.num_train_timesteps
    model.eval()
    share = range(len(labels))
    if accelerator is not None:
        with accelerator.split_between_processes(list(share)) as mine:
            share = mine
    images = []
    for start in range(0, len(share), batch_size):
        part = list(share[start:start + batch_size])
        images.extend(_sample_batch(model, sampling_scheduler(scheduler, sampler, steps),
                                    scheduler, labels[part].to(model.device),
                                    [seeds[i] for i in part],
                                    guidance_scale, mixed_precision, callback, bar))
    if accelerator is not None:
        # A process too many repeats the last image.
        images = gather_object(images)[:len(labels)]
    return torch.stack(images)


def _sample_batch(model, walk, scheduler, labels, seeds, guidance_scale, mixed_precision,
                  callback, bar) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x_t = torch.stack([torch.randn(model.x_shape, generator=g) for g in generators])
    state = x_t.to(model.device) * walk.init_noise_sigma
    noise = ({"generator": generators}
             if "generator" in inspect.signature(walk.step).parameters else {})
    for index, timestep in enumerate(walk.timesteps):
        t = int(timestep)
        x_t = walk.scale_model_input(state, timestep)
        output = _guided(model, x_t, t, labels, guidance_scale, mixed_precision)
        if callback is not None:
            callback({"step": index, "timestep": t, "x_t": x_t.cpu(),
                      "x_0": predicted_x_0(scheduler, output, x_t, t).cpu()})
        if walk.config.prediction_type != scheduler.config.prediction_type:
            output = predicted_epsilon(scheduler, output, x_t, t)
        state = walk.step(output, timestep, state, **noise).prev_sample
        if bar is not None:
            bar.update()
    return model.denormalise(state).cpu()


def _guided(model, x_t, timestep, labels, guidance_scale, mixed_precision) -> torch.Tensor:
    with autocast(model.device, mixed_precision):
        if guidance_scale == 1:
            return model(x_t, timestep, labels).float()
        both = model(torch.cat([x_t, x_t]), timestep, torch.cat([labels, torch.zeros_like(labels)]))
    conditional, unconditional = both.float().chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


def trajectory(model: ClassConditionedUnet, scheduler: DDPMScheduler, label: torch.Tensor,
               seed: int, moments: int = 12, **options) -> list[dict]:
    """Return the denoising process of one image at evenly spaced moments, noise first.

    Each moment is a dict with ``step``, ``timestep``, ``x_t`` and predicted
    ``x_0``, both float (3, H, W) in the space the network sees; the last one is
    the finished image, with ``timestep`` -1. ``options`` are those of `sample`.
    """
    seen: list[dict] = []
    image = sample(model, scheduler, label[None], [seed], callback=seen.append, **options)[0]
    last = len(seen)
    # Heun's method sees most timesteps twice; the second time with what the first has led to.
    seen = list({moment["timestep"]: moment for moment in seen}.values())
    count = min(moments - 1, len(seen))
    chosen = torch.linspace(0, len(seen) - 1, count).round().long().unique().tolist()
    film = [{**seen[i], "x_t": seen[i]["x_t"][0], "x_0": seen[i]["x_0"][0]} for i in chosen]
    final = model.standardise(image.to(model.device)).cpu()
    return [*film, {"step": last, "timestep": -1, "x_t": final, "x_0": final}]
