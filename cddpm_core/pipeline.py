"""The order of the stages: each is a notebook, run by papermill in a kernel of its own.

A stage is skipped if its notebook, its parameters, its input files and the
stages it reads are what they were when it last finished.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError

from cddpm_core.compare import check_runs
from cddpm_core.errors import UserError, did_you_mean
from cddpm_core.lock import locked
from cddpm_core.params import DATA_KEYS, FIELDS, TRAIN_KEYS, Params, sampling_arms
from cddpm_core.runs import HEADLESS, Run, project_root

__all__ = ["EXPERIMENTS", "STAGES", "run_stages", "with_needs"]

# Each stage is the notebook of that name, with the stages whose results it reads.
STAGES = {
    "data": (),
    "train": ("data",),
    "evaluate": ("train",),
    "denoise": ("train",),
    "analyse": ("evaluate",),
    "timesteps": ("evaluate",),
    "sampling": ("evaluate",),
    "report": ("data", "train", "evaluate", "denoise", "analyse", "timesteps", "sampling"),
}
EXPERIMENTS = FIELDS["experiments"].metadata["choices"]  # stages that a report has if asked for


def with_needs(stage: str, experiments: Sequence[str] = EXPERIMENTS) -> list[str]:
    """Return the stage and all it needs, in the order of the pipeline.

    Of the experiments a report needs only those of ``experiments``.
    """
    if stage not in STAGES:
        raise UserError(f"stage: found {stage!r}{did_you_mean(stage, STAGES)}, "
                        f"expected one of {', '.join(STAGES)}")
    wanted = {stage}
    for name in reversed(STAGES):
        if name in wanted:
            wanted.update(STAGES[name])
    return [name for name in STAGES if name in wanted
            and (name in experiments or name == stage or name not in EXPERIMENTS)]


def run_stages(names: Sequence[str], params: Params, *, force: bool = False) -> Run:
    """Run the stages, in the given order, and return the run ``params.run``.

    With ``force`` finished stages are run again; a training that is complete
    still is not repeated. Raises `UserError` with the sentence of the notebook
    that failed; what the stages before it computed is kept. Another process that
    works in the run's folder is named in a `UserError` before anything is touched.
    """
    run = Run(params.run)
    # What needs torch is imported where it is needed: this process mostly waits for notebooks.
    if params.data:
        from cddpm_core.images import check_folder

        check_folder(params.data)
    if params.evaluator:
        from cddpm_core.evaluator import load_official

        load_official(Path(params.evaluator).expanduser())
    if params.reference and not Path(params.reference).expanduser().is_dir():
        raise UserError(f"reference: {params.reference} is not a folder, expected one with real "
                        "frames")
    if "sampling" in names:
        sampling_arms(params)
    if "report" in names:
        check_runs(params.runs, run)
    with locked(run.folder):
        _run_stages(names, params, run, force)
    return run


def _run_stages(names: Sequence[str], params: Params, run: Run, force: bool) -> None:
    if "train" in names:
        _set_other_training_aside(run, params)
    run.interrupted()
    run.write_params(params)
    keys: dict[str, str] = {}
    for name in names:
        notebook = project_root() / f"notebooks/{name}.ipynb"
        needs = [keys[n] for n in STAGES[name] if n in keys]
        if name == "report":
            needs += _experiments_before(run, names, keys)
        keys[name] = _key(notebook, params, needs)
        before = run.read("status.json").get("stages", {}).get(name, {})
        done = (before.get("state"), before.get("key")) == ("done", keys[name])
        if done and not force and (run / f"{name}.ipynb").exists():
            print(f"{name}: finished before, in {before['seconds']:.0f} s", flush=True)
            continue
        print(f"{name}: running", flush=True)
        run.write_params(params)  # a notebook run beside this may have left its own
        with run.stage(name, key=keys[name], needs=needs):
            _execute(notebook, run / f"{name}.ipynb", params)
        seconds = run.read("status.json")["stages"][name]["seconds"]
        print(f"{name}: done in {seconds:.0f} s", flush=True)
        _write_total(run)


def _experiments_before(run: Run, names: Sequence[str], keys: dict[str, str]) -> list[str]:
    """The keys of experiments made earlier; those of another evaluation leave the report."""
    found = []
    for name in EXPERIMENTS:
        about = run.read("status.json").get("stages", {}).get(name, {})
        if name in names or not (about or name in run.read("metrics.json")):
            continue
        if about.get("state") == "done" and about.get("needs") == [keys[n] for n in STAGES[name]]:
            found.append(about["key"])
        else:
            print(f"{name}: not finished, or not of this training and sampler; left out of the "
                  "report", flush=True)
            run.forget(name)
    return found


def _write_total(run: Run) -> None:
    stages = run.read("status.json")["stages"].values()
    run.update_metrics({"total_seconds": round(sum(s.get("seconds", 0) for s in stages), 1)})


def _key(notebook: Path, params: Params, needs: list[str]) -> str:
    """A hash of all that a stage depends on."""
    inputs = {"notebook": _sha256(notebook), "params": _declared(notebook, params),
              "needs": needs}
    if notebook.stem == "report":
        others = [Run("bench") / "bench.json", *(
            Run(name) / file for name in params.runs if name != params.run
            for file in ("metrics.json", "scores.json"))]
        inputs["others"] = [_sha256(path) for path in others if path.exists()]
    if params.reference:
        frames = sorted(Path(params.reference).expanduser().rglob("*.png"))[:100]
        inputs["reference"] = [(path.name, path.stat().st_mtime_ns) for path in frames]
    if params.data:
        inputs["data"] = _sha256(Path(params.data).expanduser() / "train.json")
    if params.evaluator:
        inputs["evaluator"] = _sha256(Path(params.evaluator).expanduser())
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _declared(notebook: Path, params: Params) -> dict[str, Any]:
    """The parameters a notebook declares; it finds the others in the run's ``params.yaml``."""
    declared = papermill.inspect_notebook(str(notebook))
    return {key: value for key, value in params.to_dict().items() if key in declared}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _execute(notebook: Path, output: Path, params: Params) -> None:
    """Run one notebook; its executed copy appears whole, also when a cell fails."""
    running = output.with_name(f".{output.name.removesuffix('.ipynb')}.running.ipynb")
    os.environ[HEADLESS] = "1"
    try:
        papermill.execute_notebook(
            str(notebook), str(running), parameters=_declared(notebook, params),
            kernel_name="python3",
            progress_bar=False, stderr_file=sys.stderr, cwd=str(project_root()),
            coalesce_streams=True)
    except PapermillExecutionError as error:
        if error.ename == "UserError":
            raise UserError(error.evalue) from None
        raise UserError(f"{notebook.name}: {error.ename}: {error.evalue} in cell "
                        f"{error.cell_index}; the traceback is in {output}") from None
    except RuntimeError as error:
        # nbclient's word for a kernel that died, killed for memory for instance.
        raise UserError(f"{notebook.name}: its kernel died ({error}); the same command goes on "
                        "from the last checkpoint") from None
    finally:
        del os.environ[HEADLESS]
        if running.exists():
            os.replace(running, output)


def _set_other_training_aside(run: Run, params: Params) -> None:
    """Keep a training of other parameters under ``previous/``, so that a new one can begin."""
    checkpoint = run / "checkpoint.pt"
    if not checkpoint.exists():
        return
    from cddpm_core.trainer import read_checkpoint

    state = read_checkpoint(checkpoint)
    same = all(state["params"].get(key) == getattr(params, key)
               for key in (*TRAIN_KEYS, *DATA_KEYS))
    if same and state["step"] <= math.ceil(params.epochs * state["images"] / params.batch_size):
        return
    aside = run / f"previous/{time.strftime('%Y%m%d-%H%M%S')}"
    aside.mkdir(parents=True)
    # The stages that need not run again rely on these, so they stay as well.
    for name in ("metrics.json", "params.yaml"):
        if (run / name).exists():
            shutil.copy(run / name, aside / name)
    # The checkpoint last: while it is there, what is left is moved by the next start.
    for name in ("history.jsonl", "model", "timesteps", "checkpoint.pt"):
        if (run / name).exists():
            shutil.move(run / name, aside / name)
    print(f"train: parameters changed, the training so far is kept in {aside}", flush=True)
