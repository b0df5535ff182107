"""The stand-in evaluator: its network, the one that comes with the package, and private ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import nn
from torchvision.models.resnet import BasicBlock

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import atomic, read_json, sha256_of, typed_path
from cddpm_core.data.labels import COLOURS, OBJECTS, SHAPES
from cddpm_core.evaluation.evaluator import MAX_BYTES, Evaluator, load_official
from cddpm_core.evaluation.weights import find_weights, read_weights, safetensors_header

__all__ = ["CARD", "SUFFIX", "WEIGHTS", "Located", "StandInNetwork", "load_evaluator",
           "load_stand_in", "released", "rounded_state", "save_stand_in"]

RELEASE = Path(__file__).resolve().parents[1] / "evaluator"  # which comes with the package
SUFFIX = ".safetensors"
WEIGHTS, CARD = RELEASE / f"weights{SUFFIX}", RELEASE / "card.json"
FORMAT = "cddpm_core stand-in evaluator"


class StandInNetwork(nn.Module):
    """Maps of 32, 64, 128 and 256 channels at 32x32, 16x16, 8x8 and 4x4.

    It costs as much as a ResNet-18 without its last stage, which sees 64x64 images on maps of
    16x16 from the start, too coarse for the edges of a far cube. The features are the mean and
    the maximum over the last map, for what is seen anywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            BasicBlock(32, 32))
        self.at_16 = nn.Sequential(_halved(32, 64), BasicBlock(64, 64))
        self.at_8 = nn.Sequential(_halved(64, 128), BasicBlock(128, 128))
        self.at_4 = nn.Sequential(_halved(128, 256), BasicBlock(256, 256))
        self.fc = nn.Linear(512, len(OBJECTS))

    def maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return maps (B, 128, 8, 8) and (B, 256, 4, 4) of images (B, 3, 64, 64) in [-1, 1]."""
        middle = self.at_8(self.at_16(self.stem(images)))
        return middle, self.at_4(middle)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the inputs of the last layer, (B, 512)."""
        return self.pooled(self.maps(images)[1])

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the outputs before the sigmoid, (B, 24)."""
        return self.fc(self.features(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the probability of each object, (B, 24)."""
        return self.logits(images).sigmoid()

    @staticmethod
    def pooled(last: torch.Tensor) -> torch.Tensor:
        return torch.cat([last.mean((2, 3)), last.amax((2, 3))], dim=1)


class Located(nn.Module):
    """A network with two heads that are trained along and then dropped: they locate."""

    def __init__(self) -> None:
        super().__init__()
        self.network = StandInNetwork()
        self.attributes = nn.Conv2d(128, len(COLOURS) + len(SHAPES), 1)
        self.objects = nn.Conv2d(256, len(OBJECTS), 1)
        # Most objects are absent, from most cells even more.
        for layer in (self.network.fc, self.attributes, self.objects):
            nn.init.constant_(layer.bias, -4.0)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return logits: objects (B, 24), attributes (B, 11, 8, 8), objects (B, 24, 4, 4)."""
        middle, last = self.network.maps(images)
        objects = self.network.fc(self.network.pooled(last))
        return objects, self.attributes(middle), self.objects(last)


def _halved(channels: int, outputs: int) -> BasicBlock:
    shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride=2, bias=False),
                             nn.BatchNorm2d(outputs))
    return BasicBlock(channels, outputs, stride=2, downsample=shortcut)


def rounded_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict on the CPU with kernels and matrices rounded to bfloat16."""
    return {name: (tensor.bfloat16() if tensor.ndim > 1 else tensor).cpu().contiguous()
            for name, tensor in network.state_dict().items()}


def load_evaluator(file: str | Path, device: str | torch.device = "cpu") -> Evaluator:
    """Return the evaluator of the file that the user gives, else the released stand-in.

    A file ``*.safetensors`` is a private stand-in unless it has the official evaluator's weights,
    any other file that evaluator.
    """
    if not str(file):
        return released(device)
    path = typed_path(file)
    names, metadata = safetensors_header(path)
    official = any(name.endswith("layer1.0.conv1.weight") for name in names)
    stand_in = FORMAT in metadata or (path.suffix == SUFFIX and not official)
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
        facts = safetensors_header(path)[1].get(FORMAT)
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
    # One entry, because safetensors writes several in an order of chance.
    header = {FORMAT: json.dumps({**facts, "heldout": evaluator.heldout})}
    with atomic(path) as temporary:
        temporary.write_bytes(save_safetensors(rounded_state(evaluator.model), header))
    return sha256_of(path)
