"""The class-conditioned U-Net: a U-Net of diffusers or a `UViT`, and how a label conditions it.

The label's embedding is a module beside the U-Net. diffusers silently drops a replaced
``class_embedding`` when it saves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers import ModelMixin, UNet2DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn
from torch.nn import functional as F

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params
from cddpm_core.config.seeds import stream_seed
from cddpm_core.data.labels import OBJECTS
from cddpm_core.model.refinement import Refinement
from cddpm_core.model.uvit import UViT
from cddpm_core.scheduler.process import make_scheduler, snr

__all__ = ["ClassConditionedUnet", "make_network"]

TOKEN_STD = 0.3  # of new tokens and embeddings: objects differ from the start
TIE_BREAK = 1e-4  # orders objects of equal entries by their index, on every device


class ClassConditionedUnet(ModelMixin, ConfigMixin):
    """Predicts epsilon, v or x_0 from x_t, the timestep, a multi-hot label and positions.

    The arguments are the parameters of these names (``params/README.md``), and:

    Args:
        max_objects: tokens of a condition with ``object_tokens``; a null token fills the rest. The
            `UViT`'s transformer has them in its sequence (in-context conditioning, Peebles & Xie
            2023), so that each cell of the features can attend to single objects.
        layout: condition the network on the position of each object: an embedding of the
            object is added there, as further channels of the input.
        refine_channels: of a `Refinement` of the predicted x_0; 0 for none.
    """

    @register_to_config
    def __init__(self, class_emb_size: int = 512, blocks: Sequence[int] = (0, 0, 0, 0, 0, 0),
                 channels: Sequence[int] = (1, 1, 2, 2, 4, 4), layers_per_block: int = 2,
                 image_size: int = 64, patch_size: int = 1, time_scale_shift: str = "default",
                 attention_head_dim: int = 8, conditioning: str = "class_embedding",
                 max_objects: int = 3, backbone: str = "unet", transformer_blocks: int = 4,
                 ordered_tokens: bool = False, layout: bool = False,
                 refine_channels: int = 0, num_train_timesteps: int = 1000) -> None:
        super().__init__()
        if conditioning == "object_tokens" and backbone != "u_vit":
            raise ValueError("object_tokens need the backbone u_vit, found " + backbone)
        if layers_per_block > 64 or transformer_blocks > 256 or len(blocks) > 10:
            raise ValueError("expected at most 10 levels of 64 layers and 256 transformer blocks")
        shrink = patch_size * 2 ** (len(blocks) - 1)
        if image_size % shrink:
            raise ValueError(f"image_size: expected a multiple of {shrink}, found {image_size}")
        sample_size = image_size // patch_size
        width = class_emb_size // 4
        pixels = 3 * patch_size**2
        in_channels, out_channels = pixels, pixels
        if refine_channels:
            out_channels *= 2
            self.refinement = Refinement(refine_channels, num_train_timesteps)
        if layout:
            in_channels += width
            self.object_embeddings = nn.Parameter(TOKEN_STD * torch.randn(len(OBJECTS), width))
        tokens = conditioning == "object_tokens"
        self.class_embedding = nn.Linear(len(OBJECTS), class_emb_size)
        if tokens:
            token_size = channels[-1] * width
            self.object_tokens = nn.Parameter(TOKEN_STD * torch.randn(len(OBJECTS), token_size))
            self.null_token = nn.Parameter(TOKEN_STD * torch.randn(token_size))
            if ordered_tokens:
                self.order_tokens = nn.Parameter(TOKEN_STD * torch.randn(max_objects, token_size))
        if backbone == "u_vit":
            self.unet = UViT(out_channels, in_channels, sample_size, [width * c for c in channels],
                             layers_per_block, transformer_blocks, class_emb_size,
                             attention_head_dim, math.gcd(32, width), time_scale_shift)
            return
        names = [f"{'Attn' if b else ''}%sBlock2D" for b in blocks]
        self.unet = UNet2DModel(
            sample_size=sample_size, in_channels=in_channels, out_channels=out_channels,
            layers_per_block=layers_per_block, down_block_types=[name % "Down" for name in names],
            up_block_types=[name % "Up" for name in reversed(names)],
            block_out_channels=[width * c for c in channels], norm_num_groups=math.gcd(32, width),
            class_embed_type="identity", resnet_time_scale_shift=time_scale_shift,
            time_embedding_dim=class_emb_size, attention_head_dim=attention_head_dim)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor | int, labels: torch.Tensor,
                positions: torch.Tensor | None = None) -> torch.Tensor:
        """Return the prediction, shape (B, 3, H, W).

        Args:
            x_t: noisy x_0, shape (B, 3, H, W).
            t: timesteps, integers in 0..T-1, shape (B,) or a scalar.
            labels: multi-hot floats, shape (B, 24), greater for objects named earlier,
                see `data.labels`; all zeros is the unconditional case.
            positions: of the objects of each label, shape (B, 24, 2), as fractions of
                the image's width and height; NaN, or None for all, if unknown.
        """
        patch = self.config.patch_size
        features = F.pixel_unshuffle(x_t, patch)
        if self.config.layout:
            features = torch.cat([features, self._splat(labels, positions, features)], 1)
        emb = self.class_embedding((labels > 0.5).to(labels.dtype))
        tokens = self._tokens(labels) if self.config.conditioning == "object_tokens" else None
        output = (self.unet(features, t, emb, tokens) if self.config.backbone == "u_vit" else
                  self.unet(features, t, class_labels=emb).sample)
        output = F.pixel_shuffle(output, patch)
        return self.refinement(output, x_t, t) if self.config.refine_channels else output

    def _splat(self, labels: torch.Tensor, positions: torch.Tensor | None,
               features: torch.Tensor) -> torch.Tensor:
        """Each object's embedding at its position, bilinear over 4 cells: (B, width, H, W)."""
        cells = features.shape[-1]
        if positions is None:
            return features.new_zeros(len(features), self.object_embeddings.shape[1], cells, cells)
        positions = positions.to(features.dtype)
        known = (labels > 0.5) & ~positions[..., 0].isnan()
        along = cells * positions.nan_to_num(0.0)[..., None] - 0.5
        weights = (1 - (along - torch.arange(cells, device=along.device)).abs()).clamp(min=0)
        columns, rows = weights.unbind(2)
        return torch.einsum("bn,nc,bnh,bnw->bchw", known.to(features.dtype),
                            self.object_embeddings, rows, columns)

    def _tokens(self, labels: torch.Tensor) -> torch.Tensor:
        ordered = labels - TIE_BREAK * torch.arange(labels.shape[1], device=labels.device)
        present, index = ordered.topk(self.config.max_objects, dim=1)
        tokens = self.object_tokens[index]
        if self.config.ordered_tokens:
            tokens = tokens + self.order_tokens
        return torch.where(present[..., None] > 0.5, tokens, self.null_token)

    def check_labels(self, labels: torch.Tensor) -> None:
        """Raise `UserError` if a label names more objects than the network has tokens for."""
        limit, found = self.config.max_objects, int((labels > 0.5).sum(1).max())
        if self.config.conditioning == "object_tokens" and found > limit:
            raise UserError(f"labels: one names {found} objects, expected at most {limit} for "
                            "conditioning object_tokens")


def make_network(params: Params, layout: bool) -> ClassConditionedUnet:
    """Return a new network, its weights sampled from ``params.seed``.

    ``layout`` says whether positions are known, and so can condition it.
    """
    refine_channels = params.refine_channels if params.prediction_type == "sample" else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(params.seed, "weights"))
        network = ClassConditionedUnet(
            class_emb_size=params.class_emb_size, blocks=params.blocks, channels=params.channels,
            layers_per_block=params.layers_per_block, image_size=params.image_size,
            patch_size=params.patch_size, time_scale_shift=params.time_scale_shift,
            attention_head_dim=params.attention_head_dim, conditioning=params.conditioning,
            backbone=params.backbone, transformer_blocks=params.transformer_blocks,
            ordered_tokens=params.ordered_tokens, layout=layout, refine_channels=refine_channels,
            num_train_timesteps=params.num_train_timesteps)
    if refine_channels:
        network.refinement.log_snr.copy_(snr(make_scheduler(params)).log())
    return network
