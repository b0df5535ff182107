"""What a training needs of the memory of its device, and what is said if that was not enough."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.autograd.graph import saved_tensors_hooks

from cddpm_core.config.device import autocast
from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params
from cddpm_core.data.labels import OBJECTS
from cddpm_core.model.network import ClassConditionedUnet
from cddpm_core.scheduler.loss_weight import squared_error
from cddpm_core.training.optimizers import KernelMuon

if TYPE_CHECKING:
    from cddpm_core.training.trainer import Trainer

__all__ = ["Memory", "check_memory", "memory_of", "out_of_memory_named", "saved_bytes"]

GIB = 2**30
SPARE = 1.1  # kernels need room to work in, and blocks of memory leave gaps
SAID = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


class Memory(NamedTuple):
    """Bytes on the device of one process while it trains.

    ``state`` is there all the time: weights, gradients, optimisers, moving average. A micro-batch
    of n images adds ``per_pass + n * per_image`` bytes, which its forward pass saves for the
    backward pass. Training images are not counted: a step can also read them from main memory.
    """

    state: int
    per_pass: int
    per_image: int

    def needed(self, micro_batch: int) -> int:
        """Return the bytes that a training with micro-batches of this many images needs."""
        return self.state + self.per_pass + micro_batch * self.per_image

    def largest_micro_batch(self, available: int) -> int:
        """Return the most images that fit at once into ``available`` bytes; below 1 if none."""
        return (int(available / SPARE) - self.needed(0)) // self.per_image


def memory_of(trainer: Trainer) -> Memory:
    """Return what a training needs, from its parts and two small forward passes on its device.

    With several processes the gradients are there twice, the second time in the buckets that
    are reduced. torch.compile saves less for the backward pass than is counted here.
    """
    one, three = (saved_bytes(trainer.unet, count, trainer.params) for count in (1, 3))
    per_image = (three - one) // 2
    copies = 2 + bool(trainer.accelerator) + bool(trainer.ema)
    # Adam keeps two moments of a weight, Muon one.
    moments = sum(w.nbytes * (1 if isinstance(o, KernelMuon) else 2)
                  for o in trainer.optimizers for group in o.param_groups for w in group["params"])
    return Memory(copies * sum(w.nbytes for w in trainer.weights) + moments,
                  one - per_image, per_image)


def saved_bytes(network: ClassConditionedUnet, count: int, params: Params) -> int:
    """Return the bytes that autograd saves for the backward pass of ``count`` images.

    The weights are not counted, but copies of them in another arithmetic are.
    """
    own = {w.untyped_storage().data_ptr() for w in network.parameters()}
    saved: dict[int, int] = {}  # of each block of memory, which several tensors may share

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output that holds itself would never be freed

    device, side = network.device, network.config.image_size
    x_t = torch.zeros(count, 3, side, side, device=device)
    t = torch.zeros(count, dtype=torch.long, device=device)
    labels = torch.zeros(count, len(OBJECTS), device=device)
    positions = torch.zeros(count, len(OBJECTS), 2, device=device)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        with autocast(device, params.mixed_precision):
            output = network(x_t, t, labels, positions)
        loss = squared_error(output.float(), x_t, params.gradient_weight)
    del loss  # until here it holds what was saved, so that no address was used twice
    return sum(saved.values())


def check_memory(trainer: Trainer, available: int | None = None) -> None:
    """Raise `UserError` if the training needs more than the ``available`` bytes.

    By default these are what is free on a CUDA device; on other devices nothing is checked.
    """
    device, p = trainer.device, trainer.params
    if available is None:
        if device.type != "cuda":
            return
        # What this process has reserved is its own to use.
        available = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    memory, micro_batch = memory_of(trainer), _micro_batch(trainer)
    most = memory.largest_micro_batch(available)
    if micro_batch <= most:
        return
    if most > 0:
        expected = (f"gradient_accumulation_steps {math.ceil(_images_here(trainer) / most)} or "
                    f"more, found {p.gradient_accumulation_steps}")
    else:
        expected = f"a smaller class_emb_size than {p.class_emb_size}, not even one image fits"
    needed = SPARE * memory.needed(micro_batch)
    raise UserError(f"batch_size: a training with {p.batch_size} images in a step needs about "
                    f"{needed / GIB:.1f} GiB, {_name(device)} has {available / GIB:.1f} GiB; "
                    f"expected {expected}")


@contextlib.contextmanager
def out_of_memory_named(trainer: Trainer, checkpoint: Path, *, save: bool = True) -> Iterator[None]:
    """Around one step: raise `UserError` with a way out if the memory is not enough for it.

    If the step had not begun to change the weights, its state is first saved to ``checkpoint``;
    else, or without ``save``, the checkpoint stays as it is.
    """
    before = trainer.step
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(said in str(error) for said in SAID):
            raise
        error.__traceback__ = None  # its frames hold the tensors of the step
        # A step is counted before it changes anything.
        if save and before and trainer.step == before:
            with contextlib.suppress(UserError):  # a full disk; the older checkpoint stays
                trainer.save(checkpoint)
        p = trainer.params
        raise UserError(
            f"batch_size: {_name(trainer.device)} ran out of memory in step {before + 1} with "
            f"batch_size {p.batch_size}, {_micro_batch(trainer)} images at a time; raise "
            f"gradient_accumulation_steps, now {p.gradient_accumulation_steps}, which changes "
            "nothing else, or lower class_emb_size. "
            + (f"The same command continues from {checkpoint}" if checkpoint.exists()
               else "There is no checkpoint yet")) from None


def _images_here(trainer: Trainer) -> int:
    processes = trainer.accelerator.num_processes if trainer.accelerator else 1
    return math.ceil(trainer.params.batch_size / processes)


def _micro_batch(trainer: Trainer) -> int:
    return math.ceil(_images_here(trainer) / trainer.params.gradient_accumulation_steps)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"device {device}"
