"""What a training counts: its steps and time on the host, the rest on the device."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

__all__ = ["Counters", "Seen"]


class Seen(NamedTuple):
    """Steps ``skipped`` so far, those of them ``in_a_row`` up to now, and since the last `clear`
    the most in a row, ``longest``, and the mean ``loss``, None if no step was taken.
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
        """Return what was counted."""
        skipped, in_a_row, longest, losses, taken = self._tally.tolist()
        return Seen(int(skipped), int(in_a_row), int(longest), losses / taken if taken else None)

    def clear(self) -> None:
        """Begin a new mean of the loss, and a new count of steps skipped in a row."""
        self._tally[2:] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return all counts."""
        return {"step": self.step, "seconds": self.seconds, "tally": self._tally}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; no step counts as the last that was skipped."""
        self.step, self.seconds = state["step"], state["seconds"]
        self._tally = state["tally"].to(self._tally)
        self._tally[1:3] = 0
