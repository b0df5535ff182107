"""How a training uses several processes."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from cddpm_core.config.device import device_of
from cddpm_core.config.environment import forget
from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params

__all__ = ["accelerator_of", "check_devices", "process_slice"]


def accelerator_of(params: Params) -> Accelerator:
    """Return the accelerator of the processes that ``accelerate launch`` or ``torchrun`` started.

    Raises `UserError` if there are more processes than images in a step.
    """
    check_devices(params, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    # Arithmetic and device are those of the parameters, whatever accelerate's own configuration and
    # the variables it sets say.
    forget("ACCELERATE_")
    # The others wait while one renders the data.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    accelerator = Accelerator(cpu=device_of(params).type == "cpu", mixed_precision="no",
                              kwargs_handlers=[patience, DistributedDataParallelKwargs(
                                  gradient_as_bucket_view=True)])
    if accelerator.num_processes > params.batch_size:
        raise UserError(f"batch_size: expected at least one image for each of the "
                        f"{accelerator.num_processes} processes, found {params.batch_size}")
    return accelerator


def check_devices(params: Params, processes: int) -> None:
    """Raise `UserError` if the machine has fewer devices than processes."""
    device = device_of(params)
    if device.type != "cpu" and processes > torch.accelerator.device_count():
        raise UserError(f"num_processes: {processes} on this machine, which has "
                        f"{torch.accelerator.device_count()} {device.type} devices, expected at "
                        "most one per device")


def process_slice(accelerator: Accelerator | None, count: int) -> slice:
    """Return the part of ``count`` items that belongs to this process."""
    a = accelerator
    index, processes = (a.process_index, a.num_processes) if a else (0, 1)
    return slice(*(i * count // processes for i in (index, index + 1)))
