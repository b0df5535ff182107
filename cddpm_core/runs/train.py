"""Training of a run, evaluated on the way: in a notebook, by command, or in several processes.

``accelerate launch -m cddpm_core train --params params/full.yaml`` trains the run of that name;
the stages that come after find it finished.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import project_root, write_png
from cddpm_core.config.presets import to_yaml
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import ConditionDataset, IclevrDataset
from cddpm_core.data.source import data_source, load_dataset
from cddpm_core.evaluation.evaluate import sample_and_score
from cddpm_core.evaluation.evaluator import Evaluator
from cddpm_core.evaluation.fidelity import expected_sharpness, sharpness
from cddpm_core.evaluation.images import grid_image
from cddpm_core.evaluation.stand_in import load_evaluator
from cddpm_core.runs.archive import record_training
from cddpm_core.runs.importing import without_training
from cddpm_core.runs.lock import locked
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.runs.session import Session
from cddpm_core.runs.tracking import Watch, check_tracker, tracked
from cddpm_core.sampling.pipeline import ClassConditionedPipeline, save_pipeline
from cddpm_core.training.distribution import accelerator_of, check_devices
from cddpm_core.training.loop import train

__all__ = ["early_variant", "launch", "periodic_evaluation", "train_in", "train_run",
           "train_session"]


def early_variant(run: Run, params: Params, epochs: int) -> Run:
    """Return the folder of a variant of the timesteps experiment, stopped after ``epochs``."""
    return Run(f"T{params.num_train_timesteps}_stopped{epochs}of{params.epochs}",
               outputs=run / "timesteps")


def periodic_evaluation(run: Run, params: Params, dataset: IclevrDataset, evaluator: Evaluator,
                        accelerator: Accelerator | None = None) -> Callable[
        [ClassConditionedPipeline, str], dict[str, Any]]:
    """Return the ``evaluate`` of `training.loop.train`.

    Called with a pipeline and a name such as ``epoch_003``, it samples the conditions of
    ``test``, writes the grid to ``figures/progress/<name>.png`` and returns
    ``{"test": {"micro": ..., "macro": ..., "sharpness": ...}}``, the last relative to training
    images with as many objects. The pipeline of the epoch ``experiment_epochs`` is
    kept as a variant of the timesteps experiment. Each process of an ``accelerator`` samples a
    part of the images, and the first one writes.
    """
    conditions = ConditionDataset("test")
    # The curve shows what the network has learned, so the evaluator does not guide here.
    params = params.replace(evaluator_guidance=0.0)
    expected = functools.cache(lambda: expected_sharpness(dataset, conditions.conditions))

    def evaluate(pipeline: ClassConditionedPipeline, name: str) -> dict[str, Any]:
        images, scored = sample_and_score(pipeline, evaluator, conditions, params,
                                          accelerator=accelerator)
        found = {"test": {"micro": scored["micro"], "macro": scored["macro"],
                          "sharpness": sharpness(images) / expected()}}
        if accelerator and not accelerator.is_main_process:
            return found
        write_png(run / f"figures/progress/{name}.png", grid_image(images))
        if params.experiment_epochs and name == f"epoch_{params.experiment_epochs:03d}":
            save_pipeline(pipeline, early_variant(run, params, params.experiment_epochs) / "model")
        return found

    return evaluate


def train_in(run: Run, params: Params, dataset: IclevrDataset, evaluator: Evaluator, *,
             watch: Watch | None = None, accelerator: Accelerator | None = None) -> dict[str, Any]:
    """Train in the folder of a run with evaluation on the way, and write ``metrics.json``.

    A training that is in the folder is resumed. Returns what `training.loop.train` returns.
    Raises `UserError` if another process holds the folder's lock, its model is imported, or the
    tracker ``params.report_to`` is not installed.
    """
    if said := without_training(run, "train"):
        raise UserError(f"{run.folder}: {said}; take another run name to train")
    first = accelerator is None or accelerator.is_main_process
    with (locked(run.folder) if first else contextlib.nullcontext(),
          tracked(run, params, watch) if first else contextlib.nullcontext() as watch):
        if first:
            record_training(run, params)
            if not (run / "checkpoint.pt").exists():
                run.write_params(params)
        result = train(params, dataset, run.folder, watch=watch, accelerator=accelerator,
                       evaluate=periodic_evaluation(run, params, dataset, evaluator, accelerator))
        if first:
            run.write_params(params)
            run.update_metrics({"train": result})
    return result


def train_session(session: Session, watch: Watch | None = None) -> dict[str, Any]:
    """Train the run of a notebook, in ``params.num_processes`` processes; see `train_in`.

    The session's `pipeline` is then the one just trained.
    """
    if session.params.num_processes > 1:
        result = launch(session.run, session.params)
    else:
        result = train_in(session.run, session.params, session.dataset, session.evaluator,
                          watch=watch)
    for name in ("pipeline", "trained"):  # what was loaded before
        session.__dict__.pop(name, None)
    return result


def train_run(params: Params) -> dict[str, Any]:
    """Train the run ``params.run`` in all processes that were started together; see `train_in`.

    The first process renders the data if they are not cached.
    """
    check_tracker(params)
    accelerator, run = accelerator_of(params), Run(params.run)
    first = accelerator.is_main_process
    with locked(run.folder) if first else contextlib.nullcontext():
        with accelerator.main_process_first():
            data_source(params, run.cache)
        dataset = load_dataset(params, run.cache)
        evaluator = load_evaluator(params.evaluator, accelerator.device)
        result = train_in(run, params, dataset, evaluator, accelerator=accelerator)
        accelerator.end_training()
    return result


def launch(run: Run, params: Params) -> dict[str, Any]:
    """Train a run in ``params.num_processes`` processes and return what `train_run` returns.

    Raises `UserError` with the sentence of the process that failed.
    """
    check_devices(params, params.num_processes)
    fault = ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{run.name}.yaml"
        file.write_text(to_yaml(params.replace(run=run.name)), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone",
                   f"--nproc-per-node={params.num_processes}", "-m", "cddpm_core", "train",
                   "--params", str(file)]
        with subprocess.Popen(command, cwd=project_root(), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, preexec_fn=_end_with_parent,
                              env={**os.environ, OUTPUTS: str(run.outputs.absolute())}) as process:
            try:
                # Progress bars end their lines with a carriage return, which has to be kept.
                for line in io.TextIOWrapper(process.stdout, encoding="utf-8", newline=""):
                    if line.startswith("Error: ") and not fault:
                        fault = line.removeprefix("Error: ").strip()
                    if not fault:  # what follows is the launcher's account of the failure
                        print(line, end="", flush=True, file=sys.stderr)
            finally:
                process.terminate()
    if process.returncode:
        raise UserError(fault or f"training in {params.num_processes} processes ended with exit "
                        f"code {process.returncode}; the same command resumes from the last "
                        "checkpoint")
    return run.need("train", "make report")


def _end_with_parent() -> None:
    """Make the launcher, and so its workers, end when this process is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
