"""From labels and seeds to images: reverse diffusion with classifier-free guidance.

Each image has a generator of its own, for the first noise and for every
random step, so that it does not depend on the batch it is drawn in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import DDPMScheduler
from tqdm import tqdm

from cddpm_core.devices import arithmetic_of
from cddpm_core.model import ClassConditionedUnet
from cddpm_core.params import Params
from cddpm_core.schedule import (
    alpha_bar,
    predicted_epsilon,
    predicted_x_0,
    sampling_scheduler,
    target,
)

__all__ = ["Callback", "autocast", "image_seeds", "sample", "sampling_options", "trajectory"]

Callback = Callable[[dict], None]
Likelihood = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def image_seeds(seed: int, count: int) -> list[int]:
    """Return one seed an image; image i of a run has the same seed in any batch."""
    return [seed * 1_000_003 + index for index in range(count)]


def autocast(device: torch.device | str, mixed_precision: str) -> torch.autocast:
    """Return the autocast context of ``no`` or ``bf16`` arithmetic on a device.

    A device that does not compute in bfloat16 itself stays with float32.
    """
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16,
                          enabled=arithmetic_of(mixed_precision, device) == "bfloat16")


def sampling_options(params: Params, likelihood: Likelihood | None = None) -> dict[str, Any]:
    """Return the arguments of `sample` that a run's parameters set.

    ``likelihood`` is that of the evaluator, and is left out unless the parameters ask for
    guidance by it.
    """
    return {"sampler": params.sampler, "num_inference_steps": params.num_inference_steps,
            "guidance_scale": params.guidance_scale,
            "guidance_interval": params.guidance_interval,
            "evaluator_guidance": params.evaluator_guidance,
            "likelihood": likelihood if params.evaluator_guidance else None,
            "layout_choices": params.layout_choices,
            "batch_size": params.sample_batch_size, "mixed_precision": params.mixed_precision}


@torch.no_grad()
def sample(model: ClassConditionedUnet, scheduler: DDPMScheduler, labels: torch.Tensor,
           seeds: Sequence[int], *, sampler: str = "ddpm", num_inference_steps: int | None = None,
           guidance_scale: float = 1.0, guidance_interval: Sequence[float] = (0.0, 1.0),
           evaluator_guidance: float = 0.0, likelihood: Likelihood | None = None,
           layout_choices: int = 1, places: torch.Tensor | None = None,
           images: torch.Tensor | None = None, strength: float = 1.0,
           batch_size: int = 32, mixed_precision: str = "no",
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
        guidance_interval: the timesteps with that guidance, from and up to such shares of T
            (Kynkäänniemi et al. 2024); at all others the conditional model is asked alone.
        evaluator_guidance: s of ``x_0 + s v_t grad log p(label | x_0)``, by which a classifier
            pulls at the predicted x_0 (Dhariwal & Nichol 2021, with the variance of x_0 given x_t
            as for x_0 of unit variance, v_t = 1 - alpha_bar_t; Bansal et al. 2023). Images that
            the evaluator has had a hand in say little when it scores them.
        likelihood: log p(label | image), shape (B,), for images (B, 3, H, W) in [-1, 1] and
            labels (B, 24), differentiable; needed for ``evaluator_guidance``.
        layout_choices: training scenes that an image's seed draws for a network that is told
            where the objects are to stand; it is told the clearest, see `draw_places`.
        places: where they are to stand instead, (N, 24, 2).
        images: to begin with, (N, 3, H, W) in [-1, 1], instead of with nothing but noise.
        strength: share of T; these images are given the noise of the sampler's last timestep
            below it, and drawn anew from there (Meng et al. 2022).
        batch_size: images drawn at once.
        mixed_precision: ``no`` or ``bf16`` arithmetic of the network.
        callback: called at each step with ``step``, ``timestep``, ``x_t``
            before the step and the predicted ``x_0``, both standardised.
        bar: a progress bar that is advanced by one each step.
        accelerator: its processes all call this, draw a share each, and get all images.
    """
    if len(labels) != len(seeds):
        raise ValueError(f"expected one seed an image, found {len(seeds)} for {len(labels)} labels")
    if evaluator_guidance and likelihood is None:
        raise ValueError("evaluator_guidance needs the evaluator's likelihood, found none")
    model.check_labels(labels)
    last = scheduler.config.num_train_timesteps
    low, high = guidance_interval

    if places is None:
        places = model.draw_places(labels, seeds, layout_choices)

    def guided(x_t: torch.Tensor, t: int, y: torch.Tensor, p: torch.Tensor | None) -> torch.Tensor:
        scale = guidance_scale if low <= t / last < high else 1.0
        output = _guided(model, x_t, t, y, p, scale, mixed_precision)
        if not evaluator_guidance:
            return output
        return _pulled(model, scheduler, output, x_t, t, y, evaluator_guidance, likelihood)

    steps = num_inference_steps or last
    model.eval()
    share, begin = range(len(labels)), round(strength * last)
    if accelerator is not None:
        with accelerator.split_between_processes(list(share)) as mine:
            share = mine
    drawn = []
    for start in range(0, len(share), batch_size):
        part = list(share[start:start + batch_size])
        first = None if images is None else (model.standardise(images[part].to(model.device)),
                                             begin)
        drawn.extend(_sample_batch(model, sampling_scheduler(scheduler, sampler, steps),
                                   scheduler, labels[part].to(model.device),
                                   None if places is None else places[part].to(model.device),
                                   [seeds[i] for i in part], guided, first, callback, bar))
    if accelerator is not None:
        # A process too many repeats the last image.
        drawn = gather_object(drawn)[:len(labels)]
    return torch.stack(drawn)


def _sample_batch(model, walk, scheduler, labels, places, seeds, guided, first, callback,
                  bar) -> torch.Tensor:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    x_t = torch.stack([torch.randn(model.x_shape, generator=g) for g in generators])
    state, begin = x_t.to(model.device) * walk.init_noise_sigma, 0
    if first is not None:
        state, begin = _noisy(walk, *first, x_t.to(model.device))
    noise = ({"generator": generators}
             if "generator" in inspect.signature(walk.step).parameters else {})
    for index, timestep in enumerate(walk.timesteps[begin:]):
        t = int(timestep)
        x_t = walk.scale_model_input(state, timestep)
        output = guided(x_t, t, labels, places)
        if callback is not None:
            callback({"step": index, "timestep": t, "x_t": x_t.cpu(),
                      "x_0": predicted_x_0(scheduler, output, x_t, t).cpu()})
        if walk.config.prediction_type != scheduler.config.prediction_type:
            output = predicted_epsilon(scheduler, output, x_t, t)
        state = walk.step(output, timestep, state, **noise).prev_sample
        if bar is not None:
            bar.update()
    return model.denormalise(state).cpu()


def _noisy(walk, x_0, below, noise) -> tuple[torch.Tensor, int]:
    """The state of a sampler at its first timestep below ``below``, or its last, and the place."""
    place = next((i for i, t in enumerate(walk.timesteps) if t < below), len(walk.timesteps) - 1)
    place += place % walk.order  # Heun's method has each timestep but the first twice
    if hasattr(walk, "set_begin_index"):
        walk.set_begin_index(place)
    return walk.add_noise(x_0, noise, walk.timesteps[place].long().expand(len(x_0))), place


def _guided(model, x_t, timestep, labels, places, guidance_scale, mixed_precision) -> torch.Tensor:
    with autocast(model.device, mixed_precision):
        if guidance_scale == 1:
            return model(x_t, timestep, labels, places).float()
        both = model(torch.cat([x_t, x_t]), timestep, torch.cat([labels, torch.zeros_like(labels)]),
                     None if places is None else torch.cat([places, places]))
    conditional, unconditional = both.float().chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


def _pulled(model, scheduler, output, x_t, timestep, labels, scale, likelihood) -> torch.Tensor:
    """The output whose x_0 is that of ``output``, pulled to where the label is likelier."""
    x_0 = predicted_x_0(scheduler, output, x_t, timestep)
    with torch.enable_grad():
        wanted = x_0.detach().requires_grad_()
        total = likelihood(model.denormalise(wanted), labels).sum()
        pull, = torch.autograd.grad(total, wanted)
    a = alpha_bar(scheduler)[timestep].item()
    x_0 = x_0 + scale * (1 - a) * pull
    epsilon = (x_t - a**0.5 * x_0) / (1 - a) ** 0.5
    return target(scheduler, x_0, epsilon, torch.full((len(x_t),), timestep, device=x_t.device))


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
