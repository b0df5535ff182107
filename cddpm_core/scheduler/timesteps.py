"""The timesteps that a training step samples."""

from __future__ import annotations

import torch

__all__ = ["sample_timesteps"]


def sample_timesteps(count: int, num_train_timesteps: int, sampling: str = "uniform",
                     shift: float = 0.0, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return ``(count,)`` integer timesteps over all of 0..T-1.

    ``uniform`` gives each the same probability; ``logit_normal`` samples
    ``T * sigmoid(shift + N(0, 1))`` (Esser et al. 2024, section 3.1), whose
    median is ``T * sigmoid(shift)``. They are on the device of ``generator``.
    """
    device = generator.device if generator else "cpu"
    if sampling == "uniform":
        return torch.randint(num_train_timesteps, (count,), generator=generator, device=device)
    fraction = torch.sigmoid(shift + torch.randn(count, generator=generator, device=device))
    return (fraction * num_train_timesteps).long().clamp(max=num_train_timesteps - 1)
