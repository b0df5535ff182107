"""Sentences of the report on the network."""

from __future__ import annotations

from cddpm_core.config.schema import Params
from cddpm_core.report.facts import Facts
from cddpm_core.report.markdown import code, prose

__all__ = ["network_text"]


def network_text(facts: Facts) -> str:
    """Return a description of the network, and of its layouts if it has any."""
    p, trained = facts.params, facts.metrics.get("train", {})
    top, bottom = trained.get("rows") or (0, p.image_size)
    kind = (f"diffusers' {code('UNet2DModel')}" if p.backbone == "unet" else
            "a U-ViT: residual convolutions at the finer levels, and at the coarsest level "
            f"{p.transformer_blocks} transformer blocks with self-attention over all positions")
    size = trained.get("parameters")
    enters = ("scales and shifts the normalised features" if p.time_scale_shift == "scale_shift"
              else "is added to the features")
    return prose(
        f"The network is a U-Net with {len(p.blocks)} levels ({kind}).",
        "" if bottom - top == p.image_size else
        f"It generates rows {top} to {bottom - 1} of {p.image_size} only. The other rows hardly "
        "vary in the training images and are filled with the mean training image.",
        "" if p.patch_size == 1 else
        f"A pixel-unshuffle by {p.patch_size} turns the image into {3 * p.patch_size**2} channels "
        f"of {(bottom - top) // p.patch_size} × {p.image_size // p.patch_size} before the first "
        "convolution; the inverse follows the last one.",
        f"It has {size / 1e6:.1f} million parameters." if size else "",
        "A linear layer maps the label $y$ to a vector that is added to the timestep embedding:"
        "\n\n"
        r"$$e = \operatorname{MLP}(\operatorname{sinusoid}(t)) + W y + b .$$"
        f"\n\nIn every residual layer this sum, of width {p.class_emb_size}, {enters}.",
        _tokens_text(p)) + _layout_text(facts)


def _tokens_text(p: Params) -> str:
    if p.conditioning != "object_tokens":
        return ("A summed embedding says which objects there are. The network has to learn by "
                "itself which colour belongs to which shape.")
    read = "The transformer reads these tokens in one sequence with the cells of the image."
    order = ("Each token also has a learned embedding of its index in the label. Labels name the "
             "objects in the order in which they were placed, the first one at the centre."
             if p.ordered_tokens else "")
    return " ".join(filter(None, [
        "In addition, every object in the label is a learned token.", read,
        "A token stands for a colour and a shape together; a sum of embeddings loses this pairing.",
        order]))


def _layout_text(facts: Facts) -> str:
    if not facts.params.layout:
        return ""
    if not facts.uses_layouts():
        return "\n" + prose(
            f"The parameter {code('layout')} asks for positions, but the data has no sequences of "
            "frames that add one object at a time. No positions are known, and none are used.")
    choices = facts.params.layout_choices
    return "\n" + prose(
        "**The network is conditioned on the position of each object.**",
        "The training images are frames of scenes, and each frame adds one object to the frame "
        "before, the last one in its label.",
        "The difference between two frames gives the position of the new object; no other "
        "annotation is used.",
        "A learned embedding of the object is placed at the nearest cells of further input "
        "channels.",
        "Positions are dropped with the same probability as labels.",
        "To sample an image, the positions are those of a training scene"
        + (", chosen by the seed of the image." if choices == 1 else
           f": of {choices} scenes chosen by the seed of the image, the one whose two closest "
           "objects are farthest apart in the image."),
        "The layout does not depend on which objects are asked for.",
        r"With the layouts $\ell$ of training scenes of $|y|$ objects, this factorises the model as"
        "\n\n"
        r"$$p(x \mid y) = \sum_\ell p(\ell \mid |y|)\, p(x \mid y, \ell) .$$"
        + ("" if choices == 1 else
           "\n\nThe choice favours layouts without close objects, so crowded scenes are rarer "
           "than in the training data."))
