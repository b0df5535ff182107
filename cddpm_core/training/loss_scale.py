"""The scale of the loss that keeps gradients in the range of float16."""

from __future__ import annotations

import torch

__all__ = ["LossScale"]


class LossScale:
    """A factor of the loss that adapts to what float16 holds (Micikevicius et al. 2018).

    A gradient that is not finite halves it, 2,000 steps without one double it, as torch's
    `GradScaler` does. That class reads its flag on the host in each step; this one never does.
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
        """Return the scale and the steps since it changed."""
        return {"scale": self.scale, "since": self.since}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Continue from a state."""
        self.scale, self.since = (state[key].to(self.scale) for key in ("scale", "since"))
