"""The curves that grow while somebody watches a training in a notebook."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

from IPython.display import Image, display

from cddpm_core.charts import training_curves
from cddpm_core.runs import Run, by_hand

__all__ = ["live_curves"]


def live_curves(seconds: float = 10.0) -> Callable[[Run], None] | None:
    """Return what draws a run's history in place, at most every so many seconds; None if headless.

    It is what `training.train` takes as ``watch``.
    """
    if not by_hand():
        return None
    shown: dict[str, Any] = {"handle": None, "at": 0.0}

    def watch(run: Run) -> None:
        if time.monotonic() - shown["at"] < seconds and shown["handle"]:
            return
        file = io.BytesIO()
        training_curves(run.history()).savefig(file, format="png", dpi=100)
        image = Image(file.getvalue())
        if shown["handle"]:
            shown["handle"].update(image)
        else:
            shown["handle"] = display(image, display_id=True)
        shown["at"] = time.monotonic()

    return watch
