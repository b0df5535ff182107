"""Training curves that update in a notebook while the training runs."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from IPython.display import Image, display

from cddpm_core.config.progress import by_hand
from cddpm_core.report.training_charts import training_curves
from cddpm_core.training.history import read_history

__all__ = ["live_curves"]


def live_curves(seconds: float = 10.0) -> Callable[[Path], None] | None:
    """Return the ``watch`` of `training.loop.train`; None if nobody is looking (headless).

    It shows the history in a run's folder as one picture, updated at most every ``seconds``.
    """
    if not by_hand():
        return None
    shown: dict[str, Any] = {"handle": None, "at": 0.0}

    def watch(folder: Path) -> None:
        if time.monotonic() - shown["at"] < seconds and shown["handle"]:
            return
        file = io.BytesIO()
        training_curves(read_history(folder)).savefig(file, format="png", dpi=100)
        image = Image(file.getvalue())
        if shown["handle"]:
            shown["handle"].update(image)
        else:
            shown["handle"] = display(image, display_id=True)
        shown["at"] = time.monotonic()

    return watch
