"""What is looked at while a model trains: its accuracy on test and a grid of its images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers import DDPMScheduler

from cddpm_core.data import ConditionDataset
from cddpm_core.evaluation import draw_and_score
from cddpm_core.evaluator import Evaluator
from cddpm_core.figures import grid_image
from cddpm_core.model import ClassConditionedUnet
from cddpm_core.params import Params
from cddpm_core.runs import Run, atomic

__all__ = ["periodic_evaluation"]


def periodic_evaluation(run: Run, params: Params, evaluator: Evaluator) -> Callable[
        [ClassConditionedUnet, DDPMScheduler, str], dict[str, Any]]:
    """Return the ``evaluate`` of `training.train`.

    Called with a model, its scheduler and a name such as ``epoch_003``, it
    draws the test file, writes the grid to ``figures/progress/<name>.png`` and
    returns ``{"test": {"micro": ..., "macro": ...}}``.
    """
    conditions = ConditionDataset("test")

    def evaluate(model: ClassConditionedUnet, scheduler: DDPMScheduler,
                 name: str) -> dict[str, Any]:
        images, scored = draw_and_score(model, scheduler, evaluator, conditions, params)
        with atomic(run / f"figures/progress/{name}.png") as temporary:
            grid_image(images).save(temporary, format="png")
        return {"test": {"micro": scored["micro"], "macro": scored["macro"]}}

    return evaluate
