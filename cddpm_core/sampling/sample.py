"""The reverse process. Each image has its own generator, so it does not depend on its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from cddpm_core.config.device import compiled
from cddpm_core.config.schema import Params
from cddpm_core.config.seeds import stream_seed, torch_generator
from cddpm_core.sampling.denoiser import Denoise, Denoiser
from cddpm_core.sampling.guidance import ClassifierGuided, Guided
from cddpm_core.scheduler.samplers import SAMPLERS, make_sampler

if TYPE_CHECKING:
    from cddpm_core.sampling.pipeline import ClassConditionedPipeline

__all__ = ["Callback", "image_seeds", "sample", "sampling_options"]

Callback = Callable[[dict], None]


def image_seeds(seed: int, count: int, stream: str = "image") -> list[int]:
    """Return one seed per image; image i of a run has the same seed in any batch."""
    return [stream_seed(seed, stream, index) for index in range(count)]


def sampling_options(pipeline: ClassConditionedPipeline, params: Params,
                     evaluator: Any = None) -> dict[str, Any]:
    """Return the arguments of `sample` that a run's parameters set.

    ``evaluator`` guides only if ``params.evaluator_guidance`` is above 0, and is needed then.
    """
    network = compiled(pipeline.unet, params.compile, pipeline.device, params.num_inference_steps)
    denoiser: Denoise = Guided(Denoiser(network, pipeline.scheduler, params.mixed_precision),
                               params.guidance_scale, params.guidance_interval)
    if params.evaluator_guidance:
        if evaluator is None:
            raise ValueError("evaluator_guidance needs an evaluator, found none")
        denoiser = ClassifierGuided(denoiser, pipeline.codec, evaluator.log_likelihood,
                                    params.evaluator_guidance)
    return {"denoiser": denoiser, "sampler": params.sampler,
            "num_inference_steps": params.num_inference_steps,
            "layout_choices": params.layout_choices, "grain": params.grain,
            "batch_size": params.sample_batch_size}


@torch.no_grad()
def sample(pipeline: ClassConditionedPipeline, labels: torch.Tensor, seeds: Sequence[int], *,
           denoiser: Denoise | None = None, sampler: str = "ddpm",
           num_inference_steps: int | None = None, layout_choices: int = 1,
           positions: torch.Tensor | None = None, images: torch.Tensor | None = None,
           strength: float = 1.0, grain: bool = True, batch_size: int = 32,
           callback: Callback | None = None, bar: tqdm | None = None,
           accelerator: Accelerator | None = None) -> torch.Tensor:
    """Return sampled images, float (N, 3, H, W) in [-1, 1], on the CPU.

    Args:
        pipeline: the model; images are sampled on its device.
        labels: multi-hot floats, shape (N, 24).
        seeds: N integers, one per image.
        denoiser: predicts x_0, guided or not; by default the network alone, in float32.
        sampler: a name of `SAMPLERS`.
        num_inference_steps: steps of the sampler; all T by default.
        positions: of the objects, (N, 24, 2), as fractions of width and height; by default
            those of `LayoutPrior.sample` with ``layout_choices``.
        images: to start from, (N, 3, H, W) in [-1, 1], in place of pure noise.
        strength: fraction of T; ``images`` are noised to the sampler's largest timestep
            below it, or to its last one, and denoised from there (SDEdit, Meng et al. 2022).
        grain: add the grain of the training images to the sampled ones, see `PixelCodec`.
        callback: called at each step with ``step``, ``timestep``, ``x_t``
            before the step and the predicted ``x_0``, as the network sees them.
        bar: a progress bar, advanced by one each step.
        accelerator: all its processes call this; each samples a part and gets all images.
    """
    if len(labels) != len(seeds):
        raise ValueError(f"expected a seed per image, found {len(seeds)} for {len(labels)} labels")
    pipeline.unet.check_labels(labels)
    pipeline.unet.eval()
    T = pipeline.scheduler.config.num_train_timesteps
    denoiser = denoiser or Denoiser(pipeline.unet, pipeline.scheduler)
    if positions is None and pipeline.layout_prior is not None:
        positions = pipeline.layout_prior.sample(labels, seeds, layout_choices)
    rows = list(range(len(labels)))
    if accelerator is not None:
        with accelerator.split_between_processes(rows) as mine:
            rows = mine
    sampled: list[torch.Tensor] = []
    for start in range(0, len(rows), batch_size):
        part = rows[start:start + batch_size]
        solver = make_sampler(pipeline.scheduler, sampler,
                              T if num_inference_steps is None else num_inference_steps)
        noise = [torch_generator(seeds[i], "noise") for i in part]
        x_T = torch.stack([torch.randn(pipeline.codec.mean.shape, generator=g) for g in noise])
        state, first = x_T.to(pipeline.device) * solver.init_noise_sigma, 0
        if images is not None:
            x_0 = pipeline.codec.encode(images[part].to(pipeline.device))
            state, first = _sdedit_start(solver, x_0, round(strength * T), x_T.to(x_0))
        given = [None if values is None else values[part].to(pipeline.device)
                 for values in (labels, positions)]
        x_0 = _denoise(state, solver, first, denoiser, sampler, given, noise, callback, bar)
        decoded = pipeline.codec.decode(x_0)
        if grain:
            decoded = pipeline.codec.with_grain(decoded, torch.stack([
                torch.randn(decoded.shape[1:], generator=torch_generator(seeds[i], "grain"))
                for i in part]))
        sampled.extend(decoded.cpu())
    if accelerator is not None:
        sampled = gather_object(sampled)[:len(labels)]  # which some versions pad
    return torch.stack(sampled)


def _denoise(state: torch.Tensor, solver: Any, first: int, denoiser: Denoise, sampler: str,
             given: Sequence[torch.Tensor | None], noise: list[torch.Generator],
             callback: Callback | None, bar: tqdm | None) -> torch.Tensor:
    """Take the sampler's steps from its timestep number ``first`` on; return x_0."""
    generator = {"generator": noise} if SAMPLERS[sampler].fresh_noise else {}
    for index, timestep in enumerate(solver.timesteps[first:]):
        t = int(timestep)
        x_t = solver.scale_model_input(state, timestep)
        x_0 = denoiser(x_t, t, *given)
        if solver.config.clip_sample:  # which not all of diffusers' samplers do themselves
            x_0 = x_0.clamp(-1, 1)
        if callback is not None:
            callback({"step": index, "timestep": t, "x_t": x_t.cpu(), "x_0": x_0.cpu()})
        state = solver.step(x_0, timestep, state, **generator).prev_sample
        if bar is not None:
            bar.update()
    return state


def _sdedit_start(solver: Any, x_0: torch.Tensor, below: int,
                  noise: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The noised x_0 at the largest timestep below ``below``, or the last, and its number."""
    last = len(solver.timesteps) - 1
    first = next((i for i, t in enumerate(solver.timesteps) if t < below), last)
    if hasattr(solver, "set_begin_index"):
        solver.set_begin_index(first)
    return solver.add_noise(x_0, noise, solver.timesteps[first].long().expand(len(x_0))), first
