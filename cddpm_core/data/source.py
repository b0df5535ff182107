"""Where the images come from: the user's folder, or scenes rendered here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cddpm_core.config.files import sha256_of, typed_path
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import ConditionDataset, IclevrDataset
from cddpm_core.data.images import check_folder
from cddpm_core.data.labels import CONDITION_FILES, read_train

__all__ = ["DataSource", "data_source", "left_out", "load_dataset"]

COURSE = (18_009, 2_188)  # images and distinct conditions of the course's train.json


@dataclass(frozen=True)
class DataSource:
    """Where the images come from, stated beside every figure.

    ``kind`` is ``rendered`` or, by Blender, ``cycles``; for a folder of the user's ``real`` if it
    has the labels of the course's images, else ``given``. ``folder`` holds the training images and
    ``heldout`` images that no model trains on, None for a folder of the user's; ``sha256`` is the
    hash of ``train.json``.
    """

    kind: str
    folder: Path
    heldout: Path | None
    sha256: str


def data_source(params: Params, cache: Path) -> DataSource:
    """Return the user's data folder, or scenes, rendered into ``cache`` if absent.

    A folder that Cycles rendered is known by its ``cycles.json``, wherever it lies.
    """
    if params.data:
        folder = typed_path(params.data)
        check_folder(folder, params.missing)
        labels = read_train(folder / "train.json").values()
        kind = ("cycles" if (folder / "cycles.json").exists() else
                "real" if (len(labels), len({*map(frozenset, labels)})) == COURSE else "given")
        return DataSource(kind, folder, None, sha256_of(folder / "train.json"))
    from cddpm_core.scenes.version import scenes_version

    version, rendered = scenes_version(params), []
    for split, scenes in (("train", params.num_scenes), ("heldout", params.heldout_scenes)):
        folder = cache / f"data/{split}-{version}-{scenes}-seed{params.data_seed}"
        if not (folder / "train.json").exists():
            _render(params, folder, split, scenes)
        rendered.append(folder)
    kind = "cycles" if params.renderer == "cycles" else "rendered"
    return DataSource(kind, *rendered, sha256_of(rendered[0] / "train.json"))


def _render(params: Params, folder: Path, split: str, scenes: int) -> None:
    # numba loads slowly
    if params.renderer == "raytrace":
        from cddpm_core.scenes.dataset import render_dataset

        return render_dataset(folder, num_scenes=scenes, seed=params.data_seed, split=split)
    from cddpm_core.scenes.cycles import render_cycles_dataset

    render_cycles_dataset(
        folder, num_scenes=scenes, seed=params.data_seed, split=split, blender=params.blender,
        assets=params.clevr_assets, samples=params.cycles_samples, denoise=params.cycles_denoise,
        gpu=params.device != "cpu")


def left_out(params: Params) -> set[frozenset[str]]:
    """Return the conditions whose images training is not shown, by ``params.holdout``."""
    files = CONDITION_FILES if params.holdout == "test_conditions" else ()
    return {frozenset(names) for file in files for names in ConditionDataset(file).conditions}


def load_dataset(params: Params, cache: Path) -> IclevrDataset:
    """Return the training images of a configuration; ``cache`` keeps what was rendered and read."""
    return IclevrDataset(data_source(params, cache).folder, params.image_size, params.in_memory,
                         left_out(params), cache / "pixels", params.missing)
