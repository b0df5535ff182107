"""Training: the loop, and what it writes to the run's folder."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from diffusers import DDPMScheduler
from safetensors import SafetensorError

from cddpm_core.data import IclevrDataset
from cddpm_core.devices import device_of
from cddpm_core.errors import UserError
from cddpm_core.lock import locked
from cddpm_core.model import ClassConditionedUnet, load_model
from cddpm_core.params import Params
from cddpm_core.runs import Run, atomic, progress, unwritable
from cddpm_core.trainer import Trainer, read_checkpoint

__all__ = ["load_raw", "load_trained", "result_at", "save_model", "train"]

LOG_EVERY = 25
MOST_SKIPPED = 10  # steps without a finite loss and gradient in a row, before training gives up


def train(params: Params, dataset: IclevrDataset, run: Run, *,
          evaluate: Callable[[ClassConditionedUnet, DDPMScheduler, str], dict[str, Any]]
          | None = None, accelerator: Accelerator | None = None,
          watch: Callable[[Run], None] | None = None) -> dict[str, Any]:
    """Train to ``params.epochs``, resuming ``checkpoint.pt`` of the run's folder if it is there.

    Writes ``history.jsonl``, ``checkpoint.pt`` and at the end ``model/`` (the
    averaged weights and the scheduler). ``evaluate`` is called every
    ``evaluate_every`` epochs with the averaged model, the scheduler and a name
    such as ``epoch_003``; what it returns goes into the history.

    ``watch`` is called with the run after each line added to its history.

    With an ``accelerator`` all its processes call this and take their share of each batch;
    the first one alone writes files, and ``evaluate`` is called by all.

    Returns ``images_per_second``, ``seconds``, ``steps``, ``images``, ``loss``
    (mean of the last lines), ``parameters``, the ``rows`` drawn, the number of ``layouts``, the
    steps ``skipped`` and whether training is ``finished``. Raises `UserError` if another process
    works in the run's folder, or after 10 steps in a row without a finite loss and gradient.
    """
    with locked(run.folder) if _first(accelerator) else contextlib.nullcontext():
        return _train(Trainer(params, dataset, accelerator), run, evaluate, watch)


def _first(accelerator: Accelerator | None) -> bool:
    return accelerator is None or accelerator.is_main_process


def _train(trainer: Trainer, run: Run, evaluate: Callable[..., dict[str, Any]] | None,
           watch: Callable[..., None] | None) -> dict[str, Any]:
    params, first = trainer.params, _first(trainer.accelerator)
    checkpoint = run / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
    if trainer.accelerator and len(steps := set(gather_object([trainer.step]))) > 1:
        raise UserError(f"{checkpoint}: the processes found different ones, of steps "
                        f"{sorted(steps)}; CDDPM_OUTPUTS must be one disk that all of them see")
    if first:
        _write_history(run, [line for line in run.history() if line["step"] <= trainer.step])
    last = trainer.total_steps
    if params.max_steps:
        last = min(last, params.max_steps)
    size, saved_at, steps, since = params.batch_size, time.time(), 0, 0.0

    def log(line: dict[str, Any]) -> None:
        if first:
            _write_history(run, [line], append=True)
            if watch:
                watch(run)

    trainer.model.train()
    with progress(total=trainer.total_steps, initial=min(trainer.step, trainer.total_steps),
                  desc="training", unit="step", disable=not first) as bar:
        while trainer.step < last:
            epoch_before = math.floor(trainer.epoch)
            started = time.perf_counter()
            loss = float(trainer.update())
            elapsed = time.perf_counter() - started
            trainer.seconds, since = trainer.seconds + elapsed, since + elapsed
            steps += 1
            bar.update()
            if not trainer.in_a_row:
                trainer.losses.append(loss)
            elif trainer.in_a_row == MOST_SKIPPED:
                raise UserError(
                    f"loss: {MOST_SKIPPED} steps in a row without a finite loss and gradient, up "
                    f"to step {trainer.step}; lower learning_rate or muon_learning_rate. "
                    + (f"The last good checkpoint is {checkpoint}" if checkpoint.exists()
                       else "There is no checkpoint yet"))
            if trainer.losses and (trainer.step % LOG_EVERY == 0 or trainer.step == last):
                line = {"step": trainer.step, "epoch": round(trainer.epoch, 4),
                        "images": trainer.step * size,
                        "loss": sum(trainer.losses) / len(trainer.losses),
                        "images_per_second": round(steps * size / since, 2),
                        "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                        "seconds": round(trainer.seconds, 2),
                        **({"skipped": trainer.skipped} if trainer.skipped else {})}
                log(line)
                bar.set_postfix_str(f"loss {line['loss']:.4f}, "
                                    f"{line['images_per_second']:.0f} img/s"
                                    + (f", {trainer.skipped} skipped" if trainer.skipped else ""))
                trainer.losses, steps, since = [], 0, 0.0
            epoch = math.floor(trainer.epoch)
            due = params.evaluate_every and epoch > epoch_before and (
                epoch % params.evaluate_every == 0)
            if evaluate and due and trainer.step < trainer.total_steps:
                line = {"step": trainer.step, "epoch": round(trainer.epoch, 4),
                        "seconds": round(trainer.seconds, 2), **evaluate(
                            trainer.averaged(), trainer.scheduler, f"epoch_{epoch:03d}")}
                log(line)
            if first and not trainer.in_a_row and (
                    time.time() - saved_at > 60 * params.checkpoint_minutes):
                trainer.save(checkpoint)
                saved_at = time.time()
    if first:
        trainer.save(checkpoint)
        save_model(trainer.averaged(), trainer.scheduler, run.folder)
    if trainer.accelerator:
        trainer.accelerator.wait_for_everyone()
    return {**result_at(run, trainer.step, params),
            "images_per_second": round(trainer.step * size / max(trainer.seconds, 1e-9), 2),
            "seconds": round(trainer.seconds, 1),
            "parameters": sum(w.numel() for w in trainer.model.parameters()),
            "rows": list(trainer.model.config.rows),
            "layouts": trainer.model.config.num_layouts,
            "device": str(trainer.device), "skipped": trainer.skipped,
            "finished": trainer.step >= trainer.total_steps}


def result_at(run: Run, step: int, params: Params) -> dict[str, Any]:
    """Return ``steps``, ``images``, ``seconds`` and ``loss`` that a training had at a step.

    They are those of the last line of its history up to there; the loss is the mean of 8 lines.
    """
    lines = [line for line in run.history() if "loss" in line and line["step"] <= step]
    recent = [line["loss"] for line in lines[-8:]]
    return {"steps": step, "images": step * params.batch_size,
            "seconds": lines[-1]["seconds"] if lines else 0.0,
            "loss": sum(recent) / max(1, len(recent))}


def _write_history(run: Run, lines: list[dict[str, Any]], append: bool = False) -> None:
    text, path = "".join(json.dumps(line) + "\n" for line in lines), run / "history.jsonl"
    if not append:
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        return
    size = path.stat().st_size
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        os.truncate(path, size)
        raise unwritable(error, path) from None


def save_model(model: ClassConditionedUnet, scheduler: DDPMScheduler, folder: Path) -> None:
    """Write ``model/unet`` and ``model/scheduler`` in diffusers' layout below ``folder``."""
    with atomic(folder / "model") as temporary:
        try:
            model.save_pretrained(temporary / "unet", safe_serialization=True)
            scheduler.save_pretrained(temporary / "scheduler")
        except SafetensorError as error:
            raise UserError(f"{folder / 'model'}: cannot be written ({error})") from None


def load_trained(run: Run, params: Params) -> tuple[ClassConditionedUnet, DDPMScheduler]:
    """Return the run's trained model, on the device of ``params``, and its scheduler."""
    model = load_model(run / "model/unet")
    try:
        scheduler = DDPMScheduler.from_pretrained(run / "model/scheduler", local_files_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{run / 'model/scheduler'}: not a readable scheduler ({reason}), "
                        "run the 'train' stage again") from None
    return model.to(device_of(params)), scheduler


def load_raw(run: Run, params: Params) -> ClassConditionedUnet | None:
    """Return the run's model with the weights of its last step, not their moving average.

    None if there is no average, or no checkpoint of the step that the model was saved at.
    """
    if not params.ema_decay or not (run / "checkpoint.pt").exists():
        return None
    state = read_checkpoint(run / "checkpoint.pt")
    if state["step"] != run.read("metrics.json").get("train", {}).get("steps"):
        return None
    model, _ = load_trained(run, params)
    model.load_state_dict(state["model"])
    return model.eval()
