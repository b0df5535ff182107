"""The evaluator: a network that gives the probability of each object in an image.

There are two with one interface: the lab's own, a ResNet-18 whose weights the user brings, and
a stand-in that is trained on rendered scenes and comes with the package (`stand_in`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, ResNet

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import sha256_of
from cddpm_core.data.labels import OBJECTS
from cddpm_core.evaluation.weights import find_weights, read_weights

__all__ = ["MAX_BYTES", "OFFICIAL_SHA256", "Evaluator", "ResNet18", "load_official"]

OFFICIAL_SHA256 = "38a27369dac0ad64302bec2ee8d98bd6f27de17f4bde60ebcd2e3ff7981e9d63"
MAX_BYTES = 500_000_000  # ten times the size of the official checkpoint


class ResNet18(ResNet):
    """The lab's network, with 24 sigmoid outputs; its weights have the names of the checkpoint."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.fc = nn.Sequential(nn.Linear(512, len(OBJECTS)), nn.Sigmoid())

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the inputs of the last layer, (B, 512), for images (B, 3, H, W) in [-1, 1]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).flatten(1)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the outputs before the sigmoid, (B, 24)."""
        return self.fc[0](self.features(images))


class Evaluator:
    """A trained network: ``evaluator(images)`` gives the probability of each object.

    ``model(images)`` gives probabilities, and has ``logits`` and ``features``, as
    `ResNet18` does. ``kind`` is ``official`` or ``stand-in``. ``sha256`` is the hash of the
    weights' file; ``known`` is true for the published weights of the official evaluator and for
    the stand-in that comes with the package. ``heldout`` are the stand-in's accuracies on held-out
    rendered scenes, and None for the official evaluator.
    """

    def __init__(self, model: Any, kind: str, sha256: str, *, known: bool = True,
                 heldout: dict[str, float] | None = None,
                 device: str | torch.device = "cpu") -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.kind, self.sha256, self.known, self.heldout = kind, sha256, known, heldout
        self.device = torch.device(device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return CPU probabilities ``(B, 24)`` for images ``(B, 3, H, W)`` in [-1, 1]."""
        return self._batched(self.model, images)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the inputs of the last layer, ``(B, F)`` on the CPU, for such images."""
        return self._batched(self.model.features, images)

    def log_likelihood(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return log p(label | image), shape (B,), over the presence or absence of all 24 objects.

        Images are (B, 3, H, W) in [-1, 1], labels multi-hot (B, 24). The result is differentiable
        with respect to the images.
        """
        # From logits, because a probability that is rounded to 0 or 1 has no gradient.
        logits = self.model.logits(self.resized(images).to(self.device).float())
        each = functional.binary_cross_entropy_with_logits(logits, (labels > 0.5).to(logits),
                                                           reduction="none")
        return -each.sum(1).to(images.device)

    @staticmethod
    def resized(images: torch.Tensor) -> torch.Tensor:
        """Return images ``(B, 3, H, W)`` at the evaluator's size, ``(B, 3, 64, 64)``."""
        if images.shape[-2:] == (64, 64):
            return images
        return functional.interpolate(images, (64, 64), mode="bilinear", antialias=True)

    @torch.no_grad()
    def _batched(self, function: Callable, images: torch.Tensor) -> torch.Tensor:
        if images.ndim != 4 or images.shape[1] != 3:
            raise UserError("evaluator: expected images of shape (B, 3, H, W), found "
                            f"{tuple(images.shape)}")
        return torch.cat([function(self.resized(x).to(self.device).float()).cpu()
                          for x in images.split(256)])


def load_official(path: str | Path, device: str | torch.device = "cpu") -> Evaluator:
    """Return the lab's evaluator from its ``checkpoint.pth``, or from its weights saved anew.

    See `weights`. Raises `UserError` if it is another file.
    """
    expected = "expected the lab's evaluator checkpoint with ResNet-18 weights under 'model'"
    content = read_weights(path, expected, MAX_BYTES)
    model = ResNet18()
    found = find_weights(content, model.state_dict())
    if found.problem:
        raise UserError(f"{path}: found {found.problem}, {expected}")
    model.load_state_dict(found.state)
    sha256 = sha256_of(path)
    return Evaluator(model, "official", sha256, known=sha256 == OFFICIAL_SHA256, device=device)
