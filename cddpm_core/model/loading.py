"""Loading what `save_pretrained` wrote, with its weights checked against its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from diffusers import ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open

from cddpm_core.config.errors import UserError, shown

__all__ = ["load_component"]

Component = TypeVar("Component", bound=ModelMixin)


def load_component(kind: type[Component], folder: str | Path) -> Component:
    """Return the ``kind`` that `save_pretrained` wrote to ``folder``; `UserError` if it cannot."""
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder}: no trained model there, first run the 'train' stage")
    try:
        _check_weights(kind, folder)
        model = kind.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder}: not a readable {kind.__name__} ({reason})") from None
    return model.eval()


def _check_weights(kind: type[ModelMixin], folder: Path) -> None:
    """Raise `ValueError` unless the weights are those of the configuration.

    diffusers only warns, leaves a missing weight at random, and would first allocate memory for
    whatever the configuration of an unknown source asks for.
    """
    config = kind.load_config(folder, local_files_only=True)
    with torch.device("meta"):
        model = kind.from_config(config)
    expected = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, "pt") as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            raise ValueError(f"{shown(name)} has shape {found.get(name)} in the weights and "
                             f"{expected.get(name)} in the configuration")
