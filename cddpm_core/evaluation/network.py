"""The network of the stand-in evaluator: a residual network for small images."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from cddpm_core.data.labels import COLOURS, OBJECTS, SHAPES

__all__ = ["Located", "StandInNetwork", "rounded_state"]


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
            BasicBlock(32, 32),
        )
        self.at_16 = nn.Sequential(_halved(32, 64), BasicBlock(64, 64))
        self.at_8 = nn.Sequential(_halved(64, 128), BasicBlock(128, 128))
        self.at_4 = nn.Sequential(_halved(128, 256), BasicBlock(256, 256))
        self.fc = nn.Linear(512, len(OBJECTS))

    def maps(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the maps (B, 128, 8, 8) and (B, 256, 4, 4) for images (B, 3, 64, 64) in [-1, 1].
        """
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
        """Return the features of the last map."""
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
        return self.network.fc(self.network.pooled(last)), self.attributes(middle), \
            self.objects(last)


def _halved(channels: int, outputs: int) -> BasicBlock:
    """Return a block that halves width and height."""
    shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride=2, bias=False),
                             nn.BatchNorm2d(outputs))
    return BasicBlock(channels, outputs, stride=2, downsample=shortcut)


def rounded_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict on the CPU with kernels and matrices rounded to bfloat16."""
    state = {name: tensor.detach().cpu().contiguous()
             for name, tensor in network.state_dict().items()}
    return {name: tensor.bfloat16() if tensor.ndim > 1 else tensor
            for name, tensor in state.items()}
