"""State of a training that stays on the device, besides the weights; no step waits for it."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import nn

__all__ = ["Counters", "LossScale", "MovingAverage", "Seen"]


class MovingAverage:
    """The exponential moving average of a model's weights, in ``model``, a copy of it.

    The first update copies the weights. Update n after it has the decay min(``decay``,
    (1 + n) / (10 + n)), as in diffusers' `EMAModel`, so that early weights soon count for nothing.
    Neither that class nor torch's `AveragedModel` can skip an update by a flag on the device.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.updates = torch.zeros((), device=next(model.parameters()).device)

    @torch.no_grad()
    def update(self, model: nn.Module, valid: torch.Tensor | float = 1.0) -> None:
        """Take the weights of ``model`` into the average, unless ``valid``, 0 or 1, is 0."""
        n = self.updates
        decay = ((1 + n) / (10 + n)).clamp(max=self.decay)
        taken = torch.where(n > 0, 1 - decay, 1.0) * valid
        averages = list(self.model.parameters())
        steps = torch._foreach_sub(list(model.parameters()), averages)
        torch._foreach_mul_(steps, taken)
        torch._foreach_add_(averages, steps)
        self.updates = n + valid

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"].to(self.updates)


class LossScale:
    """A factor of the loss that keeps gradients in float16's range (Micikevicius et al. 2018).

    A gradient that is not finite halves it, 2,000 steps without one double it, as torch's
    `GradScaler` does. That class keeps its flag to itself, which the moving average and the balance
    need as well, and for `KernelMuon` it reads it on the host; this one never does.
    """

    GROWS_AFTER = 2000

    def __init__(self, device: torch.device | str) -> None:
        self.scale = torch.tensor(65536.0, device=device)
        self.since = torch.zeros((), device=device)

    def unscale(self, gradients: list[torch.Tensor]) -> None:
        """Divide gradients by the scale, in place."""
        torch._foreach_mul_(gradients, 1 / self.scale)

    def update(self, valid: torch.Tensor) -> None:
        """Adapt to a step; ``valid`` is 0 if its gradients were not finite, 1 if they were."""
        since = (self.since + 1) * valid
        grown = since >= self.GROWS_AFTER
        self.scale = torch.where(valid > 0, torch.where(grown, 2 * self.scale, self.scale),
                                 self.scale / 2)
        self.since = torch.where(grown, 0, since)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"scale": self.scale, "since": self.since}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.scale, self.since = (state[key].to(self.scale) for key in ("scale", "since"))


class Seen(NamedTuple):
    """Steps ``skipped`` so far, and how many of the latest steps were skipped ``in_a_row``.

    Since the last `clear`: the ``longest`` such row, and the mean ``loss``, None without a step.
    """

    skipped: int
    in_a_row: int
    longest: int
    loss: float | None


class Counters:
    """``step`` counts updates, ``seconds`` the time spent on them.

    Losses and skipped steps are added up on the device; only `read` waits for it.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.step, self.seconds = 0, 0.0
        self._tally = torch.zeros(5, device=device)

    def count(self, loss: torch.Tensor, valid: torch.Tensor) -> None:
        """Count a step with its loss; ``valid`` is 0 if the step was skipped, 1 if it was taken."""
        skipped, in_a_row, longest, losses, taken = self._tally
        in_a_row = (in_a_row + 1) * (1 - valid)
        self._tally = torch.stack([
            skipped + 1 - valid, in_a_row, torch.maximum(longest, in_a_row),
            losses + torch.where(valid > 0, loss, 0), taken + valid])
        self.step += 1

    def read(self) -> Seen:
        skipped, in_a_row, longest, losses, taken = self._tally.tolist()
        return Seen(int(skipped), int(in_a_row), int(longest), losses / taken if taken else None)

    def clear(self) -> None:
        """Begin a new mean of the loss, and a new count of steps skipped in a row."""
        self._tally[2:] = 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "seconds": self.seconds, "tally": self._tally}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; the count of skipped steps in a row begins again at 0."""
        self.step, self.seconds = state["step"], state["seconds"]
        self._tally = state["tally"].to(self._tally)
        self._tally[1:3] = 0
