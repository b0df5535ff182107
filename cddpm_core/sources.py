"""Where the images come from: the user's folder, or scenes rendered here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cddpm_core.data import ConditionDataset
from cddpm_core.errors import UserError
from cddpm_core.images import check_folder
from cddpm_core.params import Params
from cddpm_core.runs import Run
from cddpm_core.scenes import RENDERER_VERSION, render_dataset

__all__ = ["DataSource", "data_source", "left_out"]


@dataclass(frozen=True)
class DataSource:
    """Where the images come from, said beside every figure.

    ``kind`` is ``real`` or ``rendered``; ``sha256`` is the hash of ``train.json``.
    """

    kind: str
    folder: Path
    heldout: Path | None
    sha256: str

    def describe(self) -> str:
        """Return a phrase for captions."""
        return "real i-CLEVR images" if self.kind == "real" else "rendered scenes (embedded data)"


def data_source(params: Params, run: Run) -> DataSource:
    """Return the user's data folder, or the embedded data, rendered now if it is not there yet."""
    if params.data:
        folder = Path(params.data).expanduser()
        check_folder(folder)
        return DataSource("real", folder, None, _hash(folder / "train.json"))
    rendered = []
    for split, scenes in (("train", params.num_scenes), ("heldout", params.heldout_scenes)):
        # The held-out scenes draw from seeds no training split reaches.
        seed = params.data_seed + (0 if split == "train" else 2**31)
        folder = run.cache / f"data/{split}-v{RENDERER_VERSION}-{scenes}-seed{params.data_seed}"
        if not (folder / "train.json").exists():
            render_dataset(folder, num_scenes=scenes, seed=seed)
        rendered.append(folder)
    return DataSource("rendered", *rendered, _hash(rendered[0] / "train.json"))


def left_out(params: Params) -> set[frozenset[str]]:
    """Return the label sets that training is not to see, by ``params.holdout``."""
    files = ("test", "new_test") if params.holdout == "test_conditions" else ()
    return {frozenset(names) for file in files for names in ConditionDataset(file).label_sets}


def _hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        raise UserError(f"{path}: no such file, expected the labels of the images") from None
