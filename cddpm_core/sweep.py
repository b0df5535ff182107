"""Many runs, one after the other: params files times seeds, up to their accuracies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence

from cddpm_core.params import DATA_KEYS, TRAIN_KEYS, Params
from cddpm_core.pipeline import run_stages, with_needs
from cddpm_core.runs import Run, atomic

__all__ = ["run_sweep"]


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
    first = runs[0].replace(runs=[params.run for params in runs])
    return run_stages(with_needs("report", first.experiments), first)


def _training(params: Params) -> list:
    keys = (*TRAIN_KEYS, *DATA_KEYS, "epochs", "max_steps")
    return [getattr(params, key) for key in keys]


def _take_training(source: Run, target: Run) -> None:
    if (target / "checkpoint.pt").exists():
        return
    shutil.copytree(source / "model", target / "model", dirs_exist_ok=True)
    with atomic(target / "history.jsonl") as temporary:
        # The accuracies along the way are those of the other preset's sampling.
        temporary.write_text("".join(json.dumps(line) + "\n" for line in source.history()
                                     if "test" not in line), encoding="utf-8")
    with atomic(target / "checkpoint.pt") as temporary:  # last: it says that the others are there
        shutil.copy(source / "checkpoint.pt", temporary)
