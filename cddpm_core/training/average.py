"""The moving average of a network's weights."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["moving_average"]


def moving_average(model: nn.Module, decay: float, warmup: bool = True) -> AveragedModel:
    """Return the average of weights and buffers; call its ``update_parameters`` after each step.

    With ``warmup`` update n, from 0, has the decay min(``decay``, (1 + n) / (10 + n)), so that
    the first weights soon count for nothing. An average that starts late in training needs none.
    """
    def update(averages: list[Tensor], current: list[Tensor], n: Tensor) -> None:
        bounded = min(decay, (1 + int(n)) / (10 + int(n))) if warmup else decay
        get_ema_multi_avg_fn(bounded)(averages, current, n)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
