"""Many runs, one after the other: params files times seeds, up to their accuracies."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from cddpm_core.params import Params
from cddpm_core.pipeline import run_stages, with_needs
from cddpm_core.runs import Run
from cddpm_core.training import DATA_KEYS, TRAIN_KEYS

__all__ = ["run_sweep"]

TRAINING = ("checkpoint.pt", "history.jsonl", "model", "figures")


def run_sweep(presets: Sequence[Params], seeds: Sequence[int] = ()) -> Run:
    """Train and evaluate each preset with each seed, and report the first with the others.

    A preset with its own seed keeps its run name, another seed adds ``_seed<n>``. A
    training that was done before in this sweep, by a preset that differs in sampling
    alone, is taken from there. Finished stages are skipped, so a sweep that was
    stopped goes on where it was. Returns the run with the report.
    """
    runs = [preset.replace(seed=seed, run=preset.run if seed == preset.seed
                           else f"{preset.run}_seed{seed}")
            for preset in presets for seed in (seeds or [preset.seed])]
    for index, params in enumerate(runs):
        print(f"run {index + 1} of {len(runs)}: {params.run}", flush=True)
        for earlier in runs[:index]:
            if _training(earlier) == _training(params):
                _take_training(Run(earlier.run), Run(params.run))
        run_stages(with_needs("evaluate"), params)
    return run_stages(with_needs("report"), runs[0].replace(runs=[params.run for params in runs]))


def _training(params: Params) -> list:
    keys = (*TRAIN_KEYS, *DATA_KEYS, "epochs", "max_steps")
    return [getattr(params, key) for key in keys]


def _take_training(source: Run, target: Run) -> None:
    if (target / "checkpoint.pt").exists():
        return
    target.folder.mkdir(parents=True, exist_ok=True)
    for name in reversed(TRAINING):  # the checkpoint last: it says that the others are there
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        elif (source / name).exists():
            shutil.copy(source / name, target / name)
