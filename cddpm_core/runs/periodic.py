"""Evaluation during training: accuracy and sharpness on test, and a grid of the images."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator

from cddpm_core.config.files import atomic
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import ConditionDataset, IclevrDataset
from cddpm_core.evaluation.evaluate import sample_and_score
from cddpm_core.evaluation.evaluator import Evaluator
from cddpm_core.evaluation.fidelity import expected_sharpness, sharpness
from cddpm_core.evaluation.images import grid_image
from cddpm_core.runs.run import Run
from cddpm_core.sampling.pipeline import ClassConditionedPipeline, save_pipeline

__all__ = ["early_variant", "periodic_evaluation"]


def early_variant(run: Run, params: Params, epochs: int) -> Run:
    """Return the folder of a variant of the timesteps experiment, stopped after ``epochs``."""
    return Run(f"T{params.num_train_timesteps}_stopped{epochs}of{params.epochs}",
               outputs=run / "timesteps")


def periodic_evaluation(run: Run, params: Params, dataset: IclevrDataset, evaluator: Evaluator,
                        accelerator: Accelerator | None = None) -> Callable[
        [ClassConditionedPipeline, str], dict[str, Any]]:
    """Return the ``evaluate`` of `training.loop.train`.

    Called with a pipeline and a name such as ``epoch_003``, it samples the conditions of
    ``test``, writes the grid to ``figures/progress/<name>.png`` and returns
    ``{"test": {"micro": ..., "macro": ..., "sharpness": ...}}``, the last relative to training
    images with as many objects. The pipeline of the epoch ``experiment_epochs`` is
    kept as a variant of the timesteps experiment. Each process of an ``accelerator`` samples a
    part of the images, and the first one writes.
    """
    conditions = ConditionDataset("test")
    # The curve shows what the network has learned, so the evaluator does not guide here.
    params = params.replace(evaluator_guidance=0.0)
    expected = functools.cache(lambda: expected_sharpness(dataset, conditions.conditions))

    def evaluate(pipeline: ClassConditionedPipeline, name: str) -> dict[str, Any]:
        images, scored = sample_and_score(pipeline, evaluator, conditions, params,
                                          accelerator=accelerator)
        found = {"test": {"micro": scored["micro"], "macro": scored["macro"],
                          "sharpness": sharpness(images) / expected()}}
        if accelerator and not accelerator.is_main_process:
            return found
        with atomic(run / f"figures/progress/{name}.png") as temporary:
            grid_image(images).save(temporary, format="png")
        if params.experiment_epochs and name == f"epoch_{params.experiment_epochs:03d}":
            save_pipeline(pipeline, early_variant(run, params, params.experiment_epochs) / "model")
        return found

    return evaluate
