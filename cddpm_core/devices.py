"""Where the computing is done: one device, some of its cores, or several processes."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from cddpm_core.errors import UserError
from cddpm_core.params import Params
from cddpm_core.presets import to_yaml
from cddpm_core.runs import Run, project_root

__all__ = ["SideBySide", "accelerator_of", "arithmetic_of", "compiled", "computes_bf16",
           "device_of", "launch", "not_compiled", "summed"]


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


def compiled(model: torch.nn.Module) -> Callable[..., torch.Tensor]:
    """Return the model as torch.compile makes it, when it is first called; `UserError` if not."""
    try:
        return torch.compile(model)
    except RuntimeError as error:  # as on a Python that it does not know yet
        raise not_compiled(error) from None


def not_compiled(error: Exception) -> UserError:
    """Return what is raised where torch.compile, or the first call of what it made, fails."""
    reason = " ".join(str(error).split())[:200]
    return UserError(f"compile: torch.compile failed ({reason}), expected a working compiler (g++, "
                     "on a GPU Triton too) or compile: false")


class SideBySide:
    """Calls a function on several things at once, in ``parts`` threads with a share of the cores.

    On a CPU one call on all cores leaves them waiting for each other.
    """

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, work: Callable, *things: Sequence) -> list:
        """Return ``work`` of each of the things, as `map` takes them, in their order."""
        cores = torch.get_num_threads()
        if self.parts == 1 or cores == 1:
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


def accelerator_of(params: Params) -> Accelerator:
    """Return what joins the processes that ``accelerate launch`` or ``torchrun`` started.

    Raises `UserError` if there are more of them than images a step.
    """
    _check_devices(params, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    # The others wait while one renders the data and trains the evaluator.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    # Arithmetic is that of the parameters, whatever accelerate's own configuration says.
    accelerator = Accelerator(cpu=device_of(params).type == "cpu", mixed_precision="no",
                              kwargs_handlers=[patience])
    if accelerator.num_processes > params.batch_size:
        raise UserError(f"batch_size: expected at least one image for each of the "
                        f"{accelerator.num_processes} processes, found {params.batch_size}")
    return accelerator


def _check_devices(params: Params, processes: int) -> None:
    device = device_of(params)
    if device.type != "cpu" and processes > torch.accelerator.device_count():
        raise UserError(f"num_processes: {processes} on this machine, which has "
                        f"{torch.accelerator.device_count()} {device.type} devices, expected one "
                        "a device at most")


def summed(accelerator: Accelerator, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the sum of each tensor over the processes, all in one message."""
    total = accelerator.reduce(torch.cat([t.flatten() for t in tensors]), "sum")
    return [part.view_as(t) for part, t in
            zip(total.split([t.numel() for t in tensors]), tensors, strict=True)]


def _end_with_parent() -> None:
    """Let the launcher, and so its workers, end when this process is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def launch(run: Run, params: Params) -> dict:
    """Train a run with ``params.num_processes`` processes and return what `train_run` did.

    Raises `UserError` with the sentence of the process that failed.
    """
    _check_devices(params, params.num_processes)
    places = {key: str(Path(getattr(params, key)).expanduser().absolute())
              for key in ("data", "evaluator", "reference") if getattr(params, key)}
    fault = ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{run.name}.yaml"
        file.write_text(to_yaml(params.replace(run=run.name, **places)), encoding="utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                   f"--nproc-per-node={params.num_processes}", "-m", "cddpm_core.train",
                   "--params", str(file)]
        with subprocess.Popen(command, cwd=project_root(), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, preexec_fn=_end_with_parent) as process:
            try:
                # Progress bars end their lines with a carriage return, which is to stay.
                for line in io.TextIOWrapper(process.stdout, encoding="utf-8", newline=""):
                    if line.startswith("Error: ") and not fault:
                        fault = line.removeprefix("Error: ").strip()
                    if not fault:  # what follows is the launcher's account of it
                        print(line, end="", flush=True, file=sys.stderr)
            finally:
                process.terminate()
    if process.returncode:
        raise UserError(fault or f"training in {params.num_processes} processes ended with exit "
                        f"code {process.returncode}; the same command goes on from the last "
                        "checkpoint")
    return run.need("train", "make report")
