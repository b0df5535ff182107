"""Optimisers and learning rates by name."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from cddpm_core.config.device import computes_bf16
from cddpm_core.config.schema import Params

__all__ = ["KernelMuon", "lr_factor", "make_optimizers", "orthogonalised"]

# Trained by AdamW, not Muon: layers whose rows differ in kind, or that few images reach.
OUTER = {"conv_in", "conv_out", "class_embedding", "time_embedding", "object_tokens",
         "object_embeddings", "cell_positions", "downsample", "upsample"}


def orthogonalised(matrix: torch.Tensor, coefficients: Sequence[float], steps: int,
                   eps: float) -> torch.Tensor:
    """Return ``matrix`` (rows, columns) with singular values near 1, computed in its own type.

    The quintic Newton-Schulz iteration of Muon (Jordan et al. 2024), X <- (a + b R + c R^2) X
    with R = X X^T, where X is the matrix, wide, over its norm. A polynomial of R commutes with R,
    so all steps but the last product are on R, which is smaller than X.
    """
    a, b, c = coefficients
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=eps)
    gram, product = wide @ wide.T, None
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if step + 1 < steps:
            gram = factor @ gram @ factor
    found = wide if product is None else product @ wide
    return found if len(matrix) <= matrix.shape[1] else found.T


class KernelMuon(torch.optim.Muon):
    """torch's Muon on kernels of two or more dimensions, each seen as (out, in * kh * kw).

    Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix; torch's
    class takes matrices only. Here it holds views that share the kernels' storage.
    torch's class multiplies in bfloat16; where the device only emulates that, `orthogonalised`
    does the same in float32.
    """

    def __init__(self, kernels: list[nn.Parameter], **options) -> None:
        self._kernels = kernels
        views = [nn.Parameter(kernel.detach().view(len(kernel), -1)) for kernel in kernels]
        super().__init__(views, **options)

    @torch.no_grad()
    def step(self, closure=None) -> None:
        for kernel, view in zip(self._kernels, self.param_groups[0]["params"], strict=True):
            view.grad = None if kernel.grad is None else kernel.grad.reshape(view.shape)
        if all(computes_bf16(kernel.device) for kernel in self._kernels):
            super().step(closure)
        else:
            self._step_in_float32()

    def _step_in_float32(self) -> None:
        group = self.param_groups[0]
        for weight in group["params"]:
            if weight.grad is None:
                continue
            momentum = self.state[weight].setdefault("momentum_buffer",
                                                     torch.zeros_like(weight.grad))
            momentum.lerp_(weight.grad, 1 - group["momentum"])
            update = orthogonalised(weight.grad.lerp(momentum, group["momentum"]),
                                    group["ns_coefficients"], group["ns_steps"], group["eps"])
            rate = group["lr"] * max(1, len(weight) / weight.shape[1]) ** 0.5
            weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for kernel in self._kernels:
            kernel.grad = None


def make_optimizers(model: nn.Module, params: Params) -> list[torch.optim.Optimizer]:
    """Return the optimisers that together train all weights of the model.

    ``adam`` and ``adamw`` are one optimiser; two of ``muon`` train the inner
    matrices and kernels, and AdamW the rest: biases, norms, embeddings, and the
    first and last layers.
    """
    # One kernel for all weights, in place of one for each operation.
    fused = {"fused": True} if next(model.parameters()).is_cuda else {}
    if params.optimizer == "adam":
        return [torch.optim.Adam(model.parameters(), lr=params.learning_rate, **fused)]
    adamw = {"lr": params.learning_rate, "betas": (0.9, 0.99), "weight_decay": 0.01, **fused}
    if params.optimizer == "adamw":
        return [torch.optim.AdamW(model.parameters(), **adamw)]
    inner, rest = [], []
    for name, weight in model.named_parameters():
        outer = weight.ndim < 2 or not OUTER.isdisjoint(name.split("."))
        (rest if outer else inner).append(weight)
    # One iteration fewer than torch's default, for speed. Two halves, so that they step side by
    # side on a CPU.
    halves = [KernelMuon(inner[i::2], lr=params.muon_learning_rate, weight_decay=0.0, ns_steps=4)
              for i in range(2)]
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
