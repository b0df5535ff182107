"""Weights that let every noise level count the same, from the errors seen so far."""

from __future__ import annotations

import torch

__all__ = ["Balance"]


class Balance:
    """Running mean errors by timestep, and their inverse as a weight of the loss.

    An error that is large because there is nothing to know, as in pure noise, otherwise
    drowns the small ones that make a picture sharp. Dividing each by its expected size is
    the weighting by uncertainty of Kendall et al. (2018), which Karras et al. (2024) use over
    noise levels; here the expectation is a running mean in ``parts`` equal parts of 0..T-1, over
    about the last ``window`` images of each.

    ``means`` and ``counts`` have the shape (parts + 1,); the last of them is over all timesteps.
    """

    def __init__(self, num_train_timesteps: int, parts: int = 32, window: int = 256) -> None:
        self.T, self.parts, self.window = num_train_timesteps, parts, window
        self.means, self.counts = torch.ones(parts + 1), torch.zeros(parts + 1)

    def weight(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the weights (B,): the mean error of all over that around each timestep.

        It is 1 where no error has been seen, so that a weighted loss stays near the mean error.
        """
        means = torch.where(self.counts > 0, self.means, self.means[-1])
        return (self.means[-1] / means.clamp(min=1e-12))[self._part(timesteps.cpu())]

    def tally(self, timesteps: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
        """Return sums and numbers of errors (B,) by part, (2, parts + 1); tallies add up."""
        found = errors.new_zeros(2, self.parts + 1)
        part = self._part(timesteps)
        found[0].index_add_(0, part, errors)
        found[1].index_add_(0, part, torch.ones_like(errors))
        found[:, -1] = found[:, :-1].sum(1)
        return found

    def update(self, tally: torch.Tensor) -> None:
        """Take the errors of a step into the running means."""
        sums, new = tally.cpu()
        window = torch.full_like(new, self.window)
        window[-1] *= self.parts
        self.counts = torch.minimum(self.counts + new, torch.maximum(window, new))
        share = torch.where(new > 0, new / self.counts.clamp(min=1), 0.0)
        self.means = self.means + share * (sums / new.clamp(min=1) - self.means)

    def _part(self, timesteps: torch.Tensor) -> torch.Tensor:
        return timesteps * self.parts // self.T
