"""Where the computing is done: one device, or several processes side by side."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from cddpm_core.errors import UserError
from cddpm_core.params import Params
from cddpm_core.runs import Run, project_root

__all__ = ["accelerator_of", "device_of", "launch", "summed"]


def device_of(params: Params) -> torch.device:
    """Return the device asked for, the best one there is for ``auto``."""
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if params.device == "auto":
        return torch.device(best.type if best else "cpu")
    if params.device != "cpu" and (best is None or best.type != params.device):
        raise UserError(f"device: {params.device!r} is not there, expected 'auto' or 'cpu'")
    return torch.device(params.device)


def accelerator_of(params: Params) -> Accelerator:
    """Return what joins the processes that ``accelerate launch`` or ``torchrun`` started.

    Raises `UserError` if there are more of them than images a step.
    """
    # The others wait while one renders the data and trains the evaluator.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    # Arithmetic is that of the parameters, whatever accelerate's own configuration says.
    accelerator = Accelerator(cpu=device_of(params).type == "cpu", mixed_precision="no",
                              kwargs_handlers=[patience])
    if accelerator.num_processes > params.batch_size:
        raise UserError(f"batch_size: expected at least one image for each of the "
                        f"{accelerator.num_processes} processes, found {params.batch_size}")
    return accelerator


def summed(accelerator: Accelerator, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the sum of each tensor over the processes, all in one message."""
    total = accelerator.reduce(torch.cat([t.flatten() for t in tensors]), "sum")
    return [part.view_as(t) for part, t in
            zip(total.split([t.numel() for t in tensors]), tensors, strict=True)]


def launch(run: Run, params: Params) -> dict:
    """Train a run with ``params.num_processes`` processes and return what `train_run` did.

    Raises `UserError` with the sentence of the process that failed.
    """
    run.write_params(params)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               f"--nproc-per-node={params.num_processes}", "-m", "cddpm_core.train",
               "--params", str(run / "params.yaml")]
    fault = ""
    with subprocess.Popen(command, cwd=project_root(), text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        try:
            for line in process.stdout:
                fault = fault or line.removeprefix("Error: ").strip() * line.startswith("Error: ")
                if not fault:  # what follows is the launcher's account of it
                    print(line, end="", flush=True)
        finally:
            process.terminate()
    if process.returncode:
        raise UserError(fault or f"training in {params.num_processes} processes ended with exit "
                        f"code {process.returncode}; the same command goes on from the last "
                        "checkpoint")
    return run.need("train", "make report")
