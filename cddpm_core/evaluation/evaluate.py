"""Sample images for the conditions of a file, and score them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from cddpm_core.config.progress import progress
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import ConditionDataset
from cddpm_core.evaluation.evaluator import Evaluator, load_official
from cddpm_core.evaluation.score import score
from cddpm_core.evaluation.stand_in import stand_in
from cddpm_core.sampling.pipeline import ClassConditionedPipeline
from cddpm_core.sampling.sample import image_seeds, sample, sampling_options
from cddpm_core.scheduler.samplers import make_sampler

__all__ = ["get_evaluator", "sample_and_score"]


def get_evaluator(params: Params, cache: Path, device: torch.device | str = "cpu",
                  train: bool = True) -> Evaluator | None:
    """Return the user's official evaluator, or the stand-in in ``cache``, trained if not there.

    With ``train`` false, a stand-in that is not there is None.
    """
    if params.evaluator:
        return load_official(Path(params.evaluator).expanduser(), device=device)
    return stand_in(cache / "evaluator", seed=params.data_seed,
                    num_images=params.evaluator_images, epochs=params.evaluator_epochs,
                    device=device, train=train)


def sample_and_score(pipeline: ClassConditionedPipeline, evaluator: Evaluator,
                     conditions: ConditionDataset, params: Params, desc: str | None = None,
                     accelerator: Accelerator | None = None) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return images (N, 3, H, W) in [-1, 1] of all conditions, and their `score`.

    The score has ``images_per_second`` of sampling too. ``desc`` names a progress bar; without it
    none is shown. Each process of an ``accelerator`` samples a part of the images.
    """
    steps = make_sampler(pipeline.scheduler, params.sampler, params.num_inference_steps).timesteps
    total = len(steps) * -(-len(conditions) // params.sample_batch_size)
    started = time.perf_counter()
    with progress(total=total, desc=desc, unit="step", disable=desc is None) as bar:
        images = sample(pipeline, conditions.labels, image_seeds(params.seed, len(conditions)),
                        bar=bar, accelerator=accelerator,
                        **sampling_options(pipeline, params, evaluator))
    seconds = time.perf_counter() - started
    scored = score(evaluator(evaluator.resized(images)), conditions.conditions)
    return images, {**scored, "images_per_second": round(len(images) / seconds, 3)}
