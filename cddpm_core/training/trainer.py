"""One training as a state and a step: network, moving average, optimisers, counters.

The order of the images, the noise, the timesteps and the dropped labels are
functions of the seed and the step, so a resumed run continues exactly as one
that was never stopped.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch._dynamo.exc import TorchDynamoException
from torch.nn.utils import get_total_norm

from cddpm_core.config.device import autocast, device_of
from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params
from cddpm_core.config.seeds import numpy_generator, torch_generator
from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.sampling.pipeline import ClassConditionedPipeline, make_pipeline
from cddpm_core.scheduler.loss_weight import Balance, loss_weight, squared_error
from cddpm_core.scheduler.process import target
from cddpm_core.scheduler.timesteps import sample_timesteps
from cddpm_core.training.average import moving_average
from cddpm_core.training.checkpoint import (
    Counters,
    check_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from cddpm_core.training.distribution import (
    SideBySide,
    compiled,
    not_compiled,
    process_slice,
    sum_over_processes,
)
from cddpm_core.training.optimizers import lr_factor, make_optimizers

__all__ = ["Trainer"]


class _Part(NamedTuple):
    """What one part of a batch contributes; `Trainer` adds them up."""

    loss: torch.Tensor
    tally: torch.Tensor | None
    gradients: list[torch.Tensor | None]


class Trainer:
    """The state of one training.

    With an ``accelerator`` each of its processes takes its part of every batch and the
    gradients are summed over them. All have the same weights and random numbers, so a
    training is the same with any number of them, up to rounding. The same holds for
    ``gradient_accumulation_steps``, the number of passes a part is divided into.

    On a CPU a batch goes through the network in two halves at once, each with half of
    the cores (`SideBySide`). ``consecutive_skips`` counts the last steps that were skipped and
    starts at 0 in a resumed training.
    """

    def __init__(self, params: Params, dataset: IclevrDataset,
                 accelerator: Accelerator | None = None) -> None:
        self.params, self.dataset, self.accelerator = params, dataset, accelerator
        self.device = accelerator.device if accelerator else device_of(params)
        self.pipeline = make_pipeline(params, dataset).to(self.device)
        self.unet, self.scheduler = self.pipeline.unet, self.pipeline.scheduler
        self.network = compiled(self.unet) if params.compile else self.unet
        self.weights = list(self.unet.parameters())
        self.optimizers = make_optimizers(self.unet, params)
        self.peaks = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.ema = moving_average(self.unet, params.ema_decay) if params.ema_decay else None
        # The same split on every machine, so that results do not depend on the number of cores.
        halves = self.device.type == "cpu" and params.batch_size >= 16
        self.side_by_side = SideBySide(2 if halves else 1)
        self.total_steps = math.ceil(params.epochs * len(dataset) / params.batch_size)
        self.counters, self.consecutive_skips = Counters(), 0
        self.balance = (Balance(params.num_train_timesteps)
                        if params.loss_weighting == "balanced" else None)
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds: objects with ``state_dict`` and ``load_state_dict``."""
        found = {"model": self.unet, "ema": self.ema, "balance": self.balance,
                 "counters": self.counters,
                 **{f"optimizer_{i}": o for i, o in enumerate(self.optimizers)}}
        return {name: part for name, part in found.items() if part is not None}

    @property
    def step(self) -> int:
        """Updates so far."""
        return self.counters.step

    @property
    def epoch(self) -> float:
        """Passes over the training images so far, with a fraction."""
        return self.step * self.params.batch_size / len(self.dataset)

    def _indices(self, step: int) -> np.ndarray:
        """Indices of the images of a step: shuffled epochs, one after the other."""
        size, count = self.params.batch_size, len(self.dataset)
        chosen = []
        for number in range(step * size, (step + 1) * size):
            epoch, index = divmod(number, count)
            if self._order is None or self._order[0] != epoch:
                shuffled = numpy_generator(self.params.seed, "epoch", epoch).permutation(count)
                self._order = (epoch, shuffled)
            chosen.append(self._order[1][index])
        return np.array(chosen)

    def update(self) -> torch.Tensor:
        """Take one step and return its loss, a scalar tensor (Ho et al. 2020, algorithm 1).

        A loss or gradient that is not finite leaves weights, optimisers and average as they are.
        """
        p, count = self.params, self.params.batch_size
        mine = process_slice(self.accelerator, count)
        indices = self._indices(self.step)[mine]
        images, labels = self.dataset.batch(indices)
        # Random numbers are for the whole batch, so that they do not depend on the processes.
        generator = torch_generator(p.seed, "step", self.step)
        t = sample_timesteps(count, p.num_train_timesteps, p.timestep_sampling, p.timestep_shift,
                             generator)[mine]
        epsilon = torch.randn((count, *self.pipeline.codec.x_shape), generator=generator)[mine]
        kept = (torch.rand(count, 1, generator=generator)[mine] >= p.label_drop).float()
        located = torch.rand(count, 1, 1, generator=generator)[mine] >= p.label_drop
        positions = torch.full((*labels.shape, 2), torch.nan)
        if self.unet.config.layout:
            positions = self.dataset.positions[indices].where(located, torch.nan)
        weight = (self.balance.weight(t) if self.balance else
                  loss_weight(self.scheduler, t, p.loss_weighting, p.loss_weight_max))
        images, epsilon, t, labels, positions, weight = (
            part.to(self.device)
            for part in (images, epsilon, t, labels * kept, positions, weight / count))
        x_0 = self.pipeline.codec.encode(images)
        x_t = self.scheduler.add_noise(x_0, epsilon, t)
        wanted = target(self.scheduler, x_0, epsilon, t)
        found = self._summed(x_t, t, labels, positions, wanted, weight)
        self._step(found)
        return found.loss

    def _step(self, found: _Part) -> None:
        """Change the weights by the gradients of a batch, unless they are not finite."""
        norm = get_total_norm([g for g in found.gradients if g is not None])
        self.counters.step += 1
        if not (found.loss + norm.to(found.loss)).isfinite():
            self.counters.skipped += 1
            self.consecutive_skips += 1
            return
        self.consecutive_skips = 0
        for weight, gradient in zip(self.weights, found.gradients, strict=True):
            weight.grad = gradient
        if self.balance:
            self.balance.update(found.tally)
        p = self.params
        factor = lr_factor(self.step - 1, self.total_steps, p.lr_schedule, p.lr_warmup_steps,
                           p.lr_decay_start)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        self.side_by_side(lambda optimizer: optimizer.step(), self.optimizers)
        if self.ema:
            self.ema.update_parameters(self.unet)

    def _summed(self, *batch: torch.Tensor) -> _Part:
        """Return the sums over all passes, halves and processes."""
        passes = min(self.params.gradient_accumulation_steps, len(batch[0]))
        parts: list[_Part] = []
        for piece in zip(*(tensor.tensor_split(passes) for tensor in batch), strict=True):
            halves = (tensor.chunk(self.side_by_side.parts) for tensor in piece)
            for found in self.side_by_side(self._gradients, *halves):
                parts = [found] if not parts else [_added(parts[0], found)]
        total, = parts
        if self.accelerator and self.accelerator.num_processes > 1:
            flat = [total.loss, total.tally, *total.gradients]
            sums = iter(sum_over_processes(self.accelerator, [t for t in flat if t is not None]))
            loss, tally, *gradients = (None if t is None else next(sums) for t in flat)
            total = _Part(loss, tally, gradients)
        return total

    def _gradients(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor,
                   positions: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor) -> _Part:
        """Return the weighted loss of a part of the batch, its tally and its gradients."""
        try:
            with autocast(self.device, self.params.mixed_precision):
                output = self.network(x_t, t, labels, positions)
            errors = squared_error(output.float(), wanted, self.params.gradient_weight)
            loss = (errors * weight).sum()
            gradients = torch.autograd.grad(loss, self.weights, allow_unused=True)
        except TorchDynamoException as error:
            raise not_compiled(error) from None
        tally = self.balance.tally(t, errors.detach()) if self.balance else None
        return _Part(loss.detach(), tally, list(gradients))

    def averaged(self) -> ClassConditionedPipeline:
        """Return a pipeline with a copy of the averaged weights, ready to sample."""
        unet = copy.deepcopy(self.ema.module if self.ema else self.unet)
        return ClassConditionedPipeline(unet.eval(), self.scheduler, self.pipeline.codec,
                                        self.pipeline.layout_prior)

    def save(self, path: Path) -> None:
        """Write the whole state to a checkpoint, atomically."""
        write_checkpoint(path, self.params, self.dataset.fingerprint, self.step, self.parts)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint; `UserError` if it is damaged or of another training."""
        state = read_checkpoint(path)
        check_checkpoint(path, state, self.params, self.dataset.fingerprint, self.total_steps)
        if missing := [name for name in self.parts if name not in state["parts"]]:
            raise UserError(f"{path}: checkpoint without {missing[0]!r}, written by another "
                            "version; FORCE=1 trains anew")
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state["parts"][name])
            if any(moment.ndim and moment.shape != weight.shape for o in self.optimizers
                   for weight, moments in o.state.items() for moment in moments.values()):
                raise ValueError("the optimisers are of other weights")
        except Exception as error:  # what is not the state of a network fails in many ways
            raise UserError(f"{path}: checkpoint of another network ({type(error).__name__}), "
                            "remove it to train anew") from None


def _added(a: _Part, b: _Part) -> _Part:
    return _Part(a.loss + b.loss, None if a.tally is None else a.tally + b.tally,
                 [y if x is None else x + y for x, y in zip(a.gradients, b.gradients, strict=True)])
