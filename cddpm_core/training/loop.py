"""The training loop, and what it writes to the run's folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import DDPMScheduler

from cddpm_core.config.device import device_of
from cddpm_core.config.errors import UserError
from cddpm_core.config.progress import progress
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.sampling.pipeline import ClassConditionedPipeline, load_pipeline, save_pipeline
from cddpm_core.scheduler.loss_weight import Balance, loss_weight
from cddpm_core.training.checkpoint import read_checkpoint
from cddpm_core.training.history import append_history, read_history, write_history
from cddpm_core.training.memory import check_memory, out_of_memory_named
from cddpm_core.training.trainer import Trainer

__all__ = ["Evaluate", "raw_pipeline", "result_at", "train", "weights_at"]

LOG_EVERY = 25  # steps
MAX_SKIPPED = 10  # steps in a row without a finite loss and gradient before training gives up

Evaluate = Callable[[ClassConditionedPipeline, str], dict[str, Any]]


def train(params: Params, dataset: IclevrDataset, folder: Path, *,
          evaluate: Evaluate | None = None, accelerator: Accelerator | None = None,
          watch: Callable[[Path], None] | None = None) -> dict[str, Any]:
    """Train to ``params.epochs``, resuming ``checkpoint.pt`` of the run's folder if it is there.

    Writes ``history.jsonl``, ``checkpoint.pt`` and at the end ``model/``, the pipeline with
    averaged weights. ``evaluate`` is called every ``evaluate_every`` epochs with that pipeline
    and a name such as ``epoch_003``; the dict it returns goes into the history. ``watch`` is
    called with ``folder`` after each line of the history. The caller holds the folder's lock.

    With an ``accelerator`` all its processes call this and take their part of each batch;
    the first one alone writes files, and ``evaluate`` is called by all.

    Returns ``images_per_second``, ``seconds``, ``steps``, ``images``, ``loss``
    (mean of the last lines), ``parameters``, the number of ``layouts``, the ``device``, the steps
    ``skipped`` and whether training is ``finished``. Raises `UserError` for a checkpoint of another
    training, after 10 steps in a row without a finite loss, which shows at the next line of the
    history, and if the memory of the device is not enough.
    """
    trainer = Trainer(params, dataset, accelerator)
    check_memory(trainer)
    first = accelerator is None or accelerator.is_main_process
    checkpoint, counters = folder / "checkpoint.pt", trainer.counters
    if checkpoint.exists():
        trainer.load(checkpoint)
    _check_same_step(trainer, checkpoint)
    if first:
        write_history(folder, [line for line in read_history(folder)
                               if line["step"] <= trainer.step])
    last = min(trainer.total_steps, params.max_steps or trainer.total_steps)
    saved_at, steps, since = time.monotonic(), 0, 0.0

    def log(line: dict[str, Any]) -> None:
        if first:
            append_history(folder, {"step": trainer.step, "epoch": round(trainer.epoch, 4),
                                    "seconds": round(counters.seconds, 2), **line})
            if watch:
                watch(folder)

    trainer.unet.train()
    started = time.perf_counter()
    with progress(total=trainer.total_steps, initial=min(trainer.step, trainer.total_steps),
                  desc="training", unit="step", disable=not first) as bar:
        while trainer.step < last:
            epoch_before = math.floor(trainer.epoch)
            with out_of_memory_named(trainer, checkpoint, save=first):
                trainer.update()
            steps += 1
            bar.update()
            epoch = math.floor(trainer.epoch)
            due = (evaluate and params.evaluate_every and epoch > epoch_before
                   and not epoch % params.evaluate_every and trainer.step < trainer.total_steps)
            save = first and time.monotonic() - saved_at > 60 * params.checkpoint_minutes
            report = trainer.step % LOG_EVERY == 0 or trainer.step == last
            if not (due or save or report):
                continue
            seen = counters.read()  # waits for the device: what the time is of, has been done
            elapsed = time.perf_counter() - started
            counters.seconds, since = counters.seconds + elapsed, since + elapsed
            if seen.longest >= MAX_SKIPPED:
                raise _diverged(trainer.step, checkpoint)
            if report and seen.loss is not None:
                rate = round(steps * params.batch_size / since, 2)
                skipped = {"skipped": seen.skipped} if seen.skipped else {}
                log({"images": trainer.step * params.batch_size, "loss": seen.loss,
                     "images_per_second": rate,
                     "learning_rate": trainer.optimizers[0].param_groups[0]["lr"], **skipped})
                bar.set_postfix_str(f"loss {seen.loss:.4f}, {rate:.0f} img/s"
                                    + (f", {seen.skipped} skipped" if skipped else ""))
                steps, since = 0, 0.0
                counters.clear()
            if due:
                log(evaluate(trainer.averaged(), f"epoch_{epoch:03d}"))
            if save and not seen.in_a_row:
                trainer.save(checkpoint)
                saved_at = time.monotonic()
            started = time.perf_counter()
    if first:
        trainer.save(checkpoint)
        save_pipeline(trainer.averaged(), folder / "model")
    if accelerator:
        accelerator.wait_for_everyone()
    prior = trainer.pipeline.layout_prior
    return {**result_at(folder, trainer.step, params),
            "images_per_second": round(trainer.step * params.batch_size
                                       / max(counters.seconds, 1e-9), 2),
            "seconds": round(counters.seconds, 1),
            "parameters": sum(w.numel() for w in trainer.weights),
            "layouts": 0 if prior is None else len(prior.layouts),
            "device": str(trainer.device), "skipped": counters.read().skipped,
            "finished": trainer.step >= trainer.total_steps}


def _check_same_step(trainer: Trainer, checkpoint: Path) -> None:
    if trainer.accelerator and len(steps := set(gather_object([trainer.step]))) > 1:
        raise UserError(f"{checkpoint}: the processes found different checkpoints, of steps "
                        f"{sorted(steps)}; CDDPM_OUTPUTS must be one disk that all of them see")


def _diverged(step: int, checkpoint: Path) -> UserError:
    return UserError(
        f"loss: {MAX_SKIPPED} steps in a row without a finite loss and gradient, up to step "
        f"{step}; lower learning_rate or muon_learning_rate. "
        + (f"The last good checkpoint is {checkpoint}" if checkpoint.exists()
           else "There is no checkpoint yet"))


def result_at(folder: Path, step: int, params: Params) -> dict[str, Any]:
    """Return ``steps``, ``images``, ``seconds`` and ``loss`` of a training at a step.

    They are those of the last line of its history up to there; the loss is the mean of 8 lines.
    """
    lines = [line for line in read_history(folder) if "loss" in line and line["step"] <= step]
    recent = [line["loss"] for line in lines[-8:]]
    return {"steps": step, "images": step * params.batch_size,
            "seconds": lines[-1]["seconds"] if lines else 0.0,
            "loss": sum(recent) / max(1, len(recent))}


def raw_pipeline(folder: Path, params: Params) -> ClassConditionedPipeline | None:
    """Return a run's pipeline with the weights of its last step, not their moving average.

    None if there is no average, or no checkpoint of the step that the history ends with.
    """
    if not params.ema_decay or not (folder / "checkpoint.pt").exists():
        return None
    state, history = read_checkpoint(folder / "checkpoint.pt"), read_history(folder)
    if not history or state["step"] != history[-1]["step"]:
        return None
    pipeline = load_pipeline(folder / "model", device_of(params))
    pipeline.unet.load_state_dict(state["parts"]["model"])
    return pipeline


def weights_at(folder: Path, params: Params, scheduler: DDPMScheduler,
               timesteps: torch.Tensor) -> torch.Tensor:
    """Return the weights (N,) of errors at N timesteps in the loss, at the end of a training."""
    if params.loss_weighting != "balanced":
        return loss_weight(scheduler, timesteps, params.loss_weighting, params.loss_weight_max)
    balance = Balance(params.num_train_timesteps)
    balance.load_state_dict(read_checkpoint(folder / "checkpoint.pt")["parts"]["balance"])
    return balance.weight(timesteps)
