"""Random numbers: from a seed and the name of a stream to a generator.

Streams of one seed are independent of one another (numpy's `SeedSequence`), so what one part of
the package samples never depends on how many numbers another part took.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["numpy_generator", "stream_seed", "torch_generator"]


def _sequence(seed: int, stream: tuple[str | int, ...]) -> np.random.SeedSequence:
    key = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    return np.random.SeedSequence(seed, spawn_key=key)


def stream_seed(seed: int, *stream: str | int) -> int:
    """Return the seed of a stream, an integer in 0..2^63-1.

    ``stream`` is a name and the numbers that it has, such as ``"image", 3``.
    """
    return int(_sequence(seed, stream).generate_state(1, np.uint64)[0] >> 1)


def numpy_generator(seed: int, *stream: str | int) -> np.random.Generator:
    """Return numpy's generator of a stream."""
    return np.random.default_rng(_sequence(seed, stream))


def torch_generator(seed: int, *stream: str | int) -> torch.Generator:
    """Return torch's generator of a stream, on the CPU."""
    import torch  # numpy's users need not wait for it

    return torch.Generator().manual_seed(stream_seed(seed, *stream))
