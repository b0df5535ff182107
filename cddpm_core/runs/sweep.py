"""Several runs, one after the other: params files times seeds, compared in one report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import atomic
from cddpm_core.config.schema import Params, keys_affecting
from cddpm_core.runs.archive import RECORD
from cddpm_core.runs.lock import locked
from cddpm_core.runs.run import Run
from cddpm_core.runs.stages import check, run_stages, with_needs
from cddpm_core.training.history import write_history

__all__ = ["run_sweep"]


def run_sweep(presets: Sequence[Params], seeds: Sequence[int] = ()) -> Run:
    """Train, evaluate and analyse each preset with each seed, and report the first with the others.

    A preset with its own seed keeps its run name, another seed adds ``_seed<n>``. A preset that
    differs from an earlier one in sampling alone takes its training. Finished stages are skipped,
    so a sweep that was stopped can be resumed. Returns the run with the report. Raises `UserError`
    before the first training for two runs of one name, and for what would fail hours later; at the
    end for runs that failed, which the report leaves out.
    """
    runs = [preset.replace(seed=seed, run=preset.run if seed == preset.seed
                           else f"{preset.run}_seed{seed}")
            for preset in presets for seed in (seeds or [preset.seed])]
    names = [params.run for params in runs]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise UserError(f"sweep: the run {twice!r} is asked for twice, expected params files of "
                        "different names, each seed once, and no -p run with several files")
    stages = with_needs("analyse")
    for params in runs:
        check(stages, params)
    check([stage for stage in with_needs("report", runs[0].experiments) if stage != "report"],
          runs[0])
    failed: list[str] = []
    for index, params in enumerate(runs):
        print(f"run {index + 1} of {len(runs)}: {params.run}", flush=True)
        for earlier in runs[:index]:
            if _training(earlier) == _training(params):
                _take_training(Run(earlier.run), Run(params.run))
        try:
            run_stages(stages, params)
        except UserError as error:  # a training that diverged, say: the others are still wanted
            if len(runs) == 1:
                raise
            print(f"{params.run}: {error}", flush=True)
            failed.append(params.run)
    if names[0] not in failed:
        first = runs[0].replace(runs=[name for name in names if name not in failed])
        run = run_stages(with_needs("report", first.experiments), first)
    if failed:
        raise UserError(f"sweep: {len(failed)} of {len(runs)} runs failed, as said above: "
                        f"{', '.join(failed)}")
    return run


def _training(params: Params) -> list:
    return [getattr(params, key) for key in keys_affecting("weights", "data", "length")]


def _take_training(source: Run, target: Run) -> None:
    if not (source / "checkpoint.pt").exists():
        return
    with locked(target.folder):
        if (target / "checkpoint.pt").exists():
            return
        shutil.copytree(source / "model", target / "model", dirs_exist_ok=True)
        # The accuracies on the way are those of the other preset's sampling.
        write_history(target.folder, [line for line in source.history() if "test" not in line])
        for name in (RECORD, "checkpoint.pt"):  # the checkpoint last: with it the training is whole
            with atomic(target / name) as temporary:
                shutil.copy(source / name, temporary)
