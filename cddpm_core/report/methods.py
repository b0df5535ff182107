"""Sentences of the report on the method: data, training, sampling, evaluator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cddpm_core.config.schema import Params
from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.report.facts import Facts, if_present
from cddpm_core.report.markdown import code, count, decimals, listed, prose
from cddpm_core.scheduler.samplers import SAMPLERS

__all__ = ["comparison_text", "data_text", "evaluator_text", "objective_text", "sampling_text",
           "schedule_text"]

SOURCES = {
    "rendered": "The images are **rendered scenes** that imitate i-CLEVR, with the same objects, "
                "colours and fixed camera. This package renders them; they are not the images of "
                "the course.",
    "cycles": "The images are scenes like those of i-CLEVR, **rendered by Cycles** (Blender) from "
              "the files of CLEVR's own generator. They are not the images of the course.",
    "real": "The images are the **real i-CLEVR images** of the course.",
}
PREDICTIONS = {
    "epsilon": (r"the noise $\epsilon$", r"\epsilon"),
    "v_prediction": (r"the velocity $v$", r"\left( \sqrt{\bar\alpha_t}\,\epsilon - "
                                          r"\sqrt{1 - \bar\alpha_t}\,x_0 \right)"),
    "sample": (r"the clean image $x_0$", "x_0"),
}
SNR = r"\bar\alpha_t / (1 - \bar\alpha_t)"


@if_present("data", "data")
def data_text(facts: Facts) -> str:
    """Return where the images come from, and their labels in numbers."""
    data = facts.metrics["data"]
    sizes = listed([f"{count(images)} with {size}" for size, images
                    in data["objects_per_image"].items()])
    counts = data["per_object"].values()
    seen = listed([f"{part['seen']} of the {part['conditions']} conditions of "
                   f"{code(name + '.json')}" for name, part in data["overlap"].items()])
    mean, std = (", ".join(f"{v:.3f}" for v in data[key]).replace("-", "−")
                 for key in ("pixel_mean", "pixel_std"))
    return prose(
        SOURCES[data["kind"]],
        f"There are {count(data['images'])} images: {sizes} objects.",
        f"Each of the 24 objects is in {count(min(counts))} to {count(max(counts))} images.",
        f"There are {count(data['conditions'])} distinct conditions; {seen} are among them.",
        _holdout_text(data),
        f"In [−1, 1] the channel means are {mean} and the standard deviations {std}.")


def _holdout_text(data: Mapping[str, Any]) -> str:
    if not data.get("left_out"):
        return ""
    files = " or ".join(code(name + ".json") for name in CONDITION_FILES)
    return (f"The {count(data['left_out'])} images whose condition is in {files} were "
            "**left out of training**. No training image shows exactly a condition that is "
            "tested below; images that show its objects beside others were kept.")


@if_present("data")
def comparison_text(facts: Facts) -> str:
    """Return how close the renders are to the real frames they were compared with."""
    frames = facts.metrics["data"].get("reference")
    if not frames:
        return ""
    worst = max(frames, key=lambda frame: frame["difference"])
    inside = max(frames, key=lambda frame: frame["difference_in_boxes"])
    named = sum(len(frame["objects"]) for frame in frames)
    return prose(
        f"In {len(frames)} real frames, {named} objects were found by fitting renders to them.",
        "The fit uses the pixels alone unless the folder has labels.",
        f"At 64 × 64 the mean difference is at most {worst['difference']:.2f} of 255 levels "
        f"({code(worst['file'])}), and inside the bounding boxes of the objects at most "
        f"{inside['difference_in_boxes']:.2f} ({code(inside['file'])}).",
        "Two differences remain: light reflected from one object to another is ignored, and "
        "the renders compared here have no grain.")


def schedule_text(params: Params) -> str:
    """Return the noise schedule and the distribution of the training timesteps."""
    if params.timestep_sampling == "uniform":
        how = "uniformly from 0, …, T − 1"
    else:
        median = params.num_train_timesteps / (1 + math.exp(-params.timestep_shift))
        how = (rf"as $\lfloor T\,\sigma(z)\rfloor$ with $z \sim \mathcal{{N}}"
               rf"({params.timestep_shift:g}, 1)$ and the logistic function $\sigma$; "
               rf"their median is t = {median:.0f}")
    return prose(f"The schedule is {code(params.beta_schedule)} with T = "
                 f"{params.num_train_timesteps}.", f"Training timesteps are sampled {how}.")


def objective_text(params: Params) -> str:
    """Return the loss that a training with these parameters minimises, with its formula."""
    name, formula = PREDICTIONS[params.prediction_type]
    weighted = params.loss_weighting != "uniform"
    weight = r"w_t\," if weighted else ""
    return prose(
        "Here $x_0$ is the image minus the mean training image, divided by "
        f"{params.data_scale:g}. i-CLEVR has low contrast: without this scaling its objects would "
        "be lost in noise at most timesteps." if params.standardise else
        "Here $x_0$ is the image in [−1, 1].",
        f"The network predicts {name}.",
        f"The loss is the {'weighted ' if weighted else ''}mean squared error over images, noise, "
        "timesteps and pixels,\n\n"
        rf"$$\mathcal{{L}} = \mathbb{{E}}_{{x_0, y, t, \epsilon}} \left[ "
        rf"{weight}\left( f_\theta(x_t, t, y) - {formula} \right)^2 "
        r"\right] .$$") + "\n" + prose(
        "The label $y$ is a multi-hot vector.",
        f"With probability {params.label_drop:g} it is replaced by zeros, so the network also "
        "learns the unconditional prediction." if params.label_drop else "",
        _weight_text(params))


def _weight_text(params: Params) -> str:
    if params.loss_weighting == "uniform":
        return ""
    if params.loss_weighting == "balanced":
        return ("The weight $w_t$ is the running mean of the error over all timesteps, divided by "
                "its running mean near $t$. Every noise level then contributes equally: high noise "
                "levels, where little can be predicted, as much as the low ones, which decide "
                "whether the image is sharp.")
    velocity = params.loss_weighting == "velocity"
    capped = f"1 + {SNR}" if velocity else SNR
    own = {"sample": "", "epsilon": f" / ({SNR})",
           "v_prediction": f" / (1 + {SNR})"}[params.prediction_type]
    meaning = ("as much as the error of $v$ would" if velocity
               else "in proportion to the signal-to-noise ratio")
    return (rf"The weight $w_t = \min({capped},\ {params.loss_weight_max:g}){own}$ makes the error "
            f"of $x_0$ count {meaning}, up to a bound.")


def sampling_text(params: Params) -> str:
    """Return the sampler and the guidance with their formulas."""
    sampler = SAMPLERS[params.sampler].text(params.num_inference_steps)
    return f"{sampler}{_guidance_text(params)}\n\n" + prose(
        "Each image has its own random generator, so it does not depend on the batch in which it "
        "is sampled.", _classifier_guidance_text(params))


def _guidance_text(params: Params) -> str:
    if params.guidance_scale == 1:
        return ""
    low, high = params.guidance_interval
    where = "" if (low, high) == (0, 1) else (
        f" at timesteps with $t / T$ from {low:g} to {high:g}, and no guidance elsewhere")
    return (f"\n\nSampling uses classifier-free guidance with $w = {params.guidance_scale:g}$"
            f"{where}:\n\n"
            r"$$\hat f = f_\theta(x_t, t, \varnothing) + w \left( f_\theta(x_t, t, y) - "
            r"f_\theta(x_t, t, \varnothing) \right) .$$")


def _classifier_guidance_text(params: Params) -> str:
    if not params.evaluator_guidance:
        return "The evaluator takes no part in sampling."
    return ("**The evaluator that scores the images also guides their sampling** (classifier "
            "guidance): each step moves the predicted image towards a higher likelihood of the "
            f"label, with $s = {params.evaluator_guidance:g}$:\n\n"
            r"$$\hat x_0 \leftarrow \hat x_0 + s\,(1 - \bar\alpha_t)\,\nabla_{\hat x_0} \log "
            r"p(y \mid \hat x_0) .$$"
            "\n\nIts scores of these images are biased and say little about the network.")


@if_present("evaluator", "train")
def evaluator_text(facts: Facts) -> str:
    """Return which evaluator scored the images."""
    evaluator, second = facts.metrics["evaluator"], facts.metrics.get("second")
    if evaluator["kind"] == "official":
        return prose(
            "The images are scored by the **official evaluator** of the course, a ResNet-18 with "
            "24 sigmoid outputs.",
            "" if evaluator.get("known", True) else
            "Its SHA-256 is not the published one, so its origin is unknown.",
            "As a second verdict, the released stand-in scores the same images."
            if second else "",
            _heldout_text(second["evaluator"]) if second else "")
    which = ("**released stand-in**, which comes with the package"
             if evaluator.get("released") else "**private stand-in**")
    return prose(
        f"The images are scored by a {which}: a network with 24 sigmoid outputs that was trained "
        "on rendered scenes.",
        _heldout_text(evaluator),
        "Its scores are not those of the official evaluator.",
        "As a second verdict, the released stand-in scores the same images." if second else "")


def _heldout_text(evaluator: Mapping[str, Any]) -> str:
    """The stand-in's own accuracy, as far as it was measured."""
    more = [f"{decimals(evaluator[key])} {what}" for key, what in (
        ("heldout_augmented_micro", "after blur, noise and shifts"),
        ("heldout_crowded_micro", "on scenes of up to 5 objects")) if evaluator.get(key)]
    return prose(
        f"On {count(evaluator['heldout_images'])} held-out rendered images of 1 to 3 objects the "
        f"stand-in's own micro accuracy is {decimals(evaluator['heldout_micro'])}.",
        f"It is {listed(more)}." if more else "").strip()
