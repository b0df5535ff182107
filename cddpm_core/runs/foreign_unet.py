"""The U-Net of other scripts: diffusers' `UNet2DModel`, with a linear layer for the labels.

The linear layer is its ``class_embedding``, or a layer beside it. Here it is part of a
`ClassConditionedUnet`, to whose names those of the weights are mapped.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cddpm_core.config.errors import UserError, shown
from cddpm_core.config.files import read_json
from cddpm_core.data.labels import OBJECTS
from cddpm_core.evaluation.weights import find_weights, state_dicts
from cddpm_core.model.network import ClassConditionedUnet

__all__ = ["check_config", "load_unet"]

# Layers of attention as diffusers named them before version 0.15.
OLD_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.",
             ".to_out.0.": ".proj_attn."}


def check_config(folder: Path, unet: ClassConditionedUnet) -> None:
    """Raise `UserError` unless the U-Net that diffusers saved in a folder computes the same."""
    here = unet.unet.config
    for key, found in read_json(folder / "config.json").items():
        plain = found is not None and not key.startswith("_") and key in here and key not in (
            "sample_size", "class_embed_type", "num_class_embeds")
        if plain and found != (list(here[key]) if isinstance(here[key], tuple) else here[key]):
            raise UserError(f"{folder}: its U-Net has {key} {shown(found)} where the "
                            f"parameters make {shown(here[key])}")


def load_unet(unet: ClassConditionedUnet, content: Any, source: str, expected: str) -> str:
    """Load weights under any of the names they may have, and return where in a file they were.

    ``content`` is what `read_weights` returns. Raises `UserError` if they are others; its sentence
    has the ``source`` and what was ``expected``.
    """
    ours = unet.state_dict()
    theirs = {name.removeprefix("unet."): name for name in ours}
    older = dict(theirs)
    for new, old in OLD_NAMES.items():
        older = {name.replace(new, old): target for name, target in older.items()}
    tried = []
    for names, inside in (({name: name for name in ours}, content), (theirs, content),
                          (older, content), (theirs, _with_embedding(content))):
        found = find_weights(inside, {name: ours[target] for name, target in names.items()},
                             averaged=True)
        if not found.problem:
            unet.load_state_dict({names[name]: weight for name, weight in found.state.items()})
            return found.where
        tried.append(found)
    nearest = max(tried, key=lambda each: each.known)
    raise UserError(f"{source}: found {nearest.problem}, {expected}{_described(content)}")


def _unets(content: Any) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The state dicts that hold one U-Net of diffusers, with the prefix of its names."""
    for _, state in state_dicts(content):
        first = [name for name in state if name.split(".")[-2:] == ["conv_in", "weight"]]
        if len(first) == 1:
            yield first[0].removesuffix("conv_in.weight"), state


def _with_embedding(content: Any) -> dict[str, torch.Tensor]:
    """A U-Net with a linear layer for the labels beside it, as if that were inside.

    It is the only one with an input for each object.
    """
    for prefix, state in _unets(content):
        layers = [name.removesuffix(".weight") for name, weight in state.items()
                  if weight.ndim == 2 and weight.shape[1] == len(OBJECTS)]
        if len(layers) == 1:
            weight, inside = state[f"{layers[0]}.weight"], f"{prefix}class_embedding"
            bias = state.get(f"{layers[0]}.bias", weight.new_zeros(len(weight)))
            return {name: tensor for name, tensor in state.items()
                    if not name.startswith(f"{layers[0]}.")} | {
                        f"{inside}.weight": weight, f"{inside}.bias": bias}
    return {}


def _described(content: Any) -> str:
    """The end of a sentence with the parameters of a U-Net of diffusers, as its weights show them.
    """
    for prefix, state in _unets(content):
        levels = [f"{prefix}down_blocks.{level}." for level in range(10)]
        widths = [len(state[f"{level}resnets.0.conv1.weight"]) for level in levels
                  if f"{level}resnets.0.conv1.weight" in state]
        size = next((len(state[f"{prefix}{name}.weight"]) for name in
                     ("class_embedding", "time_embedding.linear_1")
                     if f"{prefix}{name}.weight" in state), 0)
        if widths and size >= 4:
            attention = [int(any(name.startswith(f"{level}attentions") for name in state))
                         for level in levels[:len(widths)]]
            layers = sum(f"{levels[0]}resnets.{i}.conv1.weight" in state for i in range(64))
            channels = ", ".join(f"{width / (size // 4):g}" for width in widths)
            return (f"; these weights have class_emb_size {size}, blocks {attention}, channels "
                    f"[{channels}] and layers_per_block {layers}")
    return ""
