"""Where networks compute, on how many cores, in what arithmetic, and whether they are compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params

__all__ = ["SideBySide", "arithmetic_of", "autocast", "compiled", "computes_bf16", "device_of",
           "not_compiled"]

WORTH_COMPILING = 5000  # calls; compiling takes a minute or two


def device_of(params: Params) -> torch.device:
    """Return the device asked for, the best one there is for ``auto``.

    On a CUDA device, matrix products and convolutions in float32 then use TF32 where there is one:
    10 bits of the mantissa, several times as fast.
    """
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if params.device == "auto":
        device = torch.device(best.type if best else "cpu")
    elif params.device != "cpu" and (best is None or best.type != params.device):
        raise UserError(f"device: {params.device!r} is not there, expected 'auto' or 'cpu'")
    else:
        device = torch.device(params.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return device


class SideBySide:
    """Calls a function on several things at once, in ``parts`` threads with a part of the cores.

    On a CPU two calls on half of the cores each are faster than one after the other on all.
    """

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, work: Callable, *things: Sequence) -> list:
        """Return ``work`` of each of the things, as `map` takes them, in their order."""
        cores = torch.get_num_threads()
        if self.parts == 1 or cores == 1 or len(things[0]) == 1:
            return list(map(work, *things))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.parts, initializer=torch.set_num_threads,
                                            initargs=(cores // self.parts,))
        # Some kernels have one setting for all threads, others one a thread.
        torch.set_num_threads(cores // self.parts)
        try:
            return list(self._pool.map(work, *things))
        finally:
            torch.set_num_threads(cores)


def computes_bf16(device: torch.device | str) -> bool:
    """Return whether bfloat16 is what the device multiplies, not what it has to imitate.

    A processor without instructions for it is up to a hundred times slower in it than in float32.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return kind != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def arithmetic_of(mixed_precision: str, device: torch.device | str) -> str:
    """Return what a network computes in: ``bfloat16``, ``float16`` or ``float32``.

    ``auto`` is bfloat16 where the device multiplies it, float16 on other CUDA devices, and float32
    elsewhere. ``bf16`` and ``fp16`` are float32 where the device does not compute in them.
    """
    cuda = torch.device(device).type == "cuda"
    if mixed_precision in ("auto", "bf16") and computes_bf16(device):
        return "bfloat16"
    return "float16" if cuda and mixed_precision in ("auto", "fp16") else "float32"


def autocast(device: torch.device | str, mixed_precision: str) -> torch.autocast:
    """Return the autocast context of a value of ``mixed_precision`` on a device."""
    arithmetic = arithmetic_of(mixed_precision, device)
    dtype = torch.float16 if arithmetic == "float16" else torch.bfloat16
    return torch.autocast(torch.device(device).type, dtype=dtype, enabled=arithmetic != "float32")


def compiled(model: torch.nn.Module, when: str, device: torch.device,
             calls: int) -> Callable[..., torch.Tensor]:
    """Return the model, to be compiled when it is first called if that is worth it.

    ``when`` is yes, no, or auto: on a CUDA device, for many ``calls``. There the kernels of a
    pass are also launched as one (CUDA graphs). Raises `UserError` if torch.compile
    does not work here.
    """
    cuda = device.type == "cuda"
    if when == "no" or when == "auto" and not (cuda and calls >= WORTH_COMPILING):
        return model
    try:
        return torch.compile(model, **({"mode": "reduce-overhead"} if cuda else {}))
    except RuntimeError as error:  # as on a Python that it does not know yet
        raise not_compiled(error) from None


def not_compiled(error: Exception) -> UserError:
    """Return the `UserError` for a torch.compile, or a first call of its result, that fails."""
    reason = " ".join(str(error).split())[:200]
    return UserError(f"compile: torch.compile failed ({reason}), expected a working compiler (g++, "
                     "on a GPU Triton too) or compile: no")
