"""The class-conditioned U-Net: diffusers' U-Nets or a `UViT`, and what makes a label a condition.

What embeds the label is a module beside the U-Net rather than a replacement of
its ``class_embedding``: a replaced one is dropped on save without an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import ModelMixin, UNet2DConditionModel, UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open
from torch import nn
from torch.nn import functional as F

from cddpm_core.data import IclevrDataset, varying_rows
from cddpm_core.errors import UserError, shown
from cddpm_core.labels import OBJECTS
from cddpm_core.params import Params
from cddpm_core.uvit import UViT

__all__ = ["ClassConditionedUnet", "load_model", "make_model", "model_for"]


class ClassConditionedUnet(ModelMixin, ConfigMixin):
    """Predicts noise (or v, or x_0) from x_t, the timestep and a multi-hot label.

    Args:
        num_classes: length of the multi-hot label.
        class_emb_size: width of the label embedding, which is added to the
            time embedding of the same width.
        blocks: per level, 0 for plain residual layers, 1 for attention after
            each; the up side mirrors the down side.
        channels: per level, the width in multiples of ``class_emb_size // 4``.
        layers_per_block: residual layers a level on the way down.
        image_size: side of the square images in pixels.
        patch_size: factor of a pixel-unshuffle before the first and a
            pixel-shuffle after the last convolution; 1 for none.
        time_scale_shift: ``default`` adds the embedding inside a residual
            layer, ``scale_shift`` scales and shifts its normalised features.
        attention_head_dim: channels of one attention head.
        conditioning: ``class_embedding`` as above on `UNet2DModel`;
            ``object_tokens`` adds one learned token an object, up to
            ``max_objects`` and the rest filled with a null token, which the
            attention layers of a `UNet2DConditionModel` read beside the
            image's own places (joint attention, as in Nichol et al. 2022),
            so that a colour and its shape come as one.
        backbone: ``unet`` for the above, ``u_vit`` for a `UViT` whose levels
            have the same widths and whose last level is a transformer, which
            the object tokens join as members of its sequence.
        transformer_blocks: blocks of the `UViT`'s transformer.
        ordered_tokens: add to each object's token a learned one of its place in the
            label, which in i-CLEVR says what stands at the centre.
        num_layouts: rows of the buffer ``layouts`` (num_layouts, max_objects, 2), places of
            the objects of training scenes. Above 0 the network is told where each object is to
            stand: an embedding of it is laid there, as further channels of the input.
        rows: first row and the one after the last that the network draws; empty
            for all. The others are those of ``pixel_mean``.

    The buffers ``pixel_mean`` (3, image_size, image_size) and ``pixel_scale`` ()
    say how images in [-1, 1] become the x_0 the network is trained on, of shape
    ``x_shape`` (3, H, W); see `standardise`.
    """

    @register_to_config
    def __init__(self, num_classes: int = len(OBJECTS), class_emb_size: int = 512,
                 blocks: Sequence[int] = (0, 0, 0, 0, 0, 0),
                 channels: Sequence[int] = (1, 1, 2, 2, 4, 4), layers_per_block: int = 2,
                 image_size: int = 64, patch_size: int = 1, time_scale_shift: str = "default",
                 attention_head_dim: int = 8, conditioning: str = "class_embedding",
                 max_objects: int = 3, backbone: str = "unet",
                 transformer_blocks: int = 4, rows: Sequence[int] = (),
                 ordered_tokens: bool = False, num_layouts: int = 0) -> None:
        super().__init__()
        if layers_per_block > 64 or transformer_blocks > 256 or len(blocks) > 10:
            raise ValueError("expected at most 10 levels of 64 layers and 256 transformer blocks")
        self.top, bottom = rows or (0, image_size)
        shrink = patch_size * 2 ** (len(blocks) - 1)
        if not 0 <= self.top < bottom <= image_size or (bottom - self.top) % shrink:
            raise ValueError(f"rows: expected two in 0 to {image_size}, a multiple of {shrink} "
                             f"apart, found {shown(rows)}")
        self.x_shape = (3, bottom - self.top, image_size)
        sample_size = tuple(side // patch_size for side in self.x_shape[1:])
        width = class_emb_size // 4
        pixels = 3 * patch_size**2
        in_channels = pixels
        if num_layouts:
            in_channels += width
            self.placed_objects = nn.Parameter(0.3 * torch.randn(num_classes, width))
            self.register_buffer("layouts", torch.zeros(num_layouts, max_objects, 2))
        tokens = conditioning == "object_tokens"
        self.class_embedding = nn.Linear(num_classes, class_emb_size)
        if tokens:
            token_size = channels[-1] * width if backbone == "u_vit" else class_emb_size // 2
            self.object_tokens = nn.Parameter(0.3 * torch.randn(num_classes, token_size))
            self.null_token = nn.Parameter(0.3 * torch.randn(token_size))
            if ordered_tokens:
                self.place_tokens = nn.Parameter(0.3 * torch.randn(max_objects, token_size))
        if backbone == "u_vit":
            self.unet = UViT(pixels, in_channels, sample_size, [width * c for c in channels],
                             layers_per_block, transformer_blocks, class_emb_size,
                             attention_head_dim, math.gcd(32, width), time_scale_shift)
        else:
            attention = "SimpleCrossAttn" if tokens else "Attn"
            names = [f"{attention if b else ''}%sBlock2D" for b in blocks]
            same = {
                "sample_size": sample_size, "in_channels": in_channels,
                "out_channels": pixels, "layers_per_block": layers_per_block,
                "down_block_types": [name % "Down" for name in names],
                "up_block_types": [name % "Up" for name in reversed(names)],
                "block_out_channels": [width * c for c in channels],
                "norm_num_groups": math.gcd(32, width), "class_embed_type": "identity",
                "resnet_time_scale_shift": time_scale_shift,
                "time_embedding_dim": class_emb_size, "attention_head_dim": attention_head_dim,
            }
            self.unet = UNet2DModel(**same) if not tokens else UNet2DConditionModel(
                **same, cross_attention_dim=token_size,
                mid_block_type="UNetMidBlock2DSimpleCrossAttn")
        self.register_buffer("pixel_mean", torch.zeros(3, image_size, image_size))
        self.register_buffer("pixel_scale", torch.ones(()))

    def forward(self, x_t: torch.Tensor, timesteps: torch.Tensor | int, labels: torch.Tensor,
                places: torch.Tensor | None = None) -> torch.Tensor:
        """Return the prediction, shape (B, 3, H, W).

        Args:
            x_t: noisy standardised images, shape (B, 3, H, W).
            timesteps: integers in 0..T-1, shape (B,) or a scalar.
            labels: multi-hot floats, shape (B, num_classes), greater for objects
                named earlier, see `labels`; all zeros stands for no condition.
            places: of the objects of each label, shape (B, num_classes, 2), as shares of
                the image's width and height; NaN, or None for all, if unknown.
        """
        patch = self.config.patch_size
        features = F.pixel_unshuffle(x_t, patch)
        if self.config.num_layouts:
            features = torch.cat([features, self._laid_out(labels, places, features)], 1)
        emb = self.class_embedding((labels > 0.5).to(labels.dtype))
        tokens = self._tokens(labels) if self.config.conditioning == "object_tokens" else None
        if self.config.backbone == "u_vit":
            output = self.unet(features, timesteps, emb, tokens)
        else:
            named = {} if tokens is None else {"encoder_hidden_states": tokens}
            output = self.unet(features, timesteps, class_labels=emb, **named).sample
        return F.pixel_shuffle(output, patch)

    def _laid_out(self, labels: torch.Tensor, places: torch.Tensor | None,
                  features: torch.Tensor) -> torch.Tensor:
        """The embedding of each object at its place, shape (B, width, H, W), shared by 4 cells."""
        (height, width), patch = features.shape[-2:], self.config.patch_size
        if places is None:
            return features.new_zeros(len(features), self.placed_objects.shape[1], height, width)
        places = places.to(features.dtype)
        known = (labels > 0.5) & ~places[..., 0].isnan()
        x, y = (self.config.image_size * places.nan_to_num(0.0)).unbind(-1)
        columns, rows = (
            (1 - (along[..., None] / patch - 0.5 - torch.arange(cells, device=x.device)).abs())
            .clamp(min=0) for along, cells in ((x, width), (y - self.top, height)))
        return torch.einsum("bn,nc,bnh,bnw->bchw", known.to(features.dtype), self.placed_objects,
                            rows, columns)

    def draw_places(self, labels: torch.Tensor, seeds: Sequence[int],
                    choices: int = 1) -> torch.Tensor | None:
        """Return places for labels (B, 24), of a training scene each, or None without layouts.

        The image's seed draws ``choices`` scenes. The places (B, 24, 2) are those of the clearest
        one, whose two nearest objects are farthest apart.
        """
        if not self.config.num_layouts:
            return None
        places = torch.full((*labels.shape, 2), float("nan"))
        for row, (label, seed) in enumerate(zip(labels.cpu(), seeds, strict=True)):
            generator = torch.Generator().manual_seed(seed + 2**40)
            scenes = torch.randint(self.config.num_layouts, (choices,), generator=generator)
            index = torch.argsort(label, descending=True, stable=True)[:int((label > 0.5).sum())]
            layout = _clearest(self.layouts[scenes.to(self.layouts.device)].cpu()[:, :len(index)])
            places[row, index[:len(layout)]] = layout
        return places.to(labels.device)

    def _tokens(self, labels: torch.Tensor) -> torch.Tensor:
        # Objects of equal entries come in the order of their indices, on every device.
        ordered = labels - 1e-4 * torch.arange(labels.shape[1], device=labels.device)
        present, index = ordered.topk(self.config.max_objects, dim=1)
        tokens = self.object_tokens[index]
        if self.config.ordered_tokens:
            tokens = tokens + self.place_tokens
        return torch.where(present[..., None] > 0.5, tokens, self.null_token)

    def check_labels(self, labels: torch.Tensor) -> None:
        """Raise `UserError` if a label names more objects than the network has tokens for."""
        most, found = self.config.max_objects, int((labels > 0.5).sum(1).max())
        if self.config.conditioning == "object_tokens" and found > most:
            raise UserError(f"labels: one names {found} objects, expected at most {most} for "
                            "conditioning object_tokens")

    def standardise(self, images: torch.Tensor) -> torch.Tensor:
        """Return x_0, shape (..., 3, H, W), for whole images in [-1, 1]."""
        x_0 = (images - self.pixel_mean) / self.pixel_scale
        return x_0[..., self.top:self.top + self.x_shape[1], :]

    def denormalise(self, x_0: torch.Tensor) -> torch.Tensor:
        """Return whole images, clipped to [-1, 1], for standardised x_0."""
        below = self.pixel_mean.shape[1] - self.top - self.x_shape[1]
        x_0 = F.pad(x_0, (0, 0, self.top, below))
        return (x_0 * self.pixel_scale + self.pixel_mean).clamp(-1, 1)


def _clearest(layouts: torch.Tensor) -> torch.Tensor:
    """The one of (K, n, 2) layouts whose two nearest objects are farthest apart; (n, 2)."""
    if layouts.shape[1] < 2:
        return layouts[0]
    return layouts[torch.stack([torch.pdist(layout).min() for layout in layouts]).argmax()]


def make_model(params: Params, rows: Sequence[int] = (),
               num_layouts: int = 0) -> ClassConditionedUnet:
    """Return a new model of the configuration, its weights drawn from ``params.seed``.

    ``rows`` and ``num_layouts`` are those of `ClassConditionedUnet`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        return ClassConditionedUnet(
            class_emb_size=params.class_emb_size, blocks=params.blocks, channels=params.channels,
            layers_per_block=params.layers_per_block, image_size=params.image_size,
            patch_size=params.patch_size, time_scale_shift=params.time_scale_shift,
            attention_head_dim=params.attention_head_dim, conditioning=params.conditioning,
            backbone=params.backbone, transformer_blocks=params.transformer_blocks,
            rows=list(rows), ordered_tokens=params.ordered_tokens, num_layouts=num_layouts)


def model_for(params: Params, dataset: IclevrDataset) -> ClassConditionedUnet:
    """Return a new model that knows the mean of the images, and which rows it has to draw.

    Raises `UserError` if an image has more labels than the network has tokens.
    """
    layouts = dataset.layouts() if params.layout else ()
    if not params.standardise:
        model = make_model(params, num_layouts=len(layouts))
    else:
        mean, std = dataset.mean_and_std()
        shrink = params.patch_size * 2 ** (len(params.blocks) - 1)
        model = make_model(params, varying_rows(std, shrink) if params.trim_rows else (),
                           num_layouts=len(layouts))
        model.pixel_mean.copy_(mean)
        model.pixel_scale.fill_(params.data_scale)
    if len(layouts):
        most = model.config.max_objects
        model.layouts[:, :layouts.shape[1]] = torch.from_numpy(layouts)[:, :most]
    model.check_labels(dataset.labels)
    return model


def load_model(folder: str | Path) -> ClassConditionedUnet:
    """Return the model that `save_pretrained` wrote to ``folder``; `UserError` if it cannot."""
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise UserError(f"{folder}: no trained model there, first run the 'train' stage")
    try:
        _check_weights(folder)
        model = ClassConditionedUnet.from_pretrained(folder, local_files_only=True,
                                                     low_cpu_mem_usage=False)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder}: not a readable ClassConditionedUnet ({reason})") from None
    return model.eval()


def _check_weights(folder: Path) -> None:
    """Raise `ValueError` unless the weights are those of the configuration.

    diffusers only warns, leaves a missing weight at random, and would first make room for
    whatever a stranger's configuration asks for.
    """
    config = ClassConditionedUnet.load_config(folder, local_files_only=True)
    with torch.device("meta"):
        model = ClassConditionedUnet.from_config(config)
    expected = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    with safe_open(folder / SAFETENSORS_WEIGHTS_NAME, "pt") as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            raise ValueError(f"{shown(name)} has shape {found.get(name)} in the weights and "
                             f"{expected.get(name)} in the configuration")
