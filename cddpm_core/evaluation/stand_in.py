"""The stand-in evaluator of given settings: from the cache, or trained and stored there."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from cddpm_core.config.code_version import code_hash
from cddpm_core.config.errors import UserError
from cddpm_core.config.files import atomic, write_json
from cddpm_core.evaluation.evaluator import Evaluator, build_resnet18
from cddpm_core.evaluation.stand_in_training import plain_state, train_stand_in
from cddpm_core.scenes.version import renderer_version

__all__ = ["HELDOUT_IMAGES", "stand_in"]

HELDOUT_IMAGES = 2000  # that its own accuracy is measured on
# The modules that decide the weights, besides the renderer.
MADE_BY = ("cddpm_core.evaluation.stand_in_training", "cddpm_core.evaluation.augmentation",
           "cddpm_core.training.optimizers", "cddpm_core.training.average",
           "cddpm_core.config.seeds")


def stand_in(
    cache: str | Path,
    *,
    seed: int = 0,
    num_images: int,
    epochs: int,
    batch_size: int = 64,
    progress: bool = True,
    device: str | torch.device = "cpu",
    train: bool = True,
) -> Evaluator | None:
    """Return the stand-in of these settings from ``cache``, trained and stored if not there.

    With ``train`` false, one that is not there is None. A stand-in is stored under its settings
    and the versions of the code that renders, augments and trains, so that a change of one of
    them trains a new one.
    """
    training = {"seed": seed, "num_images": num_images, "epochs": epochs, "batch_size": batch_size}
    settings = {**training, "renderer": renderer_version(), "code": code_hash(*MADE_BY)}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(cache) / key
    if (folder / "evaluator.json").exists():
        try:
            return _load_stand_in(folder, device)
        except UserError as error:
            warnings.warn(f"{error}; training it again", stacklevel=2)
    if not train:
        return None
    evaluator = train_stand_in(**training, heldout_images=HELDOUT_IMAGES, progress=progress,
                               device=device)
    with atomic(folder / "evaluator.safetensors") as temporary:
        temporary.write_bytes(save_safetensors(plain_state(evaluator.model)))
    write_json(folder / "evaluator.json", {
        "settings": settings, "heldout": evaluator.heldout, "sha256": evaluator.sha256})
    return evaluator


def _load_stand_in(folder: Path, device: str | torch.device) -> Evaluator:
    path = folder / "evaluator.safetensors"
    try:
        about = json.loads((folder / "evaluator.json").read_text(encoding="utf-8"))
        weights = path.read_bytes()
        sha256, heldout = about["sha256"], about["heldout"]
        if hashlib.sha256(weights).hexdigest() != sha256:
            raise UserError(f"{path}: damaged, its SHA-256 is not the one in evaluator.json")
        model = build_resnet18()
        model.load_state_dict(load_safetensors(weights))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: damaged evaluator files ({error})") from None
    return Evaluator(model, "stand-in", sha256, heldout=heldout, device=device)
