"""Where the images come from: the user's folder, or scenes rendered here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cddpm_core.config.files import sha256_of
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import ConditionDataset, IclevrDataset
from cddpm_core.data.images import check_folder
from cddpm_core.data.labels import CONDITION_FILES

__all__ = ["DataSource", "data_source", "left_out", "load_dataset"]


@dataclass(frozen=True)
class DataSource:
    """Where the images come from, stated beside every figure.

    ``kind`` is ``real`` or ``rendered``; ``folder`` holds the training images and ``heldout``
    images that nothing trains on, None for real data; ``sha256`` is the hash of ``train.json``.
    """

    kind: str
    folder: Path
    heldout: Path | None
    sha256: str

    def describe(self) -> str:
        """Return a phrase for captions."""
        return "real i-CLEVR images" if self.kind == "real" else "rendered scenes"


def data_source(params: Params, cache: Path) -> DataSource:
    """Return the user's data folder, or scenes, rendered into ``cache`` if absent."""
    if params.data:
        folder = Path(params.data).expanduser()
        check_folder(folder)
        return DataSource("real", folder, None, sha256_of(folder / "train.json"))
    from cddpm_core.scenes.version import renderer_version

    rendered = []
    for split, scenes in (("train", params.num_scenes), ("heldout", params.heldout_scenes)):
        folder = cache / f"data/{split}-{renderer_version()}-{scenes}-seed{params.data_seed}"
        if not (folder / "train.json").exists():
            from cddpm_core.scenes.dataset import render_dataset  # numba loads slowly

            render_dataset(folder, num_scenes=scenes, seed=params.data_seed, split=split)
        rendered.append(folder)
    return DataSource("rendered", *rendered, sha256_of(rendered[0] / "train.json"))


def left_out(params: Params) -> set[frozenset[str]]:
    """Return the conditions whose images training is not shown, by ``params.holdout``."""
    files = CONDITION_FILES if params.holdout == "test_conditions" else ()
    return {frozenset(names) for file in files for names in ConditionDataset(file).conditions}


def load_dataset(params: Params, cache: Path) -> IclevrDataset:
    """Return the training images of a configuration; ``cache`` keeps what was rendered and read."""
    return IclevrDataset(data_source(params, cache).folder, params.image_size, params.in_memory,
                         left_out(params), cache / "pixels")
