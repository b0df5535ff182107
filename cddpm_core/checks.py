"""What has to hold between parameters: levels and widths, steps and samplers, text and its form."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from cddpm_core.errors import UserError, shown

if TYPE_CHECKING:
    from cddpm_core.params import Params

__all__ = ["check_together"]


def check_together(p: Params) -> None:
    """Raise `UserError` for values of ``p`` that are possible each alone, but not together.

    Here too are the forms of text that no list of choices can give.
    """
    if not re.fullmatch("([A-Za-z0-9][A-Za-z0-9_-]*)?", p.student_id):
        raise UserError(f"student_id: expected letters, digits, '_' and '-', found "
                        f"{shown(p.student_id)}")
    if not re.fullmatch("[a-z]{2,3}", p.language):
        raise UserError(f"language: expected a code of two or three small letters such as 'en' or "
                        f"'zh', found {shown(p.language)}")
    if len(p.blocks) > 10:
        raise UserError(f"blocks: expected at most 10 levels, found {len(p.blocks)}")
    if len(p.blocks) != len(p.channels) or not p.blocks:
        raise UserError(
            f"blocks and channels: expected two lists of the same length, one entry a level, "
            f"found {len(p.blocks)} and {len(p.channels)} entries"
        )
    if p.class_emb_size % 4:
        raise UserError(f"class_emb_size: expected a multiple of 4, found {p.class_emb_size}")
    if p.backbone == "u_vit" and (any(p.blocks[:-1]) or not p.blocks[-1]):
        raise UserError(f"blocks: u_vit has attention at the last level alone, expected "
                        f"{[0] * (len(p.blocks) - 1) + [1]}, found {p.blocks}")
    # The innermost level has attention whatever blocks says.
    attending = [c for c, block in zip(p.channels, [*p.blocks[:-1], 1], strict=True) if block]
    width = p.class_emb_size // 4 * math.gcd(*attending)
    if width % p.attention_head_dim:
        raise UserError(
            f"attention_head_dim: expected a divisor of {width}, which divides the width of every "
            f"level with attention, found {p.attention_head_dim}"
        )
    shrink = p.patch_size * 2 ** (len(p.blocks) - 1)
    if p.image_size % shrink:
        raise UserError(
            f"image_size: expected a multiple of {shrink} (patch_size {p.patch_size} and "
            f"{len(p.blocks)} levels), found {p.image_size}"
        )
    if p.num_inference_steps > p.num_train_timesteps:
        raise UserError(
            f"num_inference_steps: expected at most num_train_timesteps "
            f"({p.num_train_timesteps}), found {p.num_inference_steps}"
        )
    if p.guidance_scale != 1 and p.label_drop == 0:
        raise UserError(
            f"guidance_scale: {p.guidance_scale:g} needs a model that has seen dropped labels, "
            "expected label_drop above 0 or guidance_scale 1"
        )
    if len(p.guidance_interval) != 2 or p.guidance_interval[0] > p.guidance_interval[1]:
        raise UserError("guidance_interval: expected two shares of T, the lower one first, found "
                        f"{p.guidance_interval}")
    if p.loss_weighting == "velocity" and p.prediction_type == "epsilon":
        raise UserError(
            "loss_weighting: velocity weighs an error of epsilon without bound in pure noise, "
            "expected uniform, min_snr or balanced with prediction_type epsilon"
        )
    if p.sampler in ("ddim", "unipc") and p.num_train_timesteps % p.num_inference_steps:
        raise UserError(
            f"num_inference_steps: {p.sampler} needs a divisor of num_train_timesteps "
            f"({p.num_train_timesteps}), found {p.num_inference_steps}"
        )
    if p.sampler == "ddpm" and p.num_inference_steps != p.num_train_timesteps:
        raise UserError(
            f"sampler: ddpm walks all timesteps, expected num_inference_steps "
            f"{p.num_train_timesteps}, found {p.num_inference_steps}"
        )
