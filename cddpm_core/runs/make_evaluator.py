"""Training of a stand-in evaluator: a private one, or the one that comes with the package."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cddpm_core.config.device import device_of
from cddpm_core.config.errors import UserError
from cddpm_core.config.files import typed_path, write_json
from cddpm_core.config.schema import Params
from cddpm_core.evaluation.stand_in import CARD, SUFFIX, WEIGHTS, save_stand_in
from cddpm_core.evaluation.stand_in_training import train_stand_in
from cddpm_core.runs.manifest import made_with
from cddpm_core.runs.run import Run

__all__ = ["make_evaluator"]


def make_evaluator(out: str, *, release: bool, device: str, command: str,
                   **recipe: Any) -> tuple[Path, dict[str, Any]]:
    """Train a stand-in and write it to the file ``out``; return its path and its facts.

    ``recipe`` are options of `train_stand_in`. Without ``out`` it goes to ``outputs/evaluator/``.
    With ``release`` it replaces the one that comes with the package, card included. Raises
    `UserError`, before it trains, for a file of another suffix or in a folder that is none.
    """
    params = Params(device=device)
    where, started = device_of(params), time.monotonic()
    path = typed_path(out) if out else Run("evaluator") / f"seed{recipe['seed']}{SUFFIX}"
    if release:
        if out:
            raise UserError(f"--out: expected none with --release, found {out}")
        path = WEIGHTS
    if path.suffix != SUFFIX or path.is_dir():
        raise UserError(f"--out: expected a file {'*' + SUFFIX}, found {out}")
    path.parent.mkdir(parents=True, exist_ok=True)
    evaluator = train_stand_in(**recipe, device=where)
    facts = {"command": command, "recipe": recipe, "seconds": round(time.monotonic() - started, 1),
             "made_with": made_with(params, where)}
    sha256 = save_stand_in(evaluator, path, facts)
    facts |= {"heldout": evaluator.heldout, "sha256": sha256}
    if release:
        write_json(CARD, facts)
    return path, facts
