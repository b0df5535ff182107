"""Training: the loop, its checkpoints, and what it writes to the run's folder.

The order of the images, the noise, the timesteps and the dropped labels are
functions of the seed and the step, so a resumed run goes the same way as one
that was never stopped.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from torch.nn.utils import get_total_norm

from cddpm_core.data import IclevrDataset
from cddpm_core.errors import UserError
from cddpm_core.lock import locked
from cddpm_core.model import ClassConditionedUnet, load_model, make_model
from cddpm_core.optim import lr_factor, make_optimizers
from cddpm_core.params import Params
from cddpm_core.runs import Run, atomic, progress
from cddpm_core.sampling import autocast
from cddpm_core.schedule import draw_timesteps, loss_weight, make_scheduler, target

__all__ = ["Trainer", "device_of", "load_trained", "read_checkpoint", "result_at", "save_model",
           "train"]

LOG_EVERY = 25
MOST_SKIPPED = 10  # steps without a finite loss and gradient in a row, before training gives up

# The parameters that make the weights; a checkpoint is resumed only with the same ones.
# More epochs may be asked for; with a falling learning rate that is not quite one long training.
TRAIN_KEYS = ("seed", "image_size", "class_emb_size", "backbone", "transformer_blocks",
              "conditioning", "blocks", "channels", "layers_per_block", "patch_size",
              "time_scale_shift", "attention_head_dim", "standardise", "data_scale",
              "num_train_timesteps", "beta_schedule", "prediction_type", "timestep_sampling",
              "timestep_shift", "loss_weighting", "loss_weight_max", "batch_size", "optimizer",
              "learning_rate", "muon_learning_rate", "lr_schedule", "lr_warmup_steps",
              "lr_decay_start", "label_drop", "ema_decay", "mixed_precision")
DATA_KEYS = ("data", "num_scenes", "data_seed", "holdout")
CHECKPOINT_KEYS = {"params", "images", "labels", "step", "seconds", "model", "ema", "optimizers"}


def device_of(params: Params) -> torch.device:
    """Return the device asked for, the best one there is for ``auto``."""
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if params.device == "auto":
        return torch.device(best.type if best else "cpu")
    if params.device != "cpu" and (best is None or best.type != params.device):
        raise UserError(f"device: {params.device!r} is not there, expected 'auto' or 'cpu'")
    return torch.device(params.device)


class Trainer:
    """The state of one training: model, moving average, optimisers and counters.

    ``step`` counts updates, ``seconds`` the time spent on them, ``skipped`` those
    left out for a loss or gradient that was not finite, ``in_a_row`` the last of them.
    ``losses`` are those since the last line of the history. `save` and `load` write
    and read all of it.
    """

    def __init__(self, params: Params, dataset: IclevrDataset) -> None:
        self.params, self.dataset = params, dataset
        self.device = device_of(params)
        self.scheduler = make_scheduler(params)
        self.model = make_model(params)
        self.model.check_labels(dataset.labels)
        if params.standardise:
            self.model.pixel_mean.copy_(dataset.mean_image())
            self.model.pixel_scale.fill_(params.data_scale)
        self.model.to(self.device)
        self.optimizers = make_optimizers(self.model, params)
        self.peaks = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.ema = EMAModel(self.model.parameters(), decay=params.ema_decay)
        self.total_steps = math.ceil(params.epochs * len(dataset) / params.batch_size)
        self.step, self.seconds, self.skipped, self.in_a_row = 0, 0.0, 0, 0
        self.losses: list[float] = []
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def epoch(self) -> float:
        """Passes over the training images so far, a fraction."""
        return self.step * self.params.batch_size / len(self.dataset)

    def _indices(self, step: int) -> np.ndarray:
        """Indices of the images of a step: shuffled epochs, one after the other."""
        size, count = self.params.batch_size, len(self.dataset)
        chosen = []
        for position in range(step * size, (step + 1) * size):
            epoch, place = divmod(position, count)
            if self._order is None or self._order[0] != epoch:
                shuffled = np.random.default_rng([self.params.seed, epoch]).permutation(count)
                self._order = (epoch, shuffled)
            chosen.append(self._order[1][place])
        return np.array(chosen)

    def update(self) -> torch.Tensor:
        """Take one step and return its loss, a scalar tensor (Ho et al. 2020, algorithm 1).

        A loss or gradient that is not finite leaves weights, optimisers and average as they are.
        """
        p, device = self.params, self.device
        images, labels = self.dataset.batch(self._indices(self.step))
        generator = torch.Generator().manual_seed(p.seed * 2**32 + self.step)
        count = len(images)
        timesteps = draw_timesteps(count, p.num_train_timesteps, p.timestep_sampling,
                                   p.timestep_shift, generator).to(device)
        epsilon = torch.randn(images.shape, generator=generator).to(device)
        kept = (torch.rand(count, 1, generator=generator) >= p.label_drop).float()
        x_0 = self.model.standardise(images.to(device, non_blocking=True))
        x_t = self.scheduler.add_noise(x_0, epsilon, timesteps)
        with autocast(device, p.mixed_precision):
            output = self.model(x_t, timesteps, (labels * kept).to(device))
        error = (output.float() - target(self.scheduler, x_0, epsilon, timesteps)) ** 2
        weight = loss_weight(self.scheduler, timesteps, p.loss_weighting, p.loss_weight_max)
        loss = (error.mean((1, 2, 3)) * weight.to(device)).mean()
        loss.backward()
        norm = get_total_norm([w.grad for w in self.model.parameters() if w.grad is not None])
        self.step += 1
        if not (loss + norm.to(loss)).isfinite():
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            return loss.detach()
        self.in_a_row = 0
        factor = lr_factor(self.step - 1, self.total_steps, p)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad()
        if p.ema_decay:
            self.ema.step(self.model.parameters())
        return loss.detach()

    def averaged(self) -> ClassConditionedUnet:
        """Return a copy of the model with the averaged weights, ready to sample."""
        model = copy.deepcopy(self.model)
        if self.params.ema_decay:
            self.ema.copy_to(model.parameters())
        return model.eval()

    def _labels_hash(self) -> str:
        return hashlib.sha256(self.dataset.labels.numpy().tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the whole state to a checkpoint, atomically."""
        kept = {k: getattr(self.params, k) for k in (*TRAIN_KEYS, *DATA_KEYS)}
        state = {"schema": 1, "params": kept, "images": len(self.dataset),
                 "labels": self._labels_hash(), "step": self.step, "seconds": self.seconds,
                 "skipped": self.skipped, "losses": self.losses,
                 "model": self.model.state_dict(), "ema": self.ema.state_dict(),
                 "optimizers": [o.state_dict() for o in self.optimizers]}
        with atomic(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint; `UserError` if it is damaged or of another configuration."""
        state = read_checkpoint(path)
        made_with, anew = state["params"], "take another run name, or remove that file"
        for key in TRAIN_KEYS:
            if made_with.get(key) != getattr(self.params, key):
                raise UserError(
                    f"{path}: checkpoint of another configuration, {key} is "
                    f"{made_with.get(key)!r} there and {getattr(self.params, key)!r} here; "
                    f"{anew} to train anew")
        if (state["images"], state["labels"]) != (len(self.dataset), self._labels_hash()):
            raise UserError(f"{path}: checkpoint of another data set, of {state['images']} images "
                            f"where there are {len(self.dataset)} here, or with other labels; "
                            f"{anew}")
        if state["step"] > self.total_steps:
            raise UserError(f"{path}: checkpoint of step {state['step']}, beyond the "
                            f"{self.total_steps} that epochs {self.params.epochs} asks for; {anew}")
        try:
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{path}: checkpoint of another network ({type(error).__name__}), "
                            "remove it to train anew") from None
        self.ema.to(self.device)
        self.step, self.seconds = state["step"], state["seconds"]
        self.skipped, self.losses = state.get("skipped", 0), list(state.get("losses", []))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `Trainer.save` wrote; `UserError` if the file is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = CHECKPOINT_KEYS - set(state)
    except Exception as error:
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}), "
                        "remove it to train anew") from None
    if missing:
        raise UserError(f"{path}: not a checkpoint of this library, {', '.join(sorted(missing))} "
                        "not in it; remove it to train anew")
    return state


def train(params: Params, dataset: IclevrDataset, run: Run, *,
          evaluate: Callable[[ClassConditionedUnet, DDPMScheduler, str], dict[str, Any]]
          | None = None) -> dict[str, Any]:
    """Train to ``params.epochs``, resuming ``checkpoint.pt`` of the run's folder if it is there.

    Writes ``history.jsonl``, ``checkpoint.pt`` and at the end ``model/`` (the
    averaged weights and the scheduler). ``evaluate`` is called every
    ``evaluate_every`` epochs with the averaged model, the scheduler and a name
    such as ``epoch_003``; what it returns goes into the history.

    Returns ``images_per_second``, ``seconds``, ``steps``, ``images``, ``loss``
    (mean of the last lines), ``parameters``, the steps ``skipped`` and whether training
    is ``finished``. Raises `UserError` if another process works in the run's folder, or
    after 10 steps in a row without a finite loss and gradient.
    """
    with locked(run.folder):
        return _train(params, dataset, run, evaluate)


def _train(params: Params, dataset: IclevrDataset, run: Run,
           evaluate: Callable[..., dict[str, Any]] | None) -> dict[str, Any]:
    trainer = Trainer(params, dataset)
    checkpoint = run / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
    lines = [line for line in run.history() if line["step"] <= trainer.step]
    _write_history(run, lines)
    last = trainer.total_steps
    if params.max_steps:
        last = min(last, params.max_steps)
    size, saved_at, steps, since = params.batch_size, time.time(), 0, 0.0
    trainer.model.train()
    with progress(total=trainer.total_steps, initial=min(trainer.step, trainer.total_steps),
                  desc="training", unit="step") as bar:
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
                lines.append(line)
                _write_history(run, lines[-1:], append=True)
                bar.set_postfix_str(f"loss {line['loss']:.4f}, "
                                    f"{line['images_per_second']:.0f} img/s"
                                    + (f", {trainer.skipped} skipped" if trainer.skipped else ""))
                trainer.losses, steps, since = [], 0, 0.0
            epoch = math.floor(trainer.epoch)
            due = params.evaluate_every and epoch > epoch_before and (
                epoch % params.evaluate_every == 0)
            if evaluate and due and trainer.step < trainer.total_steps:
                lines.append({"step": trainer.step, "epoch": round(trainer.epoch, 4),
                              "seconds": round(trainer.seconds, 2), **evaluate(
                                  trainer.averaged(), trainer.scheduler, f"epoch_{epoch:03d}")})
                _write_history(run, lines[-1:], append=True)
            if not trainer.in_a_row and time.time() - saved_at > 60 * params.checkpoint_minutes:
                trainer.save(checkpoint)
                saved_at = time.time()
    trainer.save(checkpoint)
    save_model(trainer.averaged(), trainer.scheduler, run.folder)
    return {**result_at(run, trainer.step, params),
            "images_per_second": round(trainer.step * size / max(trainer.seconds, 1e-9), 2),
            "seconds": round(trainer.seconds, 1),
            "parameters": sum(w.numel() for w in trainer.model.parameters()),
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
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if append:
        with open(run / "history.jsonl", "a", encoding="utf-8") as file:
            file.write(text)
    else:
        with atomic(run / "history.jsonl") as temporary:
            temporary.write_text(text, encoding="utf-8")


def save_model(model: ClassConditionedUnet, scheduler: DDPMScheduler, folder: Path) -> None:
    """Write ``model/unet`` and ``model/scheduler`` in diffusers' layout below ``folder``."""
    model.save_pretrained(folder / "model/unet", safe_serialization=True)
    scheduler.save_pretrained(folder / "model/scheduler")


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
