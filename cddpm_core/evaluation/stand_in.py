"""The stand-in evaluator as files: the one that comes with the package, and private ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import atomic, read_json, sha256_of, typed_path
from cddpm_core.evaluation.evaluator import MAX_BYTES, Evaluator, load_official
from cddpm_core.evaluation.network import StandInNetwork, rounded_state
from cddpm_core.evaluation.weights import find_weights, read_weights, safetensors_header

__all__ = ["CARD", "SUFFIX", "WEIGHTS", "load_evaluator", "load_stand_in", "released",
           "save_stand_in"]

RELEASE = Path(__file__).resolve().parents[1] / "evaluator"  # which comes with the package
SUFFIX = ".safetensors"
WEIGHTS, CARD = RELEASE / f"weights{SUFFIX}", RELEASE / "card.json"
FORMAT = "cddpm_core stand-in evaluator"


def load_evaluator(file: str | Path, device: str | torch.device = "cpu") -> Evaluator:
    """Return the evaluator of the file that the user gives, else the released stand-in.

    A file ``*.safetensors`` is a private stand-in unless it has the official evaluator's weights,
    any other file that evaluator.
    """
    if not str(file):
        return released(device)
    path = typed_path(file)
    header = safetensors_header(path)
    official = any(name.endswith("layer1.0.conv1.weight") for name in header)
    stand_in = FORMAT in header.get("__metadata__", {}) or (path.suffix == SUFFIX and not official)
    return (load_stand_in if stand_in else load_official)(path, device)


def released(device: str | torch.device = "cpu") -> Evaluator:
    """Return the stand-in evaluator that comes with the package.

    Raises `UserError` if its weights are not those of its card.
    """
    found = load_stand_in(WEIGHTS, device)
    if not found.known:
        raise UserError(f"{WEIGHTS}: its SHA-256 is not the one in {CARD.name}, install the "
                        "package again")
    return found


def load_stand_in(path: str | Path, device: str | torch.device = "cpu") -> Evaluator:
    """Return the stand-in of a file that `save_stand_in` wrote; `UserError` if it is another."""
    expected = "expected a stand-in that 'python -m cddpm_core evaluator train' wrote"
    content = read_weights(path, expected, MAX_BYTES)
    try:
        facts = safetensors_header(path).get("__metadata__", {}).get(FORMAT)
        if not facts:
            raise UserError(f"{path}: found weights of something else, {expected}")
        heldout = json.loads(facts)["heldout"]
        if not 0 <= heldout["micro"] <= 1 or min(heldout.values()) < 0:
            raise ValueError("no accuracies")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: damaged or of another format, {expected}") from None
    network = StandInNetwork()
    found = find_weights(content, network.state_dict())
    if found.problem:
        raise UserError(f"{path}: found {found.problem}, {expected}")
    network.load_state_dict(found.state)
    sha256 = sha256_of(path)
    known = CARD.exists() and read_json(CARD).get("sha256") == sha256
    return Evaluator(network, "stand-in", sha256, known=known, heldout=heldout, device=device)


def save_stand_in(evaluator: Evaluator, path: str | Path, facts: Mapping[str, Any]) -> str:
    """Write a stand-in as one safetensors file and return its SHA-256.

    Kernels and matrices are rounded to bfloat16. The header holds ``facts``, plain values, and
    the evaluator's ``heldout``.
    """
    rounded = rounded_state(evaluator.model)
    # One entry, because safetensors writes several in an order of chance.
    header = {FORMAT: json.dumps({**facts, "heldout": evaluator.heldout})}
    with atomic(path) as temporary:
        temporary.write_bytes(save_safetensors(rounded, header))
    return sha256_of(path)
