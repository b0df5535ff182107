"""Sample images for the conditions of a file, and score them with the evaluator of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator

from cddpm_core.config.progress import progress
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import ConditionDataset
from cddpm_core.evaluation.evaluator import Evaluator
from cddpm_core.evaluation.score import evaluator_facts, score, score_facts
from cddpm_core.evaluation.stand_in import released
from cddpm_core.sampling.pipeline import ClassConditionedPipeline
from cddpm_core.sampling.sample import image_seeds, sample, sampling_options
from cddpm_core.scheduler.samplers import make_sampler

__all__ = ["one_layout", "sample_and_score", "second_verdict"]


def second_verdict(evaluator: Evaluator, images: Mapping[str, torch.Tensor],
                   device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Return what the released stand-in says of images that another evaluator has scored.

    ``images`` are (N, 3, H, W) in [-1, 1] for each condition file. The result has the facts of
    the stand-in under ``evaluator``, and the facts of the score under the name of each file, with
    the ``image_hits`` of every image. None if ``evaluator`` is the released stand-in itself.
    """
    second = released(device)
    if second.sha256 == evaluator.sha256:
        return None
    found = {name: score(second(x), ConditionDataset(name).conditions)
             for name, x in images.items()}
    return {"evaluator": evaluator_facts(second),
            **{name: {**score_facts(scored), "image_hits": [
                sum(entry["hits"]) for entry in scored["conditions"]]}
               for name, scored in found.items()}}


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
    scored = score(evaluator(images), conditions.conditions)
    return images, {**scored, "images_per_second": round(len(images) / seconds, 3)}


def one_layout(pipeline: ClassConditionedPipeline, evaluator: Evaluator,
               conditions: ConditionDataset, params: Params, desc: str | None = None
               ) -> dict[str, Any] | None:
    """Return the facts of the score with one random layout for each image, not the clearest.

    None if that is so already: if ``layout_choices`` is 1, or the model has no layouts.
    """
    if pipeline.layout_prior is None or params.layout_choices == 1:
        return None
    return score_facts(sample_and_score(pipeline, evaluator, conditions,
                                        params.replace(layout_choices=1), desc)[1])
