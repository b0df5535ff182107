"""U-ViT: residual convolutions at the fine levels, a transformer at the coarsest.

The shape of the network is that of simple diffusion's U-ViT (Hoogeboom et al. 2023), not of
Bao et al.'s. The transformer's sequence holds the cells of the coarsest level and one token for
each object, and each block updates both: the blocks of Peebles & Xie (2023), conditioned by the
embedding (adaLN-Zero) and by the objects in context.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from torch.nn import functional as F

__all__ = ["DiTBlock", "UViT"]


class DiTBlock(nn.Module):
    """Self-attention and a two-layer perceptron, scaled, shifted and gated by the embedding.

    The gates start at zero, so a new block passes its input through (adaLN-Zero). Normalised
    queries and keys keep bf16 and high learning rates stable (Dehghani et al. 2023).
    """

    def __init__(self, width: int, emb_size: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)
        self.modulation = nn.Linear(emb_size, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Return the updated sequence, shape (B, N, width), for ``emb`` (B, emb_size)."""
        batch, length, width = x.shape
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = (
            self.modulation(F.silu(emb))[:, None].chunk(6, -1))
        h = F.layer_norm(x, (width,)) * (1 + scale) + shift
        q, k, v = self.qkv(h).view(batch, length, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k = F.rms_norm(q, (self.head_dim,)), F.rms_norm(k, (self.head_dim,))
        h = _attention(q.to(v.dtype), k.to(v.dtype), v)
        x = x + gate * self.attention_out(h.transpose(1, 2).reshape(batch, length, width))
        h = F.layer_norm(x, (width,)) * (1 + mlp_scale) + mlp_shift
        return x + mlp_gate * self.mlp_out(F.silu(self.mlp_in(h)))


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(d)) v, all of shape (B, heads, N, d)."""
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    # On a CPU the backward pass of torch's own kernel is much slower in bf16 than these products.
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1) @ v


class UViT(nn.Module):
    """Maps features (B, in_channels, H, W), an embedding and object tokens to (B, channels, H, W).

    ``sample_size`` is H = W. ``widths`` are the channels of the levels, finest first. The last
    level is the transformer, of ``blocks`` blocks. Each of the others has ``layers`` residual
    layers on the way down, and as many, with their skips, on the way up. ``head_dim`` must divide
    the last width, and ``groups``, the number of groups of the group norms, the others.
    ``time_scale_shift`` is that of `ResnetBlock2D`.
    """

    def __init__(self, channels: int, in_channels: int, sample_size: int,
                 widths: Sequence[int], layers: int, blocks: int, emb_size: int, head_dim: int,
                 groups: int, time_scale_shift: str) -> None:
        super().__init__()
        *fine, coarse = widths

        def residual(inner: int, outer: int) -> ResnetBlock2D:
            return ResnetBlock2D(in_channels=inner, out_channels=outer, temb_channels=emb_size,
                                 groups=groups, time_embedding_norm=time_scale_shift, eps=1e-5)

        self.time_projection = Timesteps(emb_size // 2, flip_sin_to_cos=True,
                                         downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(emb_size // 2, emb_size)
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.ModuleList(residual(w, w) for _ in range(layers))
                                  for w in fine)
        self.downsample = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2)
                                        for a, b in zip(fine, widths[1:], strict=True))
        cells = (sample_size // 2**len(fine))**2
        self.cell_positions = nn.Parameter(0.02 * torch.randn(cells, coarse))
        self.blocks = nn.ModuleList(DiTBlock(coarse, emb_size, head_dim) for _ in range(blocks))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2)
                                      for a, b in zip(fine, widths[1:], strict=True))
        self.up = nn.ModuleList(nn.ModuleList(residual(2 * w, w) for _ in range(layers))
                                for w in fine)
        self.norm_out = nn.GroupNorm(groups if fine else 1, widths[0])
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor | int, class_emb: torch.Tensor,
                tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Return the output features, shape (B, C, H, W).

        Args:
            x: input features, shape (B, in_channels, H, W).
            timesteps: integers in 0..T-1, shape (B,) or a scalar.
            class_emb: embedding of the label, shape (B, emb_size).
            tokens: of the objects, shape (B, n, widths[-1]), or None.
        """
        timesteps = torch.as_tensor(timesteps, device=x.device).expand(len(x))
        emb = self.time_embedding(self.time_projection(timesteps)) + class_emb
        h, skips = self.conv_in(x), []
        for layers, downsample in zip(self.down, self.downsample, strict=True):
            for layer in layers:
                h = layer(h, emb)
                skips.append(h)
            h = downsample(h)
        shape = h.shape
        sequence = h.flatten(2).transpose(1, 2) + self.cell_positions
        if tokens is not None:
            sequence = torch.cat([tokens.to(sequence.dtype), sequence], 1)
        for block in self.blocks:
            sequence = block(sequence, emb)
        h = sequence[:, -shape[2] * shape[3]:].transpose(1, 2).reshape(shape)
        for layers, upsample in zip(reversed(self.up), reversed(self.upsample), strict=True):
            h = upsample(h)
            for layer in layers:
                h = layer(torch.cat([h, skips.pop()], 1), emb)
        return self.conv_out(F.silu(self.norm_out(h)))
