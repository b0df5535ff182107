"""The batch of each step: images, conditions and random numbers, on the device of a training.

All are functions of the seed and the step, whatever the number of processes, so a resumed training
continues exactly as one that was never stopped.
"""

from __future__ import annotations

import functools
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from cddpm_core.config.schema import Params
from cddpm_core.config.seeds import numpy_generator, stream_seed
from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.data.images import to_float
from cddpm_core.scheduler.timesteps import sample_timesteps

__all__ = ["Batch", "Batches"]

HELD = 0.25  # of a device's memory: the most that images may take


class Batch(NamedTuple):
    """What a process sees of a step.

    ``images`` (B, 3, H, W) in [-1, 1], ``labels`` (B, 24) and ``positions`` (B, 24, 2), zero and
    NaN where they are dropped, ``t`` (B,) and ``epsilon`` (B, 3, H, W).
    """

    images: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    t: torch.Tensor
    epsilon: torch.Tensor


class Batches:
    """Makes the batch of any step, without waiting for the device.

    Images are held on the device as uint8 where they fit. If not, a thread reads those of the next
    step into pinned memory. ``mine`` is the part of a batch that this process has; with ``layout``
    the images have positions.
    """

    def __init__(self, params: Params, dataset: IclevrDataset, device: torch.device, mine: slice,
                 layout: bool) -> None:
        self.params, self.dataset, self.device, self.mine = params, dataset, device, mine
        self.labels = dataset.labels.to(device)
        self.positions = (dataset.positions if layout else
                          torch.full((len(dataset), dataset.labels.shape[1], 2), torch.nan)
                          ).to(device)
        self.pixels = None
        if dataset.pixels is not None and dataset.pixels.nbytes <= HELD * _memory(device):
            self.pixels = torch.from_numpy(dataset.pixels).to(device)
        self._reader = None if self.pixels is not None else ThreadPoolExecutor(1)
        self._next: tuple[int, Future] | None = None
        self._order = functools.lru_cache(2)(self._shuffled)

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0."""
        p, count = self.params, self.params.batch_size
        # Random numbers are for the whole batch, so that they do not depend on the processes.
        generator = torch.Generator(self.device).manual_seed(stream_seed(p.seed, "step", step))
        options = {"generator": generator, "device": self.device}
        t = sample_timesteps(count, p.num_train_timesteps, p.timestep_sampling, p.timestep_shift,
                             generator)
        epsilon = torch.randn((count, 3, p.image_size, p.image_size), **options)
        labelled = (torch.rand(count, 1, **options) >= p.label_drop)[self.mine]
        located = (torch.rand(count, 1, 1, **options) >= p.label_drop)[self.mine]
        indices = self._sent(torch.from_numpy(self.indices(step)[self.mine]))
        return Batch(to_float(self._pixels(step, indices)), self.labels[indices] * labelled,
                     self.positions[indices].where(located, torch.nan),
                     t[self.mine], epsilon[self.mine])

    def indices(self, step: int) -> np.ndarray:
        """Return the images of a step, over all processes, from one epoch after the other."""
        size, count = self.params.batch_size, len(self.dataset)
        epochs, rows = np.divmod(np.arange(step * size, (step + 1) * size), count)
        return np.concatenate([self._order(epoch)[rows[epochs == epoch]]
                               for epoch in np.unique(epochs).tolist()])

    def _shuffled(self, epoch: int) -> np.ndarray:
        """The images of an epoch, as many as there are.

        With ``by_objects`` an image of n objects comes n / mean(n) times, rounded up or down at
        random.
        """
        generator = numpy_generator(self.params.seed, "epoch", epoch)
        order = generator.permutation(len(self.dataset))
        if self.params.image_sampling == "uniform":
            return order
        objects = np.cumsum([len(self.dataset.conditions[i]) for i in order])
        evenly = (np.arange(len(order)) + generator.random()) / len(order) * objects[-1]
        return generator.permutation(order[np.searchsorted(objects, evenly)])

    def _pixels(self, step: int, indices: torch.Tensor) -> torch.Tensor:
        if self.pixels is not None:
            return self.pixels[indices]
        if self._next is None or self._next[0] != step:
            self._next = step, self._reader.submit(self._read, step)
        pixels = self._next[1].result()
        self._next = step + 1, self._reader.submit(self._read, step + 1)
        return pixels.to(self.device, non_blocking=True)

    def _read(self, step: int) -> torch.Tensor:
        return self._pinned(self.dataset.pixels_of(self.indices(step)[self.mine]))

    def _pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _sent(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._pinned(tensor).to(self.device, non_blocking=True)


def _memory(device: torch.device) -> float:
    """Bytes of memory of a CUDA device; of others, which share the host's, no bound."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return float("inf")
