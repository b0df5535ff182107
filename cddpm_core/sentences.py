"""Sentences of the report, each computed from what the run has written.

A sentence that states a result can so not disagree with its table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cddpm_core.compare import Group
from cddpm_core.facts import Facts, needs
from cddpm_core.labels import CONDITION_FILES
from cddpm_core.markdown import code, count, duration, listed, share, with_interval
from cddpm_core.params import Params

__all__ = ["comparison_text", "data_text", "denoise_text", "discussion", "error_kinds",
           "evaluator_text", "experiment_text", "model_text", "objective_text", "published_text",
           "result_text", "runs_text", "sampling_text", "schedule_text", "summary_text",
           "training_text"]

PREDICTIONS = {
    "epsilon": (r"the noise $\epsilon$ itself", r"\epsilon"),
    "v_prediction": (r"the velocity $v$", r"\sqrt{\bar\alpha_t}\,\epsilon - "
                                          r"\sqrt{1 - \bar\alpha_t}\,x_0"),
    "sample": (r"the clean image $x_0$", "x_0"),
}


@needs("test", "evaluate")
def summary_text(facts: Facts) -> str:
    """Return the result in two sentences, for the introduction."""
    found = listed([f"{share(facts.metrics[name]['micro'])} on {code(name + '.json')}"
                    for name in CONDITION_FILES])
    return (f"In this run the share of objects found (micro accuracy) is {found}. All numbers, "
            f"figures and sentences on results come from one run, {code(facts.run.name)}: "
            f"{facts.origin()}.\n")


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
        if tokens else
        "A summed embedding says which objects there are; which colour belongs to which shape the "
        "network has to keep apart by itself.")
    return (f"The network is a U-Net with {len(p.blocks)} levels ({kind}).{trimmed}{patch}{size} "
            "The label $y$ goes through a linear layer, and the result is added to the embedding "
            "of the timestep:\n\n"
            r"$$e = \operatorname{MLP}(\operatorname{sinusoid}(t)) + W y + b .$$"
            f"\n\nIn every residual layer this sum, {p.class_emb_size} wide, {enters}. "
            f"{binding}\n")


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
    }[params.sampler]
    guided = "" if params.guidance_scale == 1 else (
        "\n\nThe prediction is guided without a classifier, with "
        f"$w = {params.guidance_scale:g}$:\n\n"
        r"$$\hat f = f_\theta(x_t, t, \varnothing) + w \left( f_\theta(x_t, t, y) - "
        r"f_\theta(x_t, t, \varnothing) \right) .$$")
    return (f"{walk}{guided}\n\nEach image has a random generator of its own, so that it does "
            "not depend on the batch it is drawn in. The evaluator takes no part in sampling.\n")


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


@needs("train", "train")
def training_text(facts: Facts) -> str:
    """Return how far and how fast the training went."""
    train = facts.metrics["train"]
    unfinished = "" if train["finished"] else (
        "**The training is not finished**: it was stopped early, and all results below are those "
        "of an unfinished model. ")
    return (f"{unfinished}Training took {count(train['steps'])} steps on {count(train['images'])} "
            f"images in {duration(train['seconds'])}, {count(train['images_per_second'])} images "
            f"a second on {train['device']}. The loss ended at {train['loss']:.4f}.\n")


@needs("test", "evaluate")
def result_text(facts: Facts) -> str:
    """Return both accuracies and how the images were drawn, in words."""
    parts = []
    for name in CONDITION_FILES:
        part = facts.metrics[name]
        parts.append(f"In {code(name + '.json')} {part['hits']} of {part['objects']} objects were "
                     f"found, a micro accuracy of {share(part['micro'])}; the macro accuracy is "
                     f"{share(part['macro'])}, and {part['solved']} of {part['images']} images "
                     "have all their objects.")
    sampled = facts.metrics["sample"]
    speed = (f"The images were drawn with {code(sampled['sampler'])} in "
             f"{sampled['num_inference_steps']} steps, guidance {sampled['guidance_scale']:g}, at "
             f"{sampled['images_per_second']:.2f} images a second.")
    return " ".join([*parts, speed]) + "\n"


@needs("denoise", "denoise")
def denoise_text(facts: Facts) -> str:
    """Return what the denoising figures show."""
    films = listed([f"{', '.join(film['labels'])} (row {film['row']} of {code(name + '.json')})"
                    for name, film in facts.metrics["denoise"].items()])
    return (f"The figures show how {films} come out of noise: the state $x_t$ of the sampler and "
            "the image $\\hat x_0$ that the network predicts from it. *Normalised* are the values "
            "the network sees, stretched image by image to [0, 1]; *denormalised* are the "
            "same values as a picture, cut off where they leave its range.\n")


@needs("timesteps", "timesteps")
def experiment_text(facts: Facts) -> str:
    """Return what the timesteps experiment found."""
    first, second = facts.metrics["timesteps"]["arms"]
    findings = []
    for name in CONDITION_FILES:
        gain = second[name]["micro"] - first[name]["micro"]
        objects = facts.metrics["timesteps"]["objects"][name]
        change = ("leaves the micro accuracy as it is" if gain == 0 else
                  f"{'raises' if gain > 0 else 'lowers'} the micro accuracy by "
                  f"{share(abs(gain))} ({round(abs(gain) * objects)} of {objects} objects)")
        findings.append(f"on {code(name + '.json')} it {change}")
    return (f"Training with T = {second['num_train_timesteps']} instead of "
            f"{first['num_train_timesteps']}, all else equal: {listed(findings)}. Both arms are "
            f"compared after {first['epochs']} of the {facts.params.epochs} epochs of the same "
            "training. Each is one training with one seed; differences of a few objects are "
            "within chance.\n")


def runs_text(facts: Facts, groups: Sequence[Group]) -> str:
    """Return how the run does over seeds, and which others lie above or below it on both files."""
    if sum(len(group.runs) for group in groups) < 2:
        return ("No other runs were named to compare this one with: parameter "
                f"{code('runs')}, or {code('make seeds')} and {code('make ablations')}.\n")
    first, *others = groups
    said = []
    if len(first.runs) > 1:
        scores = listed([f"{with_interval(*first.micro(name))} on {code(name + '.json')}"
                         for name in CONDITION_FILES])
        said.append(f"Over {len(first.runs)} seeds ({listed([str(s) for s in first.seeds])}) the "
                    f"configuration of this run reaches a mean micro accuracy of {scores}.")
    for direction, word in ((1, "above"), (-1, "below")):
        names = [code(group.name) for group in others if all(
            direction * (group.micro(name)[0] - first.micro(name)[0]) > 0
            for name in CONDITION_FILES)]
        if names:
            said.append(f"On both files {listed(names)} {'are' if len(names) > 1 else 'is'} "
                        f"{word} it.")
    if any(len(group.runs) < 2 for group in groups):
        said.append("A row of one seed carries no interval.")
    return " ".join(said) + "\n"


def error_kinds(scored: Mapping[str, Any]) -> dict[str, int]:
    """Return how often a missed object was seen in another colour, another shape, or neither.

    Each missed label is paired with an object seen instead: one of its shape
    if there is one, else one of its colour, else any.
    """
    kinds = {"colour": 0, "shape": 0, "both": 0}
    for condition in scored["conditions"]:
        missed = [n for n in condition["labels"] if n not in condition["predicted"]]
        extra = [n for n in condition["predicted"] if n not in condition["labels"]]
        for kind, word in (("colour", 1), ("shape", 0)):
            for name in list(missed):
                twin = next((n for n in extra if n.split()[word] == name.split()[word]), None)
                if twin:
                    missed.remove(name)
                    extra.remove(twin)
                    kinds[kind] += 1
        kinds["both"] += len(missed)
    return kinds


@needs("test", "evaluate")
def discussion(facts: Facts) -> str:
    """Return what fails and what does not, in sentences over both condition files."""
    items = []
    for name in CONDITION_FILES:
        scored, file = facts.scores[name], code(f"{name}.json")
        kinds = error_kinds(scored)
        missed = sum(kinds.values())
        if not missed:
            items.append(f"In {file} nothing was missed.")
            continue
        counts = {size: t["hits"] / t["total"] for size, t in sorted(scored["per_count"].items())}
        items.append(f"In {file} {missed} objects were missed. In place of {kinds['colour']} of "
                     "them the evaluator saw the same shape in another colour, of "
                     f"{kinds['shape']} the same colour in another shape, of {kinds['both']} an "
                     "object that differs in both.")
        items.append(f"In {file} the share found is "
                     + listed([f"{share(v)} for {size} object{'s' * (size != '1')}"
                               for size, v in counts.items()])
                     + f"; the weakest colour is {_weakest(scored['per_colour'])}, the weakest "
                       f"shape {_weakest(scored['per_shape'])}.")
    return "\n".join(f"- {item}" for item in items) + "\n"


def _weakest(tallies: Mapping[str, Mapping[str, int]]) -> str:
    name = min(tallies, key=lambda key: tallies[key]["hits"] / tallies[key]["total"])
    return f"{name} ({tallies[name]['hits']} of {tallies[name]['total']})"


def published_text(facts: Facts) -> str:
    """Return whether this run's scores may be set beside the published ones."""
    data = facts.metrics.get("data", {}).get("kind")
    kind = facts.metrics.get("evaluator", {}).get("kind")
    if (data, kind) == ("real", "official"):
        return ("This run used the real data and the official evaluator too: its scores are "
                "comparable with published ones of the same metric.\n")
    return ("The published scores are of real data and the official evaluator. This run's are of "
            f"another kind ({facts.origin()}): neither column says anything about the other, and "
            "they stand in tables of their own.\n")
