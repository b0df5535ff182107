"""The checkpoint of a training: what it was made from, and the state of each of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cddpm_core.config.errors import UserError, shown
from cddpm_core.config.files import SCHEMA, atomic, check_schema
from cddpm_core.config.schema import FIELDS, Params, coerce, keys_affecting

__all__ = ["check_checkpoint", "read_checkpoint", "write_checkpoint"]

KINDS = {"params": dict, "images": int, "labels": str, "pixels": str, "step": int, "parts": dict}


def write_checkpoint(path: Path, params: Params, fingerprint: Mapping[str, Any], step: int,
                     parts: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    ``fingerprint`` is that of the data set; ``parts`` are objects with a ``state_dict``.
    """
    state = {"schema": SCHEMA, "step": step, **fingerprint,
             "params": {key: getattr(params, key) for key in keys_affecting("weights", "data")},
             "parts": {name: part.state_dict() for name, part in parts.items()}}
    with atomic(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch raises when a write fails
            raise UserError(f"{path}: cannot be written ({str(error).splitlines()[0][:100]}), "
                            "is the disk full? The checkpoint before it is kept") from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `write_checkpoint` wrote; `UserError` if the file is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        wrong = [key for key, kind in KINDS.items()
                 if not isinstance(state, dict) or not isinstance(state.get(key), kind)]
    except Exception as error:
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}), "
                        "remove it to train anew") from None
    if wrong:
        raise UserError(f"{path}: not a checkpoint of this library, {', '.join(wrong)} not in it "
                        "or of another kind; remove it to train anew")
    check_schema(state, path)
    # A parameter that has been added since has its default.
    params = {key: FIELDS[key].default for key in keys_affecting("weights", "data")}
    params |= {key: coerce(key, value, str(path)) for key, value in state["params"].items()
               if key in FIELDS}
    return {**state, "params": params}


def check_checkpoint(path: Path, state: Mapping[str, Any], params: Params,
                     fingerprint: Mapping[str, Any], total_steps: int) -> None:
    """Raise `UserError` unless a checkpoint is of this configuration, this data and this length."""
    anew = "take another run name, or FORCE=1"
    for key in keys_affecting("weights"):
        found, here = state["params"].get(key), getattr(params, key)
        if found != here:
            raise UserError(f"{path}: checkpoint of another configuration, {key} is {shown(found)} "
                            f"there and {here!r} here; {anew} to train anew")
    for key, value in fingerprint.items():
        if state[key] != value:
            what = (f"{state['images']} images there and {value} here" if key == "images"
                    else f"other {key}")
            raise UserError(f"{path}: checkpoint of another data set, {what}; {anew}")
    if not 0 <= state["step"] <= total_steps:
        raise UserError(f"{path}: checkpoint of step {state['step']}, beyond the {total_steps} "
                        f"that epochs {params.epochs} asks for; {anew}")
