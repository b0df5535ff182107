"""One training as a state and a step: model, moving average, optimisers, counters, checkpoint.

The order of the images, the noise, the timesteps and the dropped labels are
functions of the seed and the step, so a resumed run goes the same way as one
that was never stopped.
"""

from __future__ import annotations

import copy
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch._dynamo.exc import TorchDynamoException
from torch.nn.utils import get_total_norm

from cddpm_core.balance import Balance
from cddpm_core.data import IclevrDataset
from cddpm_core.devices import SideBySide, compiled, device_of, not_compiled, summed
from cddpm_core.errors import UserError, shown
from cddpm_core.model import ClassConditionedUnet, model_for
from cddpm_core.optim import lr_factor, make_optimizers
from cddpm_core.params import BEFORE, DATA_KEYS, FIELDS, TRAIN_KEYS, Params, coerce
from cddpm_core.runs import SCHEMA, atomic, check_schema
from cddpm_core.sampling import autocast
from cddpm_core.schedule import draw_timesteps, loss_weight, make_scheduler, target

__all__ = ["Trainer", "read_checkpoint"]

CHECKPOINT_KEYS = {"params": dict, "images": int, "labels": str, "step": int,
                   "seconds": int | float, "model": dict, "ema": dict, "optimizers": list}


class Trainer:
    """The state of one training: model, moving average, optimisers and counters.

    ``step`` counts updates, ``seconds`` the time spent on them, ``skipped`` those
    left out for a loss or gradient that was not finite. ``losses`` are those since the
    last line of the history. `save` and `load` write and read all of it. ``in_a_row``
    counts the last steps left out and begins anew with a resumed training.

    With an ``accelerator`` each of its processes takes its share of every batch and the
    gradients are summed over them; all have the same weights and random numbers, so that a
    training is the same with any number of them, but for rounding. So it is with
    ``gradient_accumulation_steps``, the number of passes a share is divided into.

    On a CPU a batch goes through the network in two halves at once, each with half of
    the cores (`SideBySide`).
    """

    def __init__(self, params: Params, dataset: IclevrDataset,
                 accelerator: Accelerator | None = None) -> None:
        self.params, self.dataset, self.accelerator = params, dataset, accelerator
        self.device = accelerator.device if accelerator else device_of(params)
        self.scheduler = make_scheduler(params)
        self.model = model_for(params, dataset).to(self.device)
        self.network = compiled(self.model) if params.compile else self.model
        self.weights = list(self.model.parameters())
        self.optimizers = make_optimizers(self.model, params)
        self.peaks = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.ema = EMAModel(self.weights, decay=params.ema_decay)
        # As many on every machine, so that a seed gives the same weights on one core as on two.
        halves = self.device.type == "cpu" and params.batch_size >= 32
        self.side_by_side = SideBySide(2 if halves else 1)
        self.total_steps = math.ceil(params.epochs * len(dataset) / params.batch_size)
        self.step, self.seconds, self.skipped, self.in_a_row = 0, 0.0, 0, 0
        self.losses: list[float] = []
        self.balance = (Balance(params.num_train_timesteps)
                        if params.loss_weighting == "balanced" else None)
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
        count, mine = p.batch_size, self._share()
        indices = self._indices(self.step)[mine]
        images, labels = self.dataset.batch(indices)
        # Random numbers are drawn for the whole batch, so that they do not depend on the shares.
        generator = torch.Generator().manual_seed(p.seed * 2**32 + self.step)
        timesteps = draw_timesteps(count, p.num_train_timesteps, p.timestep_sampling,
                                   p.timestep_shift, generator)[mine]
        epsilon = torch.randn((count, *self.model.x_shape), generator=generator)[mine]
        kept = (torch.rand(count, 1, generator=generator)[mine] >= p.label_drop).float()
        placed = torch.rand(count, 1, 1, generator=generator)[mine] >= p.label_drop
        places = torch.full((*labels.shape, 2), torch.nan)
        if self.model.config.num_layouts:
            places = self.dataset.places[indices].where(placed, torch.nan)
        weight = (self.balance.weight(timesteps) if self.balance else
                  loss_weight(self.scheduler, timesteps, p.loss_weighting, p.loss_weight_max))
        images, epsilon, timesteps, labels, places, weight = (
            part.to(device, non_blocking=True)
            for part in (images, epsilon, timesteps, labels * kept, places, weight / count))
        x_0 = self.model.standardise(images)
        x_t = self.scheduler.add_noise(x_0, epsilon, timesteps)
        loss, tally = self._set_gradients(x_t, timesteps, labels, places,
                                          target(self.scheduler, x_0, epsilon, timesteps), weight)
        norm = get_total_norm([w.grad for w in self.weights if w.grad is not None])
        self.step += 1
        if not (loss + norm.to(loss)).isfinite():
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            return loss
        self.in_a_row = 0
        if self.balance:
            self.balance.update(tally)
        factor = lr_factor(self.step - 1, self.total_steps, p)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        self.side_by_side(lambda optimizer: optimizer.step(), self.optimizers)
        if p.ema_decay:
            self.ema.step(self.weights)
        return loss

    def _share(self) -> slice:
        """The places in a batch that are this process's."""
        a = self.accelerator
        index, count = (a.process_index, a.num_processes) if a else (0, 1)
        return slice(*(i * self.params.batch_size // count for i in (index, index + 1)))

    def _set_gradients(self, *batch: torch.Tensor) -> list[torch.Tensor]:
        """Set each weight's gradient, of all processes together; return their loss and tally."""
        passes = min(self.params.gradient_accumulation_steps, len(batch[0]))
        total: list[torch.Tensor | None] = []
        for part in zip(*(tensor.tensor_split(passes) for tensor in batch), strict=True):
            halves = (tensor.chunk(self.side_by_side.parts) for tensor in part)
            for found in self.side_by_side(self._gradients, *halves):
                total = found if not total else [
                    new if new is None else old + new
                    for old, new in zip(total, found, strict=True)]
        if self.accelerator and self.accelerator.num_processes > 1:
            sums = iter(summed(self.accelerator, [t for t in total if t is not None]))
            total = [None if t is None else next(sums) for t in total]
        loss, tally, *gradients = total
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        return [loss, tally]

    def _gradients(self, x_t, timesteps, labels, places, wanted, weight):
        """Return loss and tally of a part of the batch, and its gradient by each weight or None."""
        try:
            with autocast(self.device, self.params.mixed_precision):
                output = self.network(x_t, timesteps, labels, places)
            errors = ((output.float() - wanted) ** 2).mean((1, 2, 3))
            loss = (errors * weight).sum()
            gradients = torch.autograd.grad(loss, self.weights, allow_unused=True)
        except TorchDynamoException as error:
            raise not_compiled(error) from None
        tally = self.balance.tally(timesteps, errors.detach()) if self.balance else None
        return [loss.detach(), tally, *gradients]

    def averaged(self) -> ClassConditionedUnet:
        """Return a copy of the model with the averaged weights, ready to sample."""
        model = copy.deepcopy(self.model)
        if self.params.ema_decay:
            self.ema.copy_to(model.parameters())
        return model.eval()

    def _labels_hash(self) -> str:
        present = (self.dataset.labels > 0.5).float()
        return hashlib.sha256(present.numpy().tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the whole state to a checkpoint, atomically."""
        kept = {k: getattr(self.params, k) for k in (*TRAIN_KEYS, *DATA_KEYS)}
        state = {"schema": SCHEMA, "params": kept, "images": len(self.dataset),
                 "labels": self._labels_hash(), "step": self.step, "seconds": self.seconds,
                 "skipped": self.skipped, "losses": self.losses,
                 "model": self.model.state_dict(), "ema": self.ema.state_dict(),
                 "optimizers": [o.state_dict() for o in self.optimizers]}
        if self.balance:
            state["balance"] = {"means": self.balance.means, "counts": self.balance.counts}
        with atomic(path) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # torch's word for a write that failed
                raise UserError(f"{path}: cannot be written ({str(error).splitlines()[0][:100]}), "
                                "is the disk full? The checkpoint before it is kept") from None

    def load(self, path: Path) -> None:
        """Continue from a checkpoint; `UserError` if it is damaged or of another configuration."""
        state = read_checkpoint(path)
        made_with, anew = state["params"], "take another run name, or remove that file"
        for key in TRAIN_KEYS:
            if made_with.get(key) != getattr(self.params, key):
                raise UserError(
                    f"{path}: checkpoint of another configuration, {key} is "
                    f"{shown(made_with.get(key))} there and {getattr(self.params, key)!r} here; "
                    f"{anew} to train anew")
        if (state["images"], state["labels"]) != (len(self.dataset), self._labels_hash()):
            raise UserError(f"{path}: checkpoint of another data set, of {state['images']} images "
                            f"where there are {len(self.dataset)} here, or with other labels; "
                            f"{anew}")
        if not 0 <= state["step"] <= self.total_steps:
            raise UserError(f"{path}: checkpoint of step {state['step']}, beyond the "
                            f"{self.total_steps} that epochs {self.params.epochs} asks for; {anew}")
        try:
            self._restore(state)
        except Exception as error:  # what is not the state of a network fails in many ways
            raise UserError(f"{path}: checkpoint of another network ({type(error).__name__}), "
                            "remove it to train anew") from None

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.device)
        pairs = list(zip(self.ema.shadow_params, self.weights, strict=True))
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            pairs += [(moment, weight) for weight, moments in optimizer.state.items()
                      for moment in moments.values() if moment.ndim]
        if self.balance:
            saved = state["balance"]
            pairs += [(self.balance.means, saved["means"]), (self.balance.counts, saved["counts"])]
            self.balance.means, self.balance.counts = saved["means"], saved["counts"]
        if any(a.shape != b.shape for a, b in pairs):
            raise ValueError("the average or the optimisers are of other weights")
        self.step, self.seconds = state["step"], float(state["seconds"])
        self.skipped, self.losses = int(state.get("skipped", 0)), list(state.get("losses", []))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `Trainer.save` wrote; `UserError` if the file is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        wrong = [key for key, kind in CHECKPOINT_KEYS.items()
                 if not isinstance(state, dict) or not isinstance(state.get(key), kind)]
    except Exception as error:
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}), "
                        "remove it to train anew") from None
    if wrong:
        raise UserError(f"{path}: not a checkpoint of this library, {', '.join(wrong)} not in it "
                        "or of another kind; remove it to train anew")
    check_schema(state, path)
    known = {key: value for key, value in {**BEFORE, **state["params"]}.items() if key in FIELDS}
    return {**state, "params": {key: coerce(key, known[key], str(path)) for key in known}}
