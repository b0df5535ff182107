"""Sentences of the report on the network."""

from __future__ import annotations

from cddpm_core.config.schema import Params
from cddpm_core.report.facts import Facts
from cddpm_core.report.language import say
from cddpm_core.report.markdown import code, prose

__all__ = ["network_text"]


def network_text(facts: Facts) -> str:
    """Return a description of the network, and of its layouts if it has any."""
    p = facts.params
    size = facts.metrics.get("train", {}).get("parameters")
    enters = say("In every residual layer [@he2016] this sum, of width {width}, scales and shifts "
                 "the normalised features." if p.time_scale_shift == "scale_shift" else
                 "In every residual layer [@he2016] this sum, of width {width}, is added to the "
                 "features.", width=p.class_emb_size)
    return prose(
        say("The network is a U-Net [@ronneberger2015] with {levels} levels (diffusers' {name} "
            "[@diffusers2022]).", levels=len(p.blocks), name=code("UNet2DModel"))
        if p.backbone == "unet" else
        say("The network is a U-Net [@ronneberger2015] with {levels} levels, a U-ViT "
            "[@hoogeboom2023]: residual convolutions at the finer levels, and at the coarsest "
            "level {blocks} transformer blocks with self-attention over all cells.",
            levels=len(p.blocks), blocks=p.transformer_blocks),
        "" if p.patch_size == 1 else
        say("A pixel-unshuffle by {patch} turns the image into {channels} channels of {side} × "
            "{side} before the first convolution; the inverse follows the last one.",
            patch=p.patch_size, channels=3 * p.patch_size**2, side=p.image_size // p.patch_size),
        _refinement_text(p),
        say("It has {millions} million parameters.", millions=f"{size / 1e6:.1f}") if size else "",
        say("A linear layer maps the label $y$ to a vector that is added to the timestep "
            "embedding:") + "\n\n"
        r"$$e = \operatorname{MLP}(\operatorname{sinusoid}(t)) + W y + b .$$"
        f"\n\n{enters}",
        _tokens_text(p)) + _layout_text(facts)


def _refinement_text(p: Params) -> str:
    if p.prediction_type != "sample" or not p.refine_channels:
        return ""
    return say("Three convolutions of {channels} channels on pixels then refine its output, the "
               r"mean $\mu$ and the variance $\tau^2$ of each value of $x_0$. At low noise $x_t$ "
               "still shows edges that patches lose. The prediction therefore combines both "
               "as a Wiener filter does:", channels=p.refine_channels) + "\n\n" + (
        r"$$\hat x_0 = \mu + \frac{\tau^2}{\tau^2 + 1 / \operatorname{SNR}(t)} "
        r"\left( \frac{x_t}{\sqrt{\bar\alpha_t}} - \mu \right) .$$") + "\n\n" + say(
        r"With one $\tau$ for all values this weight of $x_t$ is $c_\text{skip}$ of EDM "
        "[@karras2022].")


def _tokens_text(p: Params) -> str:
    if p.conditioning != "object_tokens":
        return say("This sum is all that the label adds to the embedding.")
    return prose(
        say("In addition, every object in the label is represented by a learned token. The "
            "transformer reads these tokens in one sequence with the cells of the image, so that "
            "each cell can attend to single objects and not only to their sum."),
        say("Each token also has a learned embedding of its index in the label. Labels name the "
            "objects in the order in which they were placed, the first one at the centre.")
        if p.ordered_tokens else "").strip()


def _layout_text(facts: Facts) -> str:
    if not facts.params.layout:
        return ""
    if not facts.uses_layouts():
        return "\n" + say(
            "The parameter {name} asks for positions, but the data has no sequences of frames that "
            "add one object at a time. No positions are known, and none are used.",
            name=code("layout")) + "\n"
    choices = facts.params.layout_choices
    return "\n" + prose(
        say("**The network is conditioned on the position of each object.** The training images "
            "are frames of scenes, and each frame adds one object to the frame before: the last "
            "one in its label. The difference between two frames gives the position of the new "
            "object; no other annotation is used. A learned embedding of the object is added at "
            "the four nearest cells of further input channels. Positions are dropped with the "
            "same probability as labels, and with every label that is dropped."),
        say("For a new image, the positions are those of a training scene, chosen by the seed "
            "of the image.") if choices == 1 else
        say("For a new image, the positions are those of a training scene: of {choices} scenes "
            "chosen by the seed of the image, the one whose two closest objects are farthest apart "
            "in the image.", choices=choices),
        say("The layout does not depend on which objects are asked for."),
        say(r"With the positions $\ell$ of the first $|y|$ objects of training scenes, this "
            "factorises the model as") + "\n\n"
        r"$$p(x \mid y) = \sum_\ell p(\ell \mid |y|)\, p(x \mid y, \ell) .$$"
        + ("" if choices == 1 else "\n\n" + say(
            "The choice favours layouts without close objects, so crowded scenes are rarer than in "
            "the training data.")))
