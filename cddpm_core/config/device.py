"""Where networks compute, and in what arithmetic."""

from __future__ import annotations

import torch

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params

__all__ = ["arithmetic_of", "autocast", "computes_bf16", "device_of"]


def device_of(params: Params) -> torch.device:
    """Return the device asked for, the best one there is for ``auto``."""
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if params.device == "auto":
        return torch.device(best.type if best else "cpu")
    if params.device != "cpu" and (best is None or best.type != params.device):
        raise UserError(f"device: {params.device!r} is not there, expected 'auto' or 'cpu'")
    return torch.device(params.device)


def computes_bf16(device: torch.device | str) -> bool:
    """Return whether bfloat16 is what the device multiplies, not what it has to imitate.

    A processor without instructions for it is up to a hundred times slower in it than in float32.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def arithmetic_of(mixed_precision: str, device: torch.device | str) -> str:
    """Return what a network computes in on the device: ``bfloat16`` or ``float32``."""
    bf16 = mixed_precision == "bf16" and computes_bf16(device)
    return "bfloat16" if bf16 else "float32"


def autocast(device: torch.device | str, mixed_precision: str) -> torch.autocast:
    """Return the autocast context of ``no`` or ``bf16`` arithmetic on a device.

    A device that does not compute in bfloat16 itself stays with float32.
    """
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16,
                          enabled=arithmetic_of(mixed_precision, device) == "bfloat16")
