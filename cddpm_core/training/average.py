"""The moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """The exponential moving average of a model's weights, in ``model``, a copy of it.

    Update n, from 0, has the decay min(``decay``, (1 + n) / (10 + n)), so that the first weights
    soon count for nothing; the first update copies them. torch's `AveragedModel` reads its counter
    on the host, where every step would wait for the device.
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
        """Return the averaged weights and the number of updates."""
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"].to(self.updates)
