"""Sentences of the report on how the run was made: data, network, training, sampling, evaluator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cddpm_core.facts import Facts, needs
from cddpm_core.labels import CONDITION_FILES
from cddpm_core.markdown import code, count, listed, share
from cddpm_core.params import Params

__all__ = ["comparison_text", "data_text", "evaluator_text", "model_text", "objective_text",
           "sampling_text", "schedule_text"]

PREDICTIONS = {
    "epsilon": (r"the noise $\epsilon$ itself", r"\epsilon"),
    "v_prediction": (r"the velocity $v$", r"\sqrt{\bar\alpha_t}\,\epsilon - "
                                          r"\sqrt{1 - \bar\alpha_t}\,x_0"),
    "sample": (r"the clean image $x_0$", "x_0"),
}


@needs("data", "data")
def data_text(facts: Facts) -> str:
    """Return where the images come from, and their labels in numbers."""
    data = facts.metrics["data"]
    source = {"rendered": "The images are **rendered scenes** that imitate i-CLEVR: the same "
                          "objects, colours and fixed camera, drawn by this package; they are not "
                          "the course's images.",
              "real": "The images are the **real i-CLEVR images** of the course."}[data["kind"]]
    sizes = listed([f"{count(images)} with {size}" for size, images
                    in data["objects_per_image"].items()])
    counts = data["per_object"].values()
    seen = listed([f"{part['seen']} of the {part['sets']} label sets of {code(name + '.json')}"
                   for name, part in data["overlap"].items()])
    mean, std = (", ".join(f"{v:.3f}" for v in data[key]).replace("-", "−")
                 for key in ("pixel_mean", "pixel_std"))
    return (f"{source} There are {count(data['images'])} of them: {sizes} objects. Each of the 24 "
            f"objects is in {count(min(counts))} to {count(max(counts))} images, and there are "
            f"{count(data['label_sets'])} distinct label sets; {seen} are among them."
            f"{_holdout_text(data)} In [−1, 1] the channels have the means {mean} and the standard "
            f"deviations {std}.\n")


def _holdout_text(data: Mapping[str, Any]) -> str:
    if not data.get("left_out"):
        return ""
    return (f" The {count(data['left_out'])} images whose label set is in "
            f"{' or '.join(code(name + '.json') for name in CONDITION_FILES)} were **left out of "
            "training**: no training image shows exactly what is asked for below, though images "
            "that show it beside other objects were kept.")


@needs("data")
def comparison_text(facts: Facts) -> str:
    """Return how near the renders come to the real frames they were compared with."""
    frames = facts.metrics["data"].get("reference")
    if not frames:
        return ""
    worst = max(frames, key=lambda frame: frame["difference"])
    inside = max(frames, key=lambda frame: frame["difference_in_boxes"])
    named = sum(len(frame["objects"]) for frame in frames)
    return (f"In {len(frames)} real frames {named} objects were found by fitting renders to them, "
            "from the pixels alone unless the folder has labels. At 64 × 64 the renders differ "
            f"from the frames by at most {worst['difference']:.2f} of 255 levels on average "
            f"({code(worst['file'])}), and by at most {inside['difference_in_boxes']:.2f} inside "
            f"the objects' boxes ({code(inside['file'])}). What still differs: objects cast no "
            "shadow on one another, light that one object throws on the next is left out, and "
            "edges are smoother than those of the real renders.\n")


def model_text(facts: Facts) -> str:
    """Return the network in words."""
    p, trained = facts.params, facts.metrics.get("train", {})
    top, bottom = trained.get("rows") or (0, p.image_size)
    patch = "" if p.patch_size == 1 else (
        f" A pixel-unshuffle by {p.patch_size} turns the image into "
        f"{3 * p.patch_size**2} channels of {(bottom - top) // p.patch_size} × "
        f"{p.image_size // p.patch_size} before the first convolution; the inverse follows the "
        "last one.")
    trimmed = "" if bottom - top == p.image_size else (
        f" It draws the rows {top} to {bottom - 1} of {p.image_size}: in the others the training "
        "images hardly vary (no pixel by a standard deviation above 2 of 255, but for rows "
        "taken along to fit the levels), and the mean training image stands there.")
    size = trained.get("parameters")
    size = f" It has {size / 1e6:.1f} million parameters." if size else ""
    enters = ("scales and shifts the normalised features" if p.time_scale_shift == "scale_shift"
              else "is added to the features")
    tokens = p.conditioning == "object_tokens"
    library = "UNet2DConditionModel" if tokens else "UNet2DModel"
    kind = (f"diffusers' {code(library)}" if p.backbone == "unet" else
            "a U-ViT: residual convolutions at the finer levels, and at the last one a transformer "
            f"of {p.transformer_blocks} blocks with self-attention over all places")
    read = ("the attention layers read these tokens beside the places of the image"
            if p.backbone == "unet" else "these tokens are members of the transformer's sequence "
            "beside the places of the image, so that a token can find its place")
    binding = (
        f"In addition every object asked for is a learned token, and {read}. A token stands for a "
        "colour and its shape together, which a sum of embeddings does not keep together."
        + (" To each is added a learned token of its place in the label: the objects were placed "
           "in the order in which the labels name them, the first at the centre."
           if p.ordered_tokens else "")
        if tokens else
        "A summed embedding says which objects there are; which colour belongs to which shape the "
        "network has to keep apart by itself.")
    return (f"The network is a U-Net with {len(p.blocks)} levels ({kind}).{trimmed}{patch}{size} "
            "The label $y$ goes through a linear layer, and the result is added to the embedding "
            "of the timestep:\n\n"
            r"$$e = \operatorname{MLP}(\operatorname{sinusoid}(t)) + W y + b .$$"
            f"\n\nIn every residual layer this sum, {p.class_emb_size} wide, {enters}. "
            f"{binding}{_layout_text(facts)}\n")


def _layout_text(facts: Facts) -> str:
    if not facts.params.layout:
        return ""
    if facts.metrics.get("train", {}).get("layouts") == 0:
        return ("\n\nThe parameter *layout* asks for places of objects, but the data has no frames "
                "of scenes that grow by one object each, so that none are known and none used.")
    return ("\n\n**The network is told where each object is to stand.** The training images come "
            "as frames of scenes, each with one object more than the one before, the last that its "
            "label names: where the two differ is that object's place, and no other annotation "
            "is used. A learned embedding of the object is laid there, over the nearest cells, "
            "as further channels of the input. With the probability with which labels are dropped, "
            "places are too. For an image to be drawn the places are those of a training scene "
            f"that the image's seed chooses{_choices_text(facts.params.layout_choices)}; "
            "what the objects are has no part in it. This splits the drawing in two, "
            "$p(x \\mid y) = \\sum_\\ell p(\\ell \\mid |y|)\\, p(x \\mid y, \\ell)$ with the "
            "layouts $\\ell$ of training scenes for $|y|$ objects"
            + ("." if facts.params.layout_choices == 1 else
               ", of which $p(\\ell \\mid |y|)$ prefers those where no object stands close to "
               "another: scenes as crowded as the training data has them are drawn more rarely "
               "than there."))


def _choices_text(choices: int) -> str:
    return "" if choices == 1 else (
        f": of {choices} scenes that it draws, the one whose two nearest objects are farthest "
        "apart on the image")


def schedule_text(params: Params) -> str:
    """Return the noise schedule and the timesteps trained on."""
    median = params.num_train_timesteps / (1 + math.exp(-params.timestep_shift))
    drawn = ("uniformly from all of 0, …, T − 1" if params.timestep_sampling == "uniform" else
             rf"as $\lfloor T\,\sigma(z)\rfloor$ with $z \sim \mathcal{{N}}"
             rf"({params.timestep_shift:g}, 1)$ and the logistic function "
             rf"$\sigma$, whose median is t = {median:.0f}")
    return (f"The schedule is {code(params.beta_schedule)} with T = "
            f"{params.num_train_timesteps}. Timesteps are drawn {drawn}.\n")


def objective_text(params: Params) -> str:
    """Return what the network predicts and the loss, with their formulas."""
    name, formula = PREDICTIONS[params.prediction_type]
    scaled = (f"Here $x_0$ is the image minus the mean training image, divided by "
              f"{params.data_scale:g}: i-CLEVR is of low contrast, and unscaled its objects would "
              "be lost in noise for most of the steps. " if params.standardise else
              "Here $x_0$ is the image in [−1, 1]. ")
    dropped = (f" With probability {params.label_drop:g} the label $y$ is replaced by zeros, so "
               "that the network learns the unconditional prediction as well."
               if params.label_drop else "")
    symbol, weighted = ("", "") if params.loss_weighting == "uniform" else (
        r"w_t\," , " " + _weight_text(params))
    return (f"{scaled}The network predicts {name}. It minimises the mean over "
            "images, noise, timesteps and pixels of the squared error,\n\n"
            rf"$$\mathcal{{L}} = \mathbb{{E}}_{{x_0, y, t, \epsilon}} \left[ {symbol}\left( "
            rf"f_\theta(x_t, t, y) - \left({formula}\right) \right)^2 \right] .$$"
            f"\n\nThe label $y$ is multi-hot.{dropped}{weighted}\n")


def _weight_text(params: Params) -> str:
    if params.loss_weighting == "balanced":
        return ("The weight $w_t$ is the inverse of the mean error that images near the timestep "
                "$t$ have had so far, times that of all: every noise level counts the same, the "
                "high ones, where little is to be known, no more than the low ones, which make "
                "the picture sharp.")
    ratio = r"\bar\alpha_t / (1 - \bar\alpha_t)"
    kind = ("that of $v$" if params.loss_weighting == "velocity"
            else "its signal-to-noise ratio")
    wanted = f"1 + {ratio}" if params.loss_weighting == "velocity" else ratio
    own = {"sample": "", "epsilon": f" / ({ratio})",
           "v_prediction": f" / (1 + {ratio})"}[params.prediction_type]
    return (rf"The weight $w_t = \min({wanted},\ {params.loss_weight_max:g}){own}$ makes the error "
            f"of $x_0$ count as {kind} would, up to a bound.")


def sampling_text(params: Params) -> str:
    """Return the sampler and the guidance with their formulas."""
    steps = params.num_inference_steps
    walk = {
        "ddpm": f"Images are drawn by ancestral sampling over all {steps} timesteps (DDPM):\n\n"
                r"$$x_{t-1} = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1 - \bar\alpha_t}\,\hat x_0 "
                r"+ \frac{\sqrt{\alpha_t}\,(1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}\,x_t "
                r"+ \sigma_t z .$$",
        "ddim": f"Images are drawn in {steps} deterministic DDIM steps from $t$ to an earlier "
                "$s$:\n\n"
                r"$$x_s = \sqrt{\bar\alpha_s}\,\hat x_0 + \sqrt{1 - \bar\alpha_s}\,"
                r"\hat\epsilon .$$",
        "dpm_solver++": f"Images are drawn in {steps} steps of the second-order solver "
                        "DPM-Solver++, which follows the same probability flow as DDIM. Its "
                        "first-order step from $t$ to an earlier $s$ is\n\n"
                        r"$$x_s = \frac{\sigma_s}{\sigma_t}\,x_t - \sqrt{\bar\alpha_s}\,"
                        r"\left(e^{-h} - 1\right) \hat x_0, \qquad "
                        r"h = \log\frac{\sqrt{\bar\alpha_s}\,\sigma_t}"
                        r"{\sqrt{\bar\alpha_t}\,\sigma_s}, \qquad "
                        r"\sigma_t = \sqrt{1 - \bar\alpha_t} .$$",
        "sde_dpm_solver++": f"Images are drawn in {steps} steps of the second-order solver "
                            "SDE-DPM-Solver++, which adds fresh noise $z$ at each step and so can "
                            "correct what earlier steps got wrong. Its first-order step from $t$ "
                            "to an earlier $s$ is\n\n"
                            r"$$x_s = \frac{\sigma_s}{\sigma_t}\,e^{-h}\,x_t + "
                            r"\sqrt{\bar\alpha_s}\,\left(1 - e^{-2h}\right) \hat x_0 + "
                            r"\sigma_s \sqrt{1 - e^{-2h}}\,z, \qquad "
                            r"h = \log\frac{\sqrt{\bar\alpha_s}\,\sigma_t}"
                            r"{\sqrt{\bar\alpha_t}\,\sigma_s}, \qquad "
                            r"\sigma_t = \sqrt{1 - \bar\alpha_t} .$$",
        "unipc": f"Images are drawn in {steps} steps of the second-order predictor-corrector "
                 "UniPC, which follows the same probability flow as DDIM and corrects each step "
                 "by the network's answer at its end.",
        "heun": f"Images are drawn in {steps} steps of Heun's second-order method along the "
                r"probability flow, in terms of $\bar x_t = x_t / \sqrt{\bar\alpha_t}$ and "
                r"$s_t = \sqrt{1 - \bar\alpha_t} / \sqrt{\bar\alpha_t}$. From $t$ to an "
                "earlier $s$ it is\n\n"
                r"$$\bar x_s = \bar x_t + (s_s - s_t) \cdot \tfrac{1}{2} \left( "
                r"\hat\epsilon_\theta(x_t, t) + \hat\epsilon_\theta(x'_s, s) \right) ,$$"
                "\n\n" r"with $x'_s$ from a first step by $\hat\epsilon_\theta(x_t, t)$ alone. "
                "All steps but the last so ask the network twice.",
    }[params.sampler]
    low, high = params.guidance_interval
    where = "" if (low, high) == (0, 1) else (
        f" at the timesteps from {low:g} to {high:g} of $T$, and without guidance at the others")
    guided = "" if params.guidance_scale == 1 else (
        f"\n\nThe prediction is guided without a classifier{where}, with "
        f"$w = {params.guidance_scale:g}$:\n\n"
        r"$$\hat f = f_\theta(x_t, t, \varnothing) + w \left( f_\theta(x_t, t, y) - "
        r"f_\theta(x_t, t, \varnothing) \right) .$$")
    judged = "The evaluator takes no part in sampling." if not params.evaluator_guidance else (
        "**The evaluator that scores the images also guides them**: at each step it pulls the "
        f"predicted image to where the label is likelier, with $s = {params.evaluator_guidance:g}$:"
        "\n\n"
        r"$$\hat x_0 \leftarrow \hat x_0 + s\,(1 - \bar\alpha_t)\,\nabla_{\hat x_0} \log "
        r"p(y \mid \hat x_0) .$$"
        "\n\nIts scores of these images say little about what the network has learned.")
    return (f"{walk}{guided}\n\nEach image has a random generator of its own, so that it does "
            f"not depend on the batch it is drawn in. {_choice_text(params)}{judged}\n")


def _choice_text(params: Params) -> str:
    if params.candidates == 1:
        return ""
    return (f"For each label set {params.candidates} images are drawn, and **the network itself "
            "keeps one of them**. It takes noise off each, at several noise levels $t$, once with "
            "the label $y$ and once without each object $j$ of it. What leaving out an object "
            "adds to the error says how much the image speaks for that object, and kept is the "
            "image with the greatest\n\n"
            r"$$\min_{j \in y} \sum_t w_t \left( \left\| \hat x_0(x_t, t, y \setminus j) - x_0 "
            r"\right\|^2 - \left\| \hat x_0(x_t, t, y) - x_0 \right\|^2 \right), \qquad "
            r"w_t = \frac{\sqrt{\bar\alpha_t}}{\sqrt{\bar\alpha_t} + "
            r"\sqrt{1 - \bar\alpha_t}} .$$"
            "\n\nDiffusion models classify images in this way (Li et al. 2023). ")


@needs("evaluator", "train")
def evaluator_text(facts: Facts) -> str:
    """Return which evaluator judged the images."""
    evaluator = facts.metrics["evaluator"]
    if evaluator["kind"] == "official":
        known = ("" if evaluator.get("known", True) else
                 " Its SHA-256 is not the published one, so that its origin is unknown.")
        return f"The images are judged by the **official evaluator** of the course.{known}\n"
    return ("The images are judged by a **stand-in** of the official evaluator's architecture "
            "(ResNet-18 with 24 sigmoid outputs), trained on rendered scenes. On "
            f"{count(evaluator['heldout_images'])} held-out rendered images its own micro accuracy "
            f"is {share(evaluator['heldout_micro'])} (scenes of 1 to 3 objects as rendered; "
            f"{share(evaluator['heldout_augmented_micro'])} after blur, noise and shifts, and "
            f"{share(evaluator['heldout_crowded_micro'])} on scenes of up to 5). Its scores are "
            "not comparable with those of the official evaluator.\n")
