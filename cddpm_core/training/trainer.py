"""One training as a state and a step: network, moving average, optimisers, counters.

A step is a function of the state, the seed and its number, so a resumed run continues exactly as
one that was never stopped. It never waits for the device: decisions within a step, such as
skipping it, are made there.
"""

from __future__ import annotations

import contextlib
import copy
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch._dynamo.exc import TorchDynamoException
from torch.nn.utils import get_total_norm

from cddpm_core.config.device import (
    SideBySide,
    arithmetic_of,
    autocast,
    compiled,
    device_of,
    not_compiled,
)
from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.sampling.pipeline import ClassConditionedPipeline, make_pipeline
from cddpm_core.scheduler.loss_weight import Balance, loss_weight, squared_error
from cddpm_core.scheduler.process import target
from cddpm_core.training.batches import Batches
from cddpm_core.training.checkpoint import check_checkpoint, read_checkpoint, write_checkpoint
from cddpm_core.training.distribution import process_slice
from cddpm_core.training.optimizers import lr_factor, make_optimizers
from cddpm_core.training.state import Counters, LossScale, MovingAverage

__all__ = ["Trainer"]


class _Part(NamedTuple):
    """What one part of a batch contributes; `Trainer` adds them up."""

    loss: torch.Tensor
    tally: torch.Tensor | None
    gradients: list[torch.Tensor | None]


class Trainer:
    """The state of one training.

    With an ``accelerator`` of several processes each takes its part of every batch, and torch's
    `DistributedDataParallel` averages the gradients during the backward pass. All have the same
    weights and random numbers, so a training is the same with any number of them, up to rounding.
    The same holds for ``gradient_accumulation_steps``, the number of passes a part is divided into.

    On a CPU a batch goes through the network in two halves at once, each with half of the cores
    (`SideBySide`).
    """

    def __init__(self, params: Params, dataset: IclevrDataset,
                 accelerator: Accelerator | None = None) -> None:
        self.params, self.dataset = params, dataset
        self.accelerator = accelerator if accelerator and accelerator.num_processes > 1 else None
        self.device = accelerator.device if accelerator else device_of(params)
        self.pipeline = make_pipeline(params, dataset).to(self.device)
        self.unet, self.scheduler = self.pipeline.unet, self.pipeline.scheduler
        self.batches = Batches(params, dataset, self.device,
                               process_slice(accelerator, params.batch_size),
                               self.unet.config.layout)
        self.total_steps = math.ceil(params.epochs * len(dataset) / params.batch_size)
        network = self.accelerator.prepare_model(self.unet) if self.accelerator else self.unet
        self.network = compiled(network, params.compile, self.device, self.total_steps)
        self.weights = list(self.unet.parameters())
        self.optimizers = make_optimizers(self.unet, params)
        self.peaks = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.ema = MovingAverage(self.unet, params.ema_decay) if params.ema_decay else None
        arithmetic = arithmetic_of(params.mixed_precision, self.device)
        self.loss_scale = LossScale(self.device) if arithmetic == "float16" else None
        # The same split on every machine, so that results do not depend on the number of cores.
        halves = self.device.type == "cpu" and params.batch_size >= 8 and not self.accelerator
        self.side_by_side = SideBySide(2 if halves else 1)
        self.counters = Counters(self.device)
        T = params.num_train_timesteps
        self.balance = None
        if params.loss_weighting == "balanced":
            self.balance = Balance(T, device=self.device)
        else:
            self._loss_weights = loss_weight(self.scheduler, torch.arange(T), params.loss_weighting,
                                             params.loss_weight_max).to(self.device)

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds: objects with ``state_dict`` and ``load_state_dict``."""
        found = {"model": self.unet, "ema": self.ema, "balance": self.balance,
                 "loss_scale": self.loss_scale, "counters": self.counters,
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

    def update(self) -> torch.Tensor:
        """Take one step and return its loss, a scalar tensor (Ho et al. 2020, algorithm 1).

        A loss or gradient that is not finite leaves weights, optimisers and average as they are.
        """
        images, labels, positions, t, epsilon = self.batches(self.step)
        weight = self.balance.weight(t) if self.balance else self._loss_weights[t]
        x_0 = self.pipeline.codec.encode(images)
        x_t = self.scheduler.add_noise(x_0, epsilon, t)
        wanted = target(self.scheduler, x_0, epsilon, t)
        found = self._summed(x_t, t, labels, positions, wanted, weight / self.params.batch_size)
        self._step(found)
        return found.loss

    def _step(self, found: _Part) -> None:
        """Change the weights by the gradients of a batch, unless they are not finite."""
        gradients = [g for g in found.gradients if g is not None]
        if self.loss_scale:
            self.loss_scale.unscale(gradients)
        valid = (found.loss + get_total_norm(gradients)).isfinite().to(found.loss)
        p = self.params
        factor = lr_factor(self.step, self.total_steps, p.lr_schedule, p.lr_warmup_steps,
                           p.lr_decay_start)
        self.counters.count(found.loss, valid)
        if self.loss_scale:
            self.loss_scale.update(valid)
        for weight, gradient in zip(self.weights, found.gradients, strict=True):
            # Fused optimisers take both for arrays of one order of elements.
            weight.grad = None if gradient is None else gradient.contiguous()
        if self.balance:
            self.balance.update(torch.where(valid > 0, found.tally, 0))
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            optimizer.found_inf = 1 - valid
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        self.side_by_side(lambda optimizer: optimizer.step(), self.optimizers)
        if self.ema:
            self.ema.update(self.unet, valid)

    def _summed(self, *batch: torch.Tensor) -> _Part:
        passes = min(self.params.gradient_accumulation_steps, len(batch[0]))
        for weight in self.weights:
            weight.grad = None
        total: _Part | None = None
        for piece in zip(*(tensor.tensor_split(passes) for tensor in batch), strict=True):
            passes -= 1
            halves = (tensor.chunk(self.side_by_side.parts) for tensor in piece)
            # Gradients are sent in the last pass alone.
            unsent = passes and self.accelerator
            with self.accelerator.no_sync(self.network) if unsent else contextlib.nullcontext():
                for found in self.side_by_side(self._gradients, *halves):
                    # A compiled network uses the memory of its gradients again in the next pass.
                    total = _added(total, found) if total else _copied(found) if passes else found
        if not self.accelerator:
            return total
        sums = [None if x is None else self.accelerator.reduce(x, "sum")
                for x in (total.loss, total.tally)]
        return _Part(*sums, [weight.grad for weight in self.weights])

    def _gradients(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor,
                   positions: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor) -> _Part:
        """Return the weighted loss of a part of the batch, its tally and its gradients.

        With several processes the gradients are in the weights instead, once all are sent.
        """
        gradients = [None] * len(self.weights)
        try:
            with autocast(self.device, self.params.mixed_precision):
                output = self.network(x_t, t, labels, positions)
            errors = squared_error(output.float(), wanted, self.params.gradient_weight)
            loss = (errors * weight).sum()
            scaled = loss * self.loss_scale.scale if self.loss_scale else loss
            if self.accelerator:
                (scaled * self.accelerator.num_processes).backward()  # what is sent is a mean
            else:
                gradients = list(torch.autograd.grad(scaled, self.weights, allow_unused=True))
        except TorchDynamoException as error:
            raise not_compiled(error) from None
        tally = self.balance.tally(t, errors.detach()) if self.balance else None
        return _Part(loss.detach(), tally, gradients)

    def averaged(self) -> ClassConditionedPipeline:
        """Return a pipeline with a copy of the averaged weights, ready to sample."""
        unet = copy.deepcopy(self.ema.model if self.ema else self.unet)
        return ClassConditionedPipeline(unet.eval(), self.scheduler, self.pipeline.codec,
                                        self.pipeline.layout_prior, self.pipeline.config.sampling)

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


def _copied(part: _Part) -> _Part:
    return part._replace(gradients=[None if g is None else g.clone() for g in part.gradients])


def _added(a: _Part, b: _Part) -> _Part:
    return _Part(a.loss + b.loss, None if a.tally is None else a.tally + b.tally,
                 [y if x is None else x + y for x, y in zip(a.gradients, b.gradients, strict=True)])
