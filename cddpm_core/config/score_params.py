"""The parameters of a score of images made elsewhere: of the command and of its notebook."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cddpm_core.config.cells import cell_parameters
from cddpm_core.config.files import project_root, typed_path
from cddpm_core.config.parameter import Checked, key
from cddpm_core.config.schema import FIELDS, resolve

__all__ = ["SCORE_FIELDS", "ScoreParams", "score_params"]

PATHS = ("images", "conditions", "evaluator", "agreement")
MANY = 100_000
_score = partial(key, chapter="evaluator", affects="nothing")


class ScoreParams(Checked):
    """The parameters with their defaults."""

    images: str = _score(
        "outputs/quick_test.png", "folder of images, a grid picture, or a text file of paths")
    conditions: str = _score(
        "test", "test, new_test, or a JSON file with a list of labels for each image")
    evaluator: str = _score("", FIELDS["evaluator"].help)
    cell: int = _score(0, "width of an image in the grid in pixels; 0: detect", low=0, high=MANY)
    padding: int = _score(-1, "pixels between images in the grid; -1: detect", low=-1, high=MANY)
    columns: int = _score(0, "images in a row of the grid; 0: detect", low=0, high=MANY)
    tone: Literal["auto", "keep", "undo"] = _score(
        "auto", "keep or undo a changed tone; auto: undo a stretch that all images share")
    out: str = _score("", "folder for score.json and score.png; empty: one in outputs/scores/")
    agreement: str = _score("", "folder of grids with official scores to compare with; empty: none")

    def grid(self) -> dict[str, int | None]:
        """Return what is known of the grid, as `read_images` wants it."""
        return {"cell": self.cell, "columns": self.columns,
                "padding": self.padding if self.padding >= 0 else None}


SCORE_FIELDS = ScoreParams.fields()


def score_params(namespace: Mapping[str, Any]) -> ScoreParams:
    """Return the parameters of a notebook, given its ``globals()``; see `cell_parameters`.

    A path that is not below the working directory may be below the root of the checkout.
    """
    found = resolve(cell_parameters(namespace, ScoreParams)[0], "notebook parameters", ScoreParams)
    elsewhere = {name: str(project_root() / getattr(found, name)) for name in PATHS}
    return found.model_copy(update={
        name: path for name, path in elsewhere.items()
        if getattr(found, name) and not typed_path(getattr(found, name)).exists()
        and Path(path).exists()})
