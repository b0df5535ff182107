"""What is looked at while a model trains: its accuracy on test and a grid of its images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from diffusers import DDPMScheduler

from cddpm_core.data import ConditionDataset
from cddpm_core.evaluation import draw_and_score
from cddpm_core.evaluator import Evaluator
from cddpm_core.figures import grid_image
from cddpm_core.model import ClassConditionedUnet
from cddpm_core.params import Params
from cddpm_core.runs import Run, atomic
from cddpm_core.training import save_model

__all__ = ["early_arm", "periodic_evaluation"]


def early_arm(run: Run, params: Params, epochs: int) -> Run:
    """Return the folder of an arm of the timesteps experiment that is stopped after ``epochs``."""
    return Run(f"T{params.num_train_timesteps}_stopped{epochs}of{params.epochs}",
               outputs=run / "timesteps")


def periodic_evaluation(run: Run, params: Params, evaluator: Evaluator,
                        accelerator: Accelerator | None = None) -> Callable[
        [ClassConditionedUnet, DDPMScheduler, str], dict[str, Any]]:
    """Return the ``evaluate`` of `training.train`.

    Called with a model, its scheduler and a name such as ``epoch_003``, it
    draws the test file, writes the grid to ``figures/progress/<name>.png`` and
    returns ``{"test": {"micro": ..., "macro": ...}}``. The model of the epoch
    ``experiment_epochs`` is kept, as one arm of the timesteps experiment. The processes of
    an ``accelerator`` draw a share each, and the first one writes. The evaluator never guides
    here, and one image is drawn for each label set.
    """
    conditions = ConditionDataset("test")
    # The curve is of what the network has learned, whatever guides and chooses the final images;
    # the objects stand where they do there.
    params = params.replace(evaluator_guidance=0.0, candidates=1)

    def evaluate(model: ClassConditionedUnet, scheduler: DDPMScheduler,
                 name: str) -> dict[str, Any]:
        images, scored = draw_and_score(model, scheduler, evaluator, conditions, params,
                                        accelerator=accelerator)
        accuracies = {"test": {"micro": scored["micro"], "macro": scored["macro"]}}
        if accelerator and not accelerator.is_main_process:
            return accuracies
        with atomic(run / f"figures/progress/{name}.png") as temporary:
            grid_image(images).save(temporary, format="png")
        if params.experiment_epochs and name == f"epoch_{params.experiment_epochs:03d}":
            save_model(model, scheduler,
                       early_arm(run, params, params.experiment_epochs).folder)
        return accuracies

    return evaluate
