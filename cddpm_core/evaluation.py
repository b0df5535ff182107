"""Draw the label sets of a condition file with a model, and score the images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from PIL import Image

from cddpm_core.data import ConditionDataset
from cddpm_core.evaluator import Evaluator, load_official, score
from cddpm_core.model import ClassConditionedUnet
from cddpm_core.params import Params
from cddpm_core.runs import Run, atomic, progress
from cddpm_core.sampling import image_seeds, sampling_options
from cddpm_core.schedule import sampling_scheduler
from cddpm_core.selection import NOISES, sample_candidates
from cddpm_core.standin import stand_in

__all__ = ["draw_and_score", "get_evaluator", "save_images", "to_uint8"]

EVALUATOR_SEED = 2**40  # added to the data's seed: the stand-in sees scenes of its own


def get_evaluator(params: Params, run: Run, device: torch.device | str = "cpu", *,
                  train: bool = True) -> Evaluator | None:
    """Return the user's official evaluator, or the stand-in, trained now if not cached yet.

    None if it is not cached and ``train`` is false.
    """
    if params.evaluator:
        return load_official(Path(params.evaluator).expanduser(), device=device)
    return stand_in(run.cache / "evaluator", seed=params.data_seed + EVALUATOR_SEED,
                    num_images=params.evaluator_images, epochs=params.evaluator_epochs,
                    device=device, train=train)


def draw_and_score(model: ClassConditionedUnet, scheduler: DDPMScheduler, evaluator: Evaluator,
                   conditions: ConditionDataset, params: Params,
                   desc: str | None = None,
                   accelerator: Accelerator | None = None) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return images (N, 3, H, W) in [-1, 1] for all conditions, and their score.

    The score is that of `evaluator.score` with ``images_per_second`` added, which counts the
    images that are kept. With several ``candidates`` it has ``kept`` too, the number of each, and
    ``first``, the micro and macro accuracy of those numbered 0: without a choice.
    ``desc`` names a progress bar; none is shown without it. The processes of an
    ``accelerator`` draw a share each.
    """
    batches = -(-len(conditions) * params.candidates // params.sample_batch_size)
    walk = sampling_scheduler(scheduler, params.sampler, params.num_inference_steps)
    judged = len(NOISES) if params.candidates > 1 else 0
    started = time.perf_counter()
    with progress(total=batches * len(walk.timesteps) + judged, desc=desc, unit="step",
                  disable=desc is None) as bar:
        drawn, kept = sample_candidates(
            model, scheduler, conditions.labels, image_seeds(params.seed, len(conditions)),
            params.candidates, bar=bar, accelerator=accelerator,
            **sampling_options(params, evaluator.log_likelihood))
    seconds = time.perf_counter() - started
    images = drawn[torch.arange(len(drawn)), kept]
    scored, first = (score(evaluator(evaluator.resized(chosen)), conditions.label_sets)
                     for chosen in (images, drawn[:, 0]))
    choice = {"kept": kept.tolist(), "first": {key: first[key] for key in ("micro", "macro")}}
    return images, {**scored, **(choice if params.candidates > 1 else {}),
                    "images_per_second": round(len(images) / seconds, 3)}


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Return (..., 3, H, W) images in [-1, 1] as uint8 (..., H, W, 3)."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().movedim(-3, -1)


def save_images(images: torch.Tensor, folder: Path) -> None:
    """Write images (N, 3, H, W) in [-1, 1] as ``0.png``, ``1.png``, ... in the given order."""
    for index, pixels in enumerate(to_uint8(images).numpy()):
        with atomic(folder / f"{index}.png") as temporary:
            Image.fromarray(pixels).save(temporary, format="png")
