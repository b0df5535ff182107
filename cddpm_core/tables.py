"""The tables and captioned figures of the notebooks and the report, as Markdown."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from cddpm_core.compare import Group
from cddpm_core.facts import Facts, needs
from cddpm_core.images import FolderFiles
from cddpm_core.labels import COLOURS, CONDITION_FILES, SHAPES
from cddpm_core.markdown import code, count, duration, escape, share, table, with_interval
from cddpm_core.params import FIELDS, Params
from cddpm_core.runs import headless

__all__ = ["accuracy_table", "comparison_table", "condition_table",
           "configuration_table", "denoising_figures", "figure", "files_table", "label_table",
           "object_table", "provenance_table", "runs_table", "stage_table", "timesteps_grids",
           "timesteps_table", "training_table", "unet_table"]

TRAINING_KEYS = ("epochs", "batch_size", "optimizer", "learning_rate", "muon_learning_rate",
                 "lr_schedule", "lr_warmup_steps", "label_drop", "ema_decay", "mixed_precision",
                 "compile", "num_train_timesteps", "beta_schedule", "prediction_type",
                 "timestep_sampling", "timestep_shift", "loss_weighting", "loss_weight_max",
                 "standardise", "trim_rows", "data_scale", "seed")
# Facts about the labels of the lab's real set.
COURSE_LABELS = {
    "images": "18,009", "images with 1 object": "6,003", "images with 2 objects": "6,003",
    "images with 3 objects": "6,003", "images with an object, least": "1,422",
    "images with an object, most": "1,577", "distinct label sets": "2,188",
    "label sets of test.json among them": "31 of 32",
    "label sets of new_test.json among them": "32 of 32"}
# Parameters that mean nothing unless another one has a certain value.
ONLY_WITH = {"muon_learning_rate": ("optimizer", ("muon",)), "data_scale": ("standardise", (True,)),
             "trim_rows": ("standardise", (True,)),
             "timestep_shift": ("timestep_sampling", ("logit_normal",)),
             "loss_weight_max": ("loss_weighting", ("velocity", "min_snr"))}


def figure(facts: Facts, name: str, alt: str, caption: str) -> str:
    """Return ``figures/<name>.png`` with alt text and caption, or nothing if it is not there.

    Both texts are Markdown and are followed by the data and the evaluator.
    """
    path = facts.run / f"figures/{name}.png"
    if not path.exists():
        return ""
    # A link is relative to the notebook: the run's folder, or by hand the working directory.
    relative = os.path.relpath(path, facts.run.folder if headless() else Path.cwd())
    origin = escape(facts.origin())
    return f"![{alt} ({origin})]({relative})\n\n*{caption} ({origin}.)*\n"


def denoising_figures(facts: Facts, name: str) -> str:
    """Return the film of one label set, normalised and denormalised."""
    film = facts.metrics.get("denoise", {}).get(name)
    if not film:
        return ""
    what = f"{', '.join(film['labels'])} ({name}.json, row {film['row']})"
    return "\n".join(
        figure(facts, f"denoise_{name}_{kind}",
               f"Sampler state and predicted image at {len(film['timesteps'])} moments from noise "
               f"to image, {kind}",
               f"Denoising of {escape(what)}, {kind}: $x_t$ above, predicted $x_0$ below.")
        for kind in ("normalised", "denormalised"))


def timesteps_grids(facts: Facts, name: str) -> str:
    """Return the grids of both arms of the timesteps experiment for a condition file."""
    arms = facts.metrics.get("timesteps", {}).get("arms", ())
    return "\n".join(
        figure(facts, f"timesteps_{index}_{name}_grid",
               f"The images drawn for {escape(name)}.json with T = {arm['num_train_timesteps']}",
               f"{escape(name)}.json with T = {arm['num_train_timesteps']}, from the same seeds "
               "as the other arm.")
        for index, arm in enumerate(arms))


def files_table(files: FolderFiles) -> str:
    """Return how many images of a data folder are named, there, missing and surplus."""
    def row(what: str, names: Sequence[str]) -> list[str]:
        shown = ", ".join(map(code, names[:3])) + (", …" if len(names) > 3 else "")
        return [what, count(len(names)), shown or "–"]

    there = [name for name in files.named if name not in set(files.missing)]
    return table(["images", "number", "such as"],
                 [row("named by train.json", files.named), row("of these there", there),
                  row("of these missing", files.missing),
                  row("there and not named", files.surplus)],
                 f"Files in {code(files.images)}.", numbers=False)


@needs("data")
def label_table(facts: Facts) -> str:
    """Return the label statistics beside those of the course's ``train.json``."""
    data = facts.metrics["data"]
    per_object = data["per_object"].values()
    here = {"images": count(data["images"]),
            **{f"images with {n} object{'s' * (n > 1)}":
               count(data["objects_per_image"].get(str(n), 0)) for n in (1, 2, 3)},
            "images with an object, least": count(min(per_object)),
            "images with an object, most": count(max(per_object)),
            "distinct label sets": count(data["label_sets"]),
            **{f"label sets of {name}.json among them":
               f"{data['overlap'][name]['seen']} of {data['overlap'][name]['sets']}"
               for name in CONDITION_FILES}}
    rows = [[what, value, COURSE_LABELS[what]] for what, value in here.items()]
    return table(["labels", "this run", "course's train.json"], rows,
                 f"Label statistics; this run: {escape(facts.origin())}.")


@needs("data")
def comparison_table(facts: Facts) -> str:
    """Return how far renders are from the real frames they were compared with."""
    rows = [[code(frame["file"]), ", ".join(frame["objects"]), f"{frame['difference']:.2f}",
             f"{frame['difference_in_boxes']:.2f}"]
            for frame in facts.metrics["data"].get("reference", [])]
    return table(["frame", "objects found", "difference", "in objects' boxes"], rows,
                 "Mean absolute difference of 255 levels at 64 × 64 between real frames and the "
                 "same scenes rendered.", numbers=False) if rows else ""


@needs("test")
def accuracy_table(facts: Facts) -> str:
    """Return micro and macro accuracy of both condition files, also without a choice of images."""
    rows = []
    for name in CONDITION_FILES:
        part = facts.metrics[name]
        rows.append([code(f"{name}.json"), share(part["micro"]), share(part["macro"]),
                     f"{part['hits']} of {part['objects']}",
                     f"{part['solved']} of {part['images']}"])
        if "first" in part:
            rows.append([f"the same, first of {facts.params.candidates} images",
                         share(part["first"]["micro"]), share(part["first"]["macro"]), "–", "–"])
    caption = f"Accuracy on the two condition files ({facts.origin()}{facts.chosen()})."
    return table(["conditions", "micro", "macro", "objects found", "images all right"], rows,
                 caption)


@needs("test")
def object_table(facts: Facts, name: str) -> str:
    """Return hits of total for each object of a condition file, colour by shape."""
    per_object = facts.scores[name]["per_object"]
    rows = []
    for colour in COLOURS:
        tallies = [per_object.get(f"{colour} {shape}", {"hits": 0, "total": 0})
                   for shape in SHAPES]
        rows.append([colour, *(f"{t['hits']} of {t['total']}" if t["total"] else "–"
                               for t in tallies)])
    caption = f"Objects found of objects asked for in {code(name + '.json')} "
    caption += f"({facts.origin()}{facts.chosen()})."
    return table(["colour", *SHAPES], rows, caption)


@needs("test")
def condition_table(facts: Facts, name: str, most: int = 8) -> str:
    """Return the conditions of a file with the lowest accuracy, hardest first."""
    numbered = list(enumerate(facts.scores[name]["conditions"]))
    failed = sorted((item for item in numbered if not all(item[1]["hits"])),
                    key=lambda item: (item[1]["accuracy"], item[0]))
    if not failed:
        return f"In {code(name + '.json')} every object was found.\n"
    rows = []
    for row, found in failed[:most]:
        missed = [n for n, hit in zip(found["labels"], found["hits"], strict=True) if not hit]
        extra = [n for n in found["predicted"] if n not in found["labels"]]
        asked = [n for n in found["labels"] if n not in missed]
        rows.append([str(row), share(found["accuracy"]), ", ".join(asked) or "–",
                     ", ".join(missed), ", ".join(extra)])
    shown = (f"The {len(rows)} of {len(failed)} conditions of lowest accuracy"
             if len(failed) > len(rows) else "All conditions with an object missed")
    caption = (f"{shown} in {code(name + '.json')}; rows count from 0 "
               f"({facts.origin()}{facts.chosen()}).")
    return table(["row", "accuracy", "found", "missed", "seen instead"], rows, caption,
                 numbers=False)


def configuration_table(params: Params, keys: Sequence[str], caption: str) -> str:
    """Return the given parameters with their values and meanings."""
    values = params.to_dict()
    rows = [[code(key), code(values[key]), FIELDS[key].metadata["help"]] for key in keys]
    return table(["parameter", "value", "meaning"], rows, caption, numbers=False)


def training_table(params: Params) -> str:
    """Return the parameters of training that have a meaning in this configuration."""
    values = params.to_dict()
    keys = [key for key in TRAINING_KEYS
            if key not in ONLY_WITH or values[ONLY_WITH[key][0]] in ONLY_WITH[key][1]]
    return configuration_table(params, keys, "Training configuration.")


def unet_table(params: Params, drawn: Sequence[int] = ()) -> str:
    """Return the levels of the network: resolution, channels and kind.

    ``drawn`` are the rows of the image that the network draws; empty for all.
    """
    width, rows = params.class_emb_size // 4, []
    top, bottom = drawn or (0, params.image_size)
    for level, (attention, multiple) in enumerate(zip(params.blocks, params.channels, strict=True)):
        height, side = (pixels // params.patch_size // 2**level
                        for pixels in (bottom - top, params.image_size))
        layers = params.layers_per_block
        made_of = f"{layers} residual down, {layers + 1} up"
        if params.backbone == "u_vit":
            made_of = f"{layers} residual down, {layers} up"
            if level == len(params.blocks) - 1:
                made_of = f"{params.transformer_blocks} transformer blocks"
        rows.append([str(level + 1), f"{height} × {side}", str(width * multiple), made_of,
                     "yes" if attention else "no"])
    return table(["level", "resolution", "channels", "layers", "attention"], rows,
                 "Levels of the U-Net, from its actual configuration.")


@needs("timesteps")
def timesteps_table(facts: Facts) -> str:
    """Return the accuracies of the arms of the timesteps experiment side by side."""
    rows = []
    for arm in facts.metrics["timesteps"]["arms"]:
        rows.append([str(arm["num_train_timesteps"]), str(arm["num_inference_steps"]),
                     *(share(arm[name][metric]) for name in CONDITION_FILES
                       for metric in ("micro", "macro")),
                     f"{arm['loss']:.4f}", duration(arm["seconds"])])
    header = ["T", "sampler steps", *(f"{name} {metric}" for name in CONDITION_FILES
                                      for metric in ("micro", "macro")), "loss", "training"]
    return table(header, rows, f"Accuracy with different numbers of timesteps ({facts.origin()}).")


def runs_table(facts: Facts, groups: Sequence[Group]) -> str:
    """Return a row a group of runs: what differs from the first, and its accuracies."""
    rows, gains = [], [group.gain(groups[0]) for group in groups]
    for group, gain in zip(groups, gains, strict=True):
        changes = "; ".join(f"{code(key)} {code(here)}" for key, (_, here) in
                            group.changes(groups[0]).items())
        rows.append([code(group.name), changes or "–", str(len(group.runs)),
                     *(with_interval(*accuracy(name)) for name in CONDITION_FILES
                       for accuracy in (group.micro, group.macro)),
                     *([with_interval(*gain, signed=True) if gain else "–"] if any(gains) else []),
                     duration(fmean(group.values("train", "seconds")))])
    header = ["run", "differs in", "seeds", *(f"{name} {metric}" for name in CONDITION_FILES
                                              for metric in ("micro", "macro")),
              *(["gain, both files"] if any(gains) else []), "training"]
    note = (f"; those with {code('evaluator_guidance')} were drawn with guidance by that evaluator"
            if any(group.guided for group in groups) else "")
    gained = ("; gain: the share of the objects of both files found more than in the first row, "
              "with its 95 % interval over label sets") if any(gains) else ""
    return table(header, rows, "Runs side by side: means over seeds with their 95 % intervals, "
                 f"where there is more than one seed{gained} ({facts.origin()}{note}).")


def provenance_table(facts: Facts) -> str:
    """Return where data, evaluator and software of the run come from."""
    metrics = facts.metrics
    rows = [["run", code(facts.run.name)], ["seed", code(facts.params.seed)]]
    for part in ("data", "evaluator"):
        if part in metrics:
            rows += [[part, metrics[part]["kind"]],
                     [f"SHA-256 of the {part}", code(metrics[part]["sha256"])]]
    rows += [[escape(key), code(value)] for key, value in metrics.get("made_with", {}).items()]
    return table(["what", "value"], rows, "Provenance of the run.", numbers=False)


def stage_table(facts: Facts) -> str:
    """Return the state of each stage and the time it took."""
    rows = [[name, stage["state"], duration(stage["seconds"]) if "seconds" in stage else "–"]
            for name, stage in facts.status.get("stages", {}).items()]
    return table(["stage", "state", "time"], rows, "Stages of the run.") if rows else ""
