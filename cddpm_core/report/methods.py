"""Sentences of the report on the method: data, training, sampling, evaluator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cddpm_core.config.schema import Params
from cddpm_core.report.facts import Facts, if_present
from cddpm_core.report.language import say
from cddpm_core.report.markdown import code, count, decimals, listed, prose
from cddpm_core.scheduler.samplers import SAMPLERS

__all__ = ["comparison_text", "data_text", "evaluator_text", "objective_text", "sampling_text",
           "schedule_text"]

SOURCES = {
    "rendered": "The images are **rendered scenes** that imitate i-CLEVR, with the same objects, "
                "colours and fixed camera. This package renders them; they are not the images of "
                "the course.",
    "cycles": "The images are scenes like those of i-CLEVR, **rendered by Cycles** (Blender) from "
              "the files of CLEVR's own generator [@johnson2017]. They are not the images of the "
              "course.",
    "real": "The images are the **real i-CLEVR images** of the course.",
    "given": "The images are those of **a folder that was given**. Its labels are not those of the "
             "course's images.",
}
PREDICTIONS = {
    "epsilon": (r"the noise $\epsilon$", r"\epsilon"),
    "v_prediction": (r"the velocity $v$ [@salimans2022]", r"\left( \sqrt{\bar\alpha_t}\,\epsilon "
                     r"- \sqrt{1 - \bar\alpha_t}\,x_0 \right)"),
    "sample": (r"the clean image $x_0$ [@li2025]", "x_0"),
}
SCHEDULES = {"squaredcos_cap_v2": " [@nichol2021]"}
CITED = {"ddpm": " [@ho2020]", "ddim": " [@song2021]", "dpm_solver++": " [@lu2022]",
         "sde_dpm_solver++": " [@lu2022]", "unipc": " [@zhao2023]"}
SNR = r"\bar\alpha_t / (1 - \bar\alpha_t)"


@if_present("data")
def data_text(facts: Facts) -> str:
    """Return where the images come from, and their labels in numbers."""
    data = facts.metrics["data"]
    sizes = listed([say("{images} with {size}", images=count(images), size=size)
                    for size, images in data["objects_per_image"].items()])
    counts = data["per_object"].values()
    seen = listed([say("{seen} of the {conditions} conditions of {file}", seen=part["seen"],
                       conditions=part["conditions"], file=code(name + ".json"))
                   for name, part in data["overlap"].items()])
    mean, std = (", ".join(f"{v:.3f}" for v in data[key]).replace("-", "−")
                 for key in ("pixel_mean", "pixel_std"))
    return prose(
        say(SOURCES[data["kind"]]),
        say("There are {images} images: {sizes} objects.", images=count(data["images"]),
            sizes=sizes),
        say("Each of the 24 objects is in {least} to {most} images.", least=count(min(counts)),
            most=count(max(counts))),
        say("There are {number} distinct conditions; {seen} are among them.",
            number=count(data["conditions"]), seen=seen),
        say("The {images} images whose condition is in {test} or {new_test} were **left out of "
            "training**. No training image shows exactly a condition that is tested below; "
            "images that show its objects beside others were kept.",
            images=count(data["left_out"]), test=code("test.json"), new_test=code("new_test.json"))
        if data.get("left_out") else "",
        say("{missing} of the images that {file} names are **missing** and are left out.",
            missing=count(data["missing"]), file=code("train.json")) if data.get("missing") else "",
        say("In [−1, 1] the channel means are {mean} and the standard deviations {std}.",
            mean=mean, std=std))


@if_present("data")
def comparison_text(facts: Facts) -> str:
    """Return how close the renders are to the real frames they were compared with."""
    frames = facts.metrics["data"].get("reference")
    if not frames:
        return ""
    worst = max(frames, key=lambda frame: frame["difference"])
    inside = max(frames, key=lambda frame: frame["difference_in_boxes"])
    return prose(
        say("In {frames} real frames, {objects} objects were found by fitting renders to them.",
            frames=len(frames), objects=sum(len(frame["objects"]) for frame in frames)),
        say("The fit uses the pixels alone unless the folder has labels."),
        say("At 64 × 64 the mean difference is at most {worst} of 255 levels ({file}), and inside "
            "the bounding boxes of the objects at most {inside} ({other}).",
            worst=f"{worst['difference']:.2f}", file=code(worst["file"]),
            inside=f"{inside['difference_in_boxes']:.2f}", other=code(inside["file"])),
        say("Two differences remain: light reflected from one object to another is ignored, and "
            "the renders compared here have no grain."))


def schedule_text(params: Params) -> str:
    """Return the noise schedule and the distribution of the training timesteps."""
    schedule = say("The schedule is {name} with T = {T}.", T=params.num_train_timesteps,
                   name=code(params.beta_schedule) + SCHEDULES.get(params.beta_schedule, ""))
    if params.timestep_sampling == "uniform":
        return prose(schedule, say("Training timesteps are sampled uniformly from 0, …, T − 1."))
    normal = rf"\mathcal{{N}}({params.timestep_shift:g}, 1)"
    return prose(schedule, say(
        r"Training timesteps are sampled as $\lfloor T\,\sigma(z)\rfloor$ with $z \sim {normal}$ "
        r"and the logistic function $\sigma$ [@esser2024]; their median is t = {median}.",
        normal=normal,
        median=f"{params.num_train_timesteps / (1 + math.exp(-params.timestep_shift)):.0f}"))


def objective_text(params: Params) -> str:
    """Return the loss that a training with these parameters minimises, with its formula."""
    name, formula = PREDICTIONS[params.prediction_type]
    weighted = params.loss_weighting != "uniform"
    weight = r"w_t\," if weighted else ""
    return prose(
        say("Here $x_0$ is the image minus the mean training image, divided by {scale}. i-CLEVR "
            "has low contrast: without this scaling its objects would be lost in noise at most "
            "timesteps.", scale=f"{params.data_scale:g}") if params.standardise else
        say("Here $x_0$ is the image in [−1, 1]."),
        say("The network predicts {what}.", what=say(name)),
        say("The loss is the weighted mean squared error over images, noise, timesteps and pixels,"
            if weighted else
            "The loss is the mean squared error over images, noise, timesteps and pixels,")
        + "\n\n"
        rf"$$\mathcal{{L}} = \mathbb{{E}}_{{x_0, y, t, \epsilon}} \left[ "
        rf"{weight}\left( f_\theta(x_t, t, y) - {formula} \right)^2 "
        r"\right] .$$") + "\n" + prose(
        say("The error of the differences between neighbouring pixels, along both axes, is added "
            "with weight {weight}. The best prediction, the conditional mean of the target, stays "
            "the same, and edges are learned sooner.",
            weight=f"{params.gradient_weight:g}") if params.gradient_weight else "",
        say("The label $y$ is a multi-hot vector."),
        say("With probability {drop} it is replaced by zeros, so the network also learns the "
            "unconditional prediction.", drop=f"{params.label_drop:g}")
        if params.label_drop else "",
        say("An image of three objects is trained on three times as often as one of a single "
            "object, so objects away from the centre, which are harder, are seen more often.")
        if params.image_sampling == "by_objects" else "",
        _weight_text(params))


def _weight_text(params: Params) -> str:
    if params.loss_weighting == "uniform":
        return ""
    if params.loss_weighting == "balanced":
        return say("The weight $w_t$ is the running mean of the error over all timesteps, divided "
                   "by its running mean near $t$. Training images then contribute equally "
                   "at every noise level: at high noise, where little can be predicted, as much as "
                   "at low noise, which decides whether the image is sharp. The same balance has "
                   "been learned as the uncertainty of each task [@kendall2018] or noise level "
                   "[@karras2024].")
    velocity = params.loss_weighting == "velocity"
    own = {"sample": "", "epsilon": f" / ({SNR})",
           "v_prediction": f" / (1 + {SNR})"}[params.prediction_type]
    capped = f"1 + {SNR}" if velocity else SNR
    return say("The weight {weight} makes the error of $x_0$ count as much as the error of $v$ "
               "would, up to a bound [@salimans2022]." if velocity else
               "The weight {weight} makes the error of $x_0$ count in proportion to the "
               "signal-to-noise ratio, up to a bound [@hang2023].",
               weight=rf"$w_t = \min({capped},\ {params.loss_weight_max:g}){own}$")


def sampling_text(params: Params) -> str:
    """Return the sampler and the guidance with their formulas."""
    sampler = SAMPLERS[params.sampler]
    sentence, _, formula = sampler.sentence.partition("\n\n")
    said = say(sentence, steps=params.num_inference_steps)
    end = len(said) - (said[-1] in ":.：。")
    said = said[:end] + CITED[params.sampler] + said[end:]
    return (said + (f"\n\n{formula}" if formula else "") + _guidance_text(params) + "\n\n" + prose(
        say("Each image has its own random generator, so it does not depend on the batch in which "
            "it is sampled."),
        say(r"Sampling ends at the mean of $p(x_0 \mid x_t)$, which has little grain. The grain is "
            "therefore measured in flat areas of the training images, and normal noise with the "
            "same covariance of the channels is added.")
        if params.standardise and params.grain else "", _classifier_guidance_text(params)))


def _guidance_text(params: Params) -> str:
    if params.guidance_scale == 1:
        return ""
    low, high = params.guidance_interval
    scale = f"$w = {params.guidance_scale:g}$"
    said = say("Sampling uses classifier-free guidance [@ho2022] with {w}:", w=scale)
    if (low, high) != (0, 1):
        said = say("Sampling uses classifier-free guidance [@ho2022] with {w} at timesteps with "
                   "$t / T$ from {low} to {high}, and no guidance elsewhere [@kynkaanniemi2024]:",
                   w=scale, low=f"{low:g}", high=f"{high:g}")
    return (f"\n\n{said}\n\n"
            r"$$\hat f = f_\theta(x_t, t, \varnothing) + w \left( f_\theta(x_t, t, y) - "
            r"f_\theta(x_t, t, \varnothing) \right) .$$"
            + ("\n\n" + say("Without the label the network is given no positions either.")
               if params.layout else ""))


def _classifier_guidance_text(params: Params) -> str:
    if not params.evaluator_guidance:
        return say("The evaluator takes no part in sampling.")
    return (say("**The evaluator that scores the images also guides their sampling** (classifier "
                "guidance [@dhariwal2021]): each step moves the predicted image towards a higher "
                "likelihood of the label, with {s}:", s=f"$s = {params.evaluator_guidance:g}$")
            + "\n\n"
            r"$$\hat x_0 \leftarrow \hat x_0 + s\,(1 - \bar\alpha_t)\,\nabla_{\hat x_0} \log "
            r"p(y \mid \hat x_0) .$$"
            "\n\n" + say("Its scores of these images are biased and say little about the network."))


@if_present("evaluator")
def evaluator_text(facts: Facts) -> str:
    """Return which evaluator scored the images."""
    evaluator, second = facts.metrics["evaluator"], facts.metrics.get("second")
    also = say("As a second verdict, the released stand-in scores the same images.")
    if evaluator["kind"] == "official":
        return prose(
            say("The images are scored by the **official evaluator** of the course, a ResNet-18 "
                "[@he2016] with 24 sigmoid outputs." if evaluator.get("known", True) else
                "The images are scored by a checkpoint with the architecture of the official "
                "evaluator, a ResNet-18 [@he2016] with 24 sigmoid outputs. Its SHA-256 is not the "
                "published one, so its origin is unknown."),
            also if second else "",
            _heldout_text(second["evaluator"]) if second else "")
    return prose(
        say("The images are scored by a **released stand-in**, which comes with the package: a "
            "network with 24 sigmoid outputs that was trained on rendered scenes."
            if evaluator.get("released") else
            "The images are scored by a **private stand-in**: a network with 24 sigmoid outputs "
            "that was trained on rendered scenes."),
        _heldout_text(evaluator),
        say("Its scores are not those of the official evaluator."),
        also if second else "")


def _heldout_text(evaluator: Mapping[str, Any]) -> str:
    """The stand-in's own accuracy, as far as it was measured."""
    more = [say(what, micro=decimals(evaluator[key])) for key, what in (
        ("heldout_augmented_micro", "{micro} after blur, noise and shifts"),
        ("heldout_crowded_micro", "{micro} on scenes of up to 5 objects")) if evaluator.get(key)]
    return prose(
        say("On {images} held-out rendered images of 1 to 3 objects the stand-in's own micro "
            "accuracy is {micro}.", images=count(evaluator["heldout_images"]),
            micro=decimals(evaluator["heldout_micro"])),
        say("It is {more}.", more=listed(more)) if more else "").strip()
