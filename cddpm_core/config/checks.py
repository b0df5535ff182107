"""What has to hold between parameters that are each valid alone."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from cddpm_core.config.errors import UserError, shown
from cddpm_core.scheduler.samplers import SAMPLERS

if TYPE_CHECKING:
    from cddpm_core.config.schema import Params

__all__ = ["check_together"]


def check_together(p: Params) -> None:
    """Raise `UserError` for values that exclude one another, and for text of the wrong form."""
    if not re.fullmatch("([A-Za-z0-9][A-Za-z0-9_-]*)?", p.student_id):
        raise UserError("student_id: expected letters, digits, '_' and '-', found "
                        f"{shown(p.student_id)}")
    if not re.fullmatch("[a-z]{2,3}(-[A-Z][A-Za-z]{1,3})?", p.language):
        raise UserError("language: expected a code of two or three lower-case letters such as "
                        f"'en' or 'zh', found {shown(p.language)}")
    if p.renderer == "cycles" and not (p.data or p.clevr_assets):
        raise UserError("clevr_assets: expected the folder image_generation/data of CLEVR's public "
                        "repository with renderer cycles, found ''")
    _check_network(p)
    SAMPLERS[p.sampler].check(p.sampler, p.num_inference_steps, p.num_train_timesteps)
    if p.guidance_scale != 1 and p.label_drop == 0:
        raise UserError(f"guidance_scale: {p.guidance_scale:g} needs a model trained with dropped "
                        "labels, expected label_drop above 0 or guidance_scale 1")
    if len(p.guidance_interval) != 2 or p.guidance_interval[0] > p.guidance_interval[1]:
        raise UserError("guidance_interval: expected two fractions of T, the lower one first, "
                        f"found {p.guidance_interval}")
    if p.loss_weighting == "velocity" and p.prediction_type == "epsilon":
        raise UserError("loss_weighting: the velocity weight of an error of epsilon has no bound, "
                        "expected uniform, min_snr or balanced with prediction_type epsilon")


def _check_network(p: Params) -> None:
    """Levels, widths and sizes fit one another."""
    levels = len(p.blocks)
    if levels > 10:
        raise UserError(f"blocks: expected at most 10 levels, found {levels}")
    if levels != len(p.channels) or not levels:
        raise UserError("blocks and channels: expected two lists of the same length, one entry per "
                        f"level, found {levels} and {len(p.channels)} entries")
    if p.class_emb_size % 4:
        raise UserError(f"class_emb_size: expected a multiple of 4, found {p.class_emb_size}")
    if p.backbone == "u_vit" and p.blocks != [0] * (levels - 1) + [1]:
        raise UserError("blocks: u_vit has attention only at the last level, expected "
                        f"{[0] * (levels - 1) + [1]}, found {p.blocks}")
    if p.conditioning == "object_tokens" and p.backbone != "u_vit":
        raise UserError("conditioning: object_tokens needs backbone u_vit, expected "
                        "class_embedding with backbone unet")
    # The innermost level has attention whatever `blocks` says.
    attending = [c for c, block in zip(p.channels, [*p.blocks[:-1], 1], strict=True) if block]
    width = p.class_emb_size // 4 * math.gcd(*attending)
    if width % p.attention_head_dim:
        raise UserError(f"attention_head_dim: expected a divisor of {width}, which divides the "
                        f"width of every level with attention, found {p.attention_head_dim}")
    shrink = p.patch_size * 2 ** (levels - 1)
    if p.image_size % shrink:
        raise UserError(f"image_size: expected a multiple of {shrink} (patch_size {p.patch_size} "
                        f"and {levels} levels), found {p.image_size}")
