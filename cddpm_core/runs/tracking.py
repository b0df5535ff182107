"""Trackers: a training's history and sampled images in TensorBoard or Weights & Biases.

They hear of a training as the notebook's curves do, by the ``watch`` of `training.loop.train`.
"""

from __future__ import annotations

import contextlib
import math
import secrets
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import write_text
from cddpm_core.config.schema import Params
from cddpm_core.runs.run import Run

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

__all__ = ["Watch", "check_tracker", "tracked"]

Watch = Callable[[Path], None]
PROJECT = "cddpm_core"  # of the runs in Weights & Biases


def check_tracker(params: Params) -> None:
    """Raise `UserError` unless the package of the tracker ``report_to`` is installed."""
    name = params.report_to
    if name != "none" and find_spec(name) is None:
        raise UserError(f"report_to: the package {name} is not installed, expected it or "
                        f"report_to: none; python -m pip install -e '.[{name}]' installs it")


@contextlib.contextmanager
def tracked(run: Run, params: Params, watch: Watch | None) -> Iterator[Watch | None]:
    """Give a ``watch`` that also sends each line of the history to the tracker ``report_to``.

    All numbers of a line are sent, at its step, and after an evaluation the grid of its images.
    TensorBoard's files are in ``tensorboard/`` of the run, those of Weights & Biases in
    ``wandb/``. A resumed training goes on in the same log. Raises `UserError` if the tracker is
    not installed or cannot start.
    """
    check_tracker(params)
    if params.report_to == "none":
        yield watch
        return
    tracker = None

    def both(folder: Path) -> None:
        nonlocal tracker
        line = run.history()[-1]
        # Only now is it known at which step a training goes on.
        tracker = tracker or _started(run, params, line["step"])
        _send(tracker, run, line)
        if watch:
            watch(folder)

    try:
        yield both
    finally:
        if tracker:
            tracker.finish()


def _started(run: Run, params: Params, step: int) -> GeneralTracker:
    """The tracker, which has begun a log or goes on with that of the run at ``step``."""
    from accelerate import PartialState
    from accelerate.tracking import TensorBoardTracker, WandBTracker

    if params.report_to == "tensorboard":
        # What was sent after the checkpoint that a training goes on from no longer counts.
        tracker = TensorBoardTracker("tensorboard", run.folder, purge_step=step)
    else:
        tracker = WandBTracker(PROJECT, name=run.name, id=_wandb_id(run), resume="allow",
                               dir=str(run.folder), config=params.to_dict())
    PartialState(cpu=params.device == "cpu")  # trackers ask it which process they are in
    try:
        tracker.start()
    except Exception as error:  # each tracker has its own
        raise UserError(f"report_to: {params.report_to} does not start "
                        f"({' '.join(str(error).split())[:200]}), expected a tracker that does or "
                        "report_to: none") from None
    return tracker


def _wandb_id(run: Run) -> str:
    """The id of this training in Weights & Biases, the same when it is resumed."""
    path = run / "wandb/id"
    if not path.exists():
        write_text(path, secrets.token_hex(8))
    return path.read_text(encoding="utf-8")


def _send(tracker: GeneralTracker, run: Run, line: Mapping[str, Any]) -> None:
    step = line["step"]
    numbers = {key: value for key, value in line.items() if isinstance(value, int | float)}
    numbers |= {f"{key}/{name}": value for key, values in line.items() if isinstance(values, dict)
                for name, value in values.items()}
    numbers.pop("step")
    tracker.log(numbers, step=step)
    grid = run / f"figures/progress/epoch_{math.floor(line['epoch']):03d}.png"
    if "test" in line and grid.exists():
        import numpy as np
        from PIL import Image

        layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
        with Image.open(grid) as image:
            tracker.log_images({"test": np.asarray(image)[None]}, step=step, **layout)
