"""Optimisers and learning rates by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from cddpm_core.config.device import computes_bf16
from cddpm_core.config.schema import Params

__all__ = ["KernelMuon", "lr_factor", "make_optimizers", "orthogonalised"]

# Trained by AdamW, not Muon: layers whose rows differ in kind, or that few images reach, and those
# of an embedding, on which Muon spends time and gains nothing.
OUTER = {"conv_in", "conv_out", "class_embedding", "time_embedding", "object_tokens",
         "order_tokens", "object_embeddings", "cell_positions", "downsample", "downsamplers",
         "upsample", "upsamplers", "modulation", "time_emb_proj"}
STEPS = 4  # of Newton-Schulz: one fewer than torch's default


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Return ``matrices`` (N, rows, columns) with singular values near 1, in their own type.

    The quintic Newton-Schulz iteration of Muon (Jordan et al. 2024), X <- (a + b R + c R^2) X
    with R = X X^T, where X is the matrix, wide, over its norm. A polynomial of R commutes with R,
    so all steps but the last product are on R, which is smaller than X. In bfloat16 the
    iteration begins again with a new R after two steps.
    """
    a, b, c = 3.4445, -4.775, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    gram, product = wide @ wide.mT, None
    for step in range(STEPS):
        if step == 2 and wide.dtype == torch.bfloat16:
            # Rounding makes R indefinite, and the iteration would blow up its negative part.
            wide = product @ wide
            gram, product = wide @ wide.mT, None
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if step + 1 < STEPS:
            gram = factor @ gram @ factor
    found = product @ wide
    return found.mT if tall else found


class KernelMuon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) on kernels of two or more dimensions.

    Each kernel is seen as a matrix (out, in * kh * kw), whose momentum is made orthogonal. torch's
    class takes matrices only, one after the other, in bfloat16. This one computes in bfloat16 where
    the device does, and on an accelerator takes all kernels of one shape in one batch of products.
    With a scalar tensor ``found_inf`` other than 0, as torch's fused optimisers have it, a step
    changes nothing.
    """

    found_inf: torch.Tensor | None = None

    def __init__(self, kernels: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(kernels, {"lr": lr, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take a step with the gradients that there are."""
        for group in self.param_groups:
            kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
            for alike in _batches(kernels):
                self._step(alike, group)

    def _step(self, kernels: list[nn.Parameter], group: dict[str, Any]) -> None:
        moments = [self.state[kernel].setdefault("momentum_buffer", torch.zeros_like(kernel))
                   for kernel in kernels]
        gradient, momentum = (torch.stack([tensor.flatten(1) for tensor in tensors])
                              for tensors in ([kernel.grad for kernel in kernels], moments))
        valid = 1.0
        if self.found_inf is not None:
            # A gradient that is not finite may not reach the momentum, not even times 0.
            gradient = torch.where(self.found_inf == 0, gradient, momentum)
            valid = 1 - self.found_inf
        momentum.lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(momentum, group["momentum"])
        fast = ahead.bfloat16() if computes_bf16(ahead.device) else ahead
        update = orthogonalised(fast).to(ahead)
        rows, columns = update.shape[1:]
        update *= -group["lr"] * max(1, rows / columns) ** 0.5 * valid
        shape = kernels[0].shape
        torch._foreach_copy_(moments, [part.view(shape) for part in momentum])
        torch._foreach_add_(kernels, [part.view(shape) for part in update])


def _batches(kernels: Sequence[nn.Parameter]) -> Iterable[list[nn.Parameter]]:
    """Kernels of one shape together, where many small products cost more than one large one."""
    if not kernels or kernels[0].device.type == "cpu":
        return [[kernel] for kernel in kernels]
    alike: dict[torch.Size, list[nn.Parameter]] = {}
    for kernel in kernels:
        alike.setdefault(kernel.shape, []).append(kernel)
    return alike.values()


def make_optimizers(model: nn.Module, params: Params) -> list[torch.optim.Optimizer]:
    """Return the optimisers that together train all weights of the model.

    ``adam`` and ``adamw`` are one optimiser. ``muon`` is three: two of Muon train the inner
    matrices and kernels, AdamW the rest, weights of one dimension and the layers in `OUTER`.
    """
    # One kernel for all weights, which can also leave them as they are; see `KernelMuon`.
    fused = {"fused": True}
    if params.optimizer == "adam":
        return [torch.optim.Adam(model.parameters(), lr=params.learning_rate, **fused)]
    adamw = {"lr": params.learning_rate, "betas": (0.9, 0.99), "weight_decay": 0.01, **fused}
    if params.optimizer == "adamw":
        return [torch.optim.AdamW(model.parameters(), **adamw)]
    inner, rest = [], []
    for name, weight in model.named_parameters():
        outer = weight.ndim < 2 or not OUTER.isdisjoint(name.split("."))
        (rest if outer else inner).append(weight)
    # Two halves, so that they step side by side on a CPU.
    halves = [KernelMuon(inner[i::2], lr=params.muon_learning_rate) for i in range(2)]
    return [*halves, torch.optim.AdamW(rest, **adamw)]


def lr_factor(step: int, total_steps: int, schedule: str = "linear", warmup_steps: int = 0,
              decay_start: float = 0.0) -> float:
    """Return the factor of the peak learning rate at a step of ``total_steps``.

    A linear warm-up, then constant; ``linear`` falls to 0 from the fraction ``decay_start`` of
    training on, ``cosine`` over all of it.
    """
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    done = step / max(1, total_steps)
    if schedule == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "linear" and done > decay_start:
        return warmup * (1 - done) / (1 - decay_start)
    return warmup
