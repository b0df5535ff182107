"""The error of a prediction, and how much the error at each timestep counts in the loss."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler

from cddpm_core.scheduler.process import snr

__all__ = ["Balance", "loss_weight", "squared_error"]


def squared_error(prediction: torch.Tensor, target: torch.Tensor,
                  gradient_weight: float = 0.0) -> torch.Tensor:
    """Return the mean squared error of each image (B, C, H, W), shape (B,).

    To it is added ``gradient_weight`` times the mean squared error of the differences between
    neighbouring pixels, along each axis. The best prediction, the mean of the targets, is the
    same for every such quadratic error; edges, small in the first term, are learned sooner.
    """
    error = prediction - target
    total = error.square().mean((1, 2, 3))
    if gradient_weight:
        along_y, along_x = (error.diff(dim=axis).square().mean((1, 2, 3)) for axis in (2, 3))
        total = total + gradient_weight * (along_y + along_x)
    return total


def loss_weight(scheduler: DDPMScheduler, timesteps: torch.Tensor, weighting: str = "uniform",
                gamma: float = 5.0) -> torch.Tensor:
    """Return the factor of the squared error of each image, shape (B,).

    ``uniform`` leaves the error of the prediction as it is (Ho et al. 2020, eq. 14).
    The others weigh the error of x_0, whatever the network predicts: ``min_snr`` by
    min(SNR, gamma) (Hang et al. 2023), ``velocity`` by min(SNR + 1, gamma), which is
    the error of v up to a bound (Salimans & Ho 2022; Li & He 2025).
    """
    if weighting == "uniform":
        return torch.ones(len(timesteps))
    ratio = snr(scheduler)[timesteps.cpu()]
    capped = (ratio if weighting == "min_snr" else ratio + 1).clamp(max=gamma)
    # An error e of x_0 is one of SNR e^2 in epsilon and of (SNR + 1) e^2 in v, squared.
    per_error = {"epsilon": ratio, "v_prediction": ratio + 1, "sample": torch.ones_like(ratio)}
    return capped / per_error[scheduler.config.prediction_type]


class Balance:
    """Running mean errors by timestep, and their inverse as a weight of the loss.

    Errors differ by orders of magnitude between noise levels: those of x_0 are largest at high
    noise, those of epsilon at low noise. Unweighted, the largest would outweigh the others, such as
    the small errors of x_0 at low noise, which make a picture sharp. Dividing each error by its
    expected size is the weighting by uncertainty of Kendall et al. (2018), which Karras et al.
    (2024) use over noise levels. Here the expectation is a running mean in ``parts`` equal parts
    of 0..T-1, each over about its last ``window`` images.

    ``means`` and ``counts``, on ``device``, have the shape (parts + 1,); the last is over all t.
    """

    def __init__(self, num_train_timesteps: int, parts: int = 32, window: int = 256,
                 device: torch.device | str = "cpu") -> None:
        self.T, self.parts = num_train_timesteps, parts
        self.means = torch.ones(parts + 1, device=device)
        self.counts, self.windows = 0 * self.means, window * self.means
        self.windows[-1] *= parts

    def weight(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Return the weights (B,) at ``timesteps`` in 0..T-1: the mean error over that around t.

        It is 1 where no error has been seen, so that a weighted loss stays near the mean error.
        """
        means = torch.where(self.counts > 0, self.means, self.means[-1])
        return (self.means[-1] / means.clamp(min=1e-12))[self._part(timesteps)]

    def tally(self, timesteps: torch.Tensor, errors: torch.Tensor) -> torch.Tensor:
        """Return sums and numbers of errors (B,) by part, (2, parts + 1); tallies add up."""
        found = errors.new_zeros(2, self.parts + 1)
        part = self._part(timesteps)
        found[0].index_add_(0, part, errors)
        found[1].index_add_(0, part, torch.ones_like(errors))
        found[:, -1] = found[:, :-1].sum(1)
        return found

    def update(self, tally: torch.Tensor) -> None:
        """Take the `tally` of a step, summed over its parts, into the running means."""
        sums, new = tally
        self.counts = torch.minimum(self.counts + new, torch.maximum(self.windows, new))
        fraction = torch.where(new > 0, new / self.counts.clamp(min=1), 0.0)
        self.means = self.means + fraction * (sums / new.clamp(min=1) - self.means)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the running means and their counts."""
        return {"means": self.means, "counts": self.counts}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take over the means and counts of a checkpoint; `ValueError` for other shapes."""
        if any(state[key].shape != self.means.shape for key in ("means", "counts")):
            raise ValueError(f"expected means and counts of shape {tuple(self.means.shape)}")
        self.means, self.counts = (state[key].to(self.means) for key in ("means", "counts"))

    def _part(self, timesteps: torch.Tensor) -> torch.Tensor:
        return timesteps * self.parts // self.T
