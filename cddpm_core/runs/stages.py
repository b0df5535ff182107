"""The order of the stages: each is a notebook, run by papermill in a kernel of its own.

A stage is skipped if nothing it was made from has changed since it last finished; see `inputs`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from cddpm_core.config.errors import UserError, did_you_mean
from cddpm_core.config.files import project_root, sha256_of, typed_path
from cddpm_core.config.progress import HEADLESS
from cddpm_core.config.schema import FIELDS, Params, sampling_variants, timestep_variants
from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.runs.archive import archive_stale_training, changed_since_training
from cddpm_core.runs.importing import check_imported, without_training
from cddpm_core.runs.inputs import NEW, stage_inputs, why_run
from cddpm_core.runs.lock import locked
from cddpm_core.runs.modules import read_notebook, short_hash
from cddpm_core.runs.run import Run
from cddpm_core.runs.tracking import check_tracker

__all__ = ["EXPERIMENTS", "STAGES", "check", "check_runs", "run_stages", "with_needs"]

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
EXPERIMENTS = FIELDS["experiments"].choices  # stages that a report includes if asked for


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

    One line is printed for each: that it has finished before, or why it runs. With ``force`` all
    run, and the model is trained anew; the earlier training is kept under ``previous/``.
    Raises `UserError` with the sentence of the notebook that failed; what the stages before it
    computed is kept. If another process holds the run's folder, nothing is changed.
    """
    run = Run(params.run)
    check(names, params)
    with locked(run.folder):
        archived = archive_stale_training(run, params, force=force) if "train" in names else ""
        run.interrupted()
        run.write_params(params)
        for name in names:
            if said := without_training(run, name):
                print(f"{name}: {said}", flush=True)
                continue
            _run_stage(name, names, params, run, force, archived if name == "train" else "")
    return run


def check(names: Sequence[str], params: Params) -> None:
    """Raise `UserError` for what would fail only after hours in these stages."""
    if "train" in names:
        check_tracker(params)
    # What needs torch is imported where it is needed: this process mostly waits for notebooks.
    if params.data:
        from cddpm_core.data.images import check_folder

        check_folder(params.data, params.missing)
    elif params.renderer == "cycles":
        from cddpm_core.scenes.version import scenes_version

        scenes_version(params)
    if params.evaluator:
        from cddpm_core.evaluation.stand_in import load_evaluator

        load_evaluator(params.evaluator)
    if params.reference and not typed_path(params.reference).is_dir():
        raise UserError(f"reference: {params.reference} is not a folder, expected one with real "
                        "frames")
    if "sampling" in names:
        sampling_variants(params)
    if "timesteps" in names:
        timestep_variants(params)
    check_imported(Run(params.run), params)
    if "report" in names:
        check_runs(params.runs, Run(params.run))


def _run_stage(name: str, names: Sequence[str], params: Params, run: Run, force: bool,
               archived: str) -> None:
    notebook = project_root() / f"notebooks/{name}.ipynb"
    if name == "report":
        _forget_stale_experiments(run, names)
    inputs = stage_inputs(notebook, params, run, _needs(name, run))
    before = run.stages().get(name, {})
    why = why_run(before, inputs)
    if not why and not (run / f"{name}.ipynb").exists():
        why = f"{run / name}.ipynb is missing"
    if not why and (force or archived):
        why = "as asked" if force else "there is a new training to do"
    if not why:
        print(f"{name}: finished before, in {before['seconds']:.0f} s", flush=True)
        return
    print(f"{name}: {_sentence(why, before, inputs, run, archived, name)}", flush=True)
    run.write_params(params)  # a notebook run meanwhile may have written its own
    with run.stage(name, inputs=inputs, why=why):
        _execute(notebook, run / f"{name}.ipynb", params)
    seconds = sum(about.get("seconds", 0) for about in run.stages().values())
    run.update_metrics({"total_seconds": round(seconds, 1)})


def _sentence(why: str, before: Mapping[str, Any], inputs: Mapping[str, Any], run: Run,
              archived: str, name: str) -> str:
    """Why a stage runs and, for a training, what happens to the existing weights."""
    said = f"runs, {why}" if why == NEW else f"runs again, {why}"
    stale = changed_since_training(run) if name == "train" else []
    if archived:
        return f"{said}; {archived.removesuffix(f' ({why})')}"
    if not stale:
        return said
    kept = (f"the trained weights are kept although {' and '.join(stale[:3])}"
            f"{f' and {len(stale) - 3} more' if len(stale) > 3 else ''} changed since; FORCE=1 "
            "trains anew")
    others = why_run({**before, "inputs": {**before["inputs"], "modules": inputs["modules"]}},
                     inputs) if before.get("inputs") else why
    return f"{said}; {kept}" if others else kept


def _needs(name: str, run: Run) -> dict[str, Any]:
    """What identifies the results that a stage reads.

    For the report that is when each stage finished, since it shows their times and figures too.
    For the others it is what they read, so that an equal result does not repeat them.
    """
    if name == "report":
        return {stage: about["finished"] for stage, about in run.stages().items()
                if stage != name and "finished" in about}
    return {stage: _result(stage, run) for stage in STAGES[name]}


def _result(stage: str, run: Run) -> str:
    """A hash of what the stages after ``stage`` read of it."""
    metrics = run.read("metrics.json")
    model = [(path.name, sha256_of(path)) for path in sorted((run / "model").rglob("*"))
             if path.is_file()]
    return short_hash({
        "data": lambda: [metrics.get("data", {}).get(key) for key in ("sha256", "images")],
        "train": lambda: model,
        "evaluate": lambda: [model, run.read("scores.json")],
    }.get(stage, lambda: metrics.get(stage))())


def _forget_stale_experiments(run: Run, names: Sequence[str]) -> None:
    """Remove experiments that are not run now and were made on other results than there are."""
    for name in EXPERIMENTS:
        about = run.stages().get(name, {})
        if name in names or not (about or name in run.read("metrics.json")):
            continue
        finished = about.get("state") in ("done", "by hand")
        if not finished or about.get("inputs", {}).get("needs") != _needs(name, run):
            print(f"{name}: left out of the report: it is not finished or was made with another "
                  "training or sampler", flush=True)
            run.forget(name)


def _execute(notebook: Path, output: Path, params: Params) -> None:
    """Run one notebook; its executed copy appears whole, also when a cell fails."""
    declared = read_notebook(notebook).declared  # the others are read from params.yaml
    running = output.with_name(f".{output.stem}.running.ipynb")
    os.environ[HEADLESS] = "1"
    try:
        # Papermill fills in what stands in braces in a path.
        source, target = (str(path).replace("{", "{{").replace("}", "}}")
                          for path in (notebook, running))
        papermill.execute_notebook(
            source, target, kernel_name="python3", progress_bar=False,
            parameters={k: v for k, v in params.to_dict().items() if k in declared},
            stderr_file=sys.stderr, cwd=str(project_root()), coalesce_streams=True)
    except PapermillExecutionError as error:
        if error.ename == "UserError":
            raise UserError(error.evalue) from None
        raise UserError(f"{notebook.name}: {error.ename}: {error.evalue} in cell "
                        f"{error.cell_index}; the traceback is in {output}") from None
    except DeadKernelError as error:  # killed for its memory, for instance
        raise UserError(f"{notebook.name}: its kernel died ({error}); the same command resumes "
                        "from the last checkpoint") from None
    except RuntimeError as error:
        raise UserError(f"{notebook.name}: its kernel did not start ({error}); what stands above "
                        f"is what {sys.executable} says of it") from None
    finally:
        del os.environ[HEADLESS]
        if running.exists():
            os.replace(running, output)


def check_runs(names: Sequence[str], run: Run) -> None:
    """Raise `UserError` unless all ``names`` but that of ``run`` are evaluated runs beside it."""
    there = [path.parent.name for path in run.outputs.glob("*/metrics.json")]
    for name in (name for name in names if name != run.name):
        if name not in there:
            raise UserError(f"runs: found {name!r}{did_you_mean(name, there)}, expected a run "
                            f"with metrics.json in {run.outputs}")
        other = Run(name, run.outputs)
        missing = [file for file in CONDITION_FILES
                   if not all(file in other.read(f"{kind}.json") for kind in ("metrics", "scores"))]
        if missing:
            raise UserError(f"runs: {name!r} has no score on {missing[0]} yet, run its evaluate "
                            "stage first")
