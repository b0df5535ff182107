"""Training without a notebook, in one process or several.

``accelerate launch -m cddpm_core.train --params params/full.yaml`` trains the run of that
name; the stages that come after find it finished.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from cddpm_core.data import IclevrDataset
from cddpm_core.devices import accelerator_of
from cddpm_core.evaluation import get_evaluator
from cddpm_core.lock import locked
from cddpm_core.params import Params
from cddpm_core.periodic import periodic_evaluation
from cddpm_core.runs import Run
from cddpm_core.sources import data_source, left_out
from cddpm_core.training import train

__all__ = ["train_run"]


def train_run(params: Params) -> dict[str, Any]:
    """Train the run ``params.run`` with all processes there are; see `training.train`.

    The first process renders the data and trains the stand-in evaluator where they are not
    cached yet, and alone writes files. The accuracies on the way are drawn by all.
    """
    accelerator, run = accelerator_of(params), Run(params.run)
    first = accelerator.is_main_process
    with locked(run.folder) if first else contextlib.nullcontext():
        if first and not (run / "checkpoint.pt").exists():
            run.write_params(params)
        with accelerator.main_process_first():
            source = data_source(params, run)
            evaluator = get_evaluator(params, run, accelerator.device)
        dataset = IclevrDataset(source.folder, params.image_size, params.in_memory,
                                left_out(params), run.cache / "pixels")
        evaluate = periodic_evaluation(run, params, evaluator, accelerator)
        result = train(params, dataset, run, evaluate=evaluate, accelerator=accelerator)
        if first:
            run.write_params(params)
            run.update_metrics({"train": result})
        accelerator.end_training()
    return result


if __name__ == "__main__":
    from cddpm_core.__main__ import main

    sys.exit(main(["train", *sys.argv[1:]]))
