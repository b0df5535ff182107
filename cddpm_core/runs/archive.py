"""The record of what a training was made from, and the archive of trainings that no longer apply.

A training is never discarded because code changed. It is moved to ``previous/`` if its parameters
or its data have changed, code that renders included, or if the user asks for a new one.
"""

from __future__ import annotations

import math
import shutil
import time

from cddpm_core.config.errors import shown
from cddpm_core.config.files import write_json
from cddpm_core.config.schema import Params, keys_affecting
from cddpm_core.runs.inputs import data_fingerprint
from cddpm_core.runs.modules import reached_modules
from cddpm_core.runs.run import Run

__all__ = ["RECORD", "archive_stale_training", "changed_since_training", "record_training"]

RECORD = "training.json"  # beside checkpoint.pt
# The folders whose code decides the weights; sampling and evaluation only measure them.
WEIGHTS_FROM = (*(f"cddpm_core/{folder}/" for folder in ("data", "scenes", "scheduler", "model",
                                                     "training")),
                "cddpm_core/config/seeds.py", "cddpm_core/sampling/pipeline.py",
                "cddpm_core/sampling/layout_prior.py")


def record_training(run: Run, params: Params) -> None:
    """Write what a training that begins now is made from; one that is resumed keeps its record."""
    if not (run / "checkpoint.pt").exists():
        write_json(run / RECORD, {"data": data_fingerprint(params), "modules": _modules()})


def changed_since_training(run: Run) -> list[str]:
    """Return the modules that decide the weights and have changed since the training began."""
    if not (run / "checkpoint.pt").exists():
        return []
    before, now = run.read(RECORD).get("modules", {}), _modules()
    return [path for path in before if before[path] != now.get(path)]


def _modules() -> dict[str, str]:
    found = reached_modules(["import cddpm_core.training.loop"])
    return {path: code for path, code in found.items()
            if path.startswith(WEIGHTS_FROM) and not path.endswith("/samplers.py")}


def archive_stale_training(run: Run, params: Params, *, force: bool = False) -> str:
    """Move a training that ``params`` cannot continue to ``previous/``, so that a new one begins.

    Returns where it is and why, as the end of a sentence; empty if there was nothing to move.
    The path of the data does not matter, nor do data of the same content under another path.
    """
    if not (run / "checkpoint.pt").exists():
        return ""
    why = "as asked" if force else _why_stale(run, params)
    if not why:
        return ""
    aside = run / f"previous/{time.strftime('%Y%m%d-%H%M%S')}"
    while aside.exists():
        aside = aside.with_name(f"{aside.name}-2")
    aside.mkdir(parents=True)
    # The stages that need not run again rely on these, so they stay as well.
    for name in ("metrics.json", "params.yaml"):
        if (run / name).exists():
            shutil.copy(run / name, aside / name)
    # The checkpoint last: while it is there, the next start moves whatever is left.
    for name in ("history.jsonl", "tensorboard", "wandb", "model", "timesteps", RECORD,
                 "checkpoint.pt"):
        if (run / name).exists():
            shutil.move(run / name, aside / name)
    return f"the earlier training is kept in {aside} ({why})"


def _why_stale(run: Run, params: Params) -> str:
    from cddpm_core.training.checkpoint import read_checkpoint

    state = read_checkpoint(run / "checkpoint.pt")
    before = state["params"]
    for key in keys_affecting("weights", "data"):
        if key not in ("data", "clevr_assets") and before.get(key) != getattr(params, key):
            return f"{key} changed from {shown(before.get(key))} to {shown(getattr(params, key))}"
    recorded = run.read(RECORD).get("data")
    if bool(before.get("data")) != bool(params.data) or (
            recorded and recorded != data_fingerprint(params)):
        return "the training images changed"
    if state["step"] > math.ceil(params.epochs * state["images"] / params.batch_size):
        return f"it has more than the {params.epochs} epochs asked for"
    return ""
