"""The tables of the notebooks and the report, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cddpm_core.config.schema import FIELDS, Params, applies
from cddpm_core.data.labels import COLOURS, CONDITION_FILES, SHAPES
from cddpm_core.report.facts import (
    ACCURACIES,
    GUIDED,
    Facts,
    accuracies,
    evaluator_phrase,
    if_present,
)
from cddpm_core.report.language import say
from cddpm_core.report.markdown import code, count, decimals, duration, escape, prose, table

if TYPE_CHECKING:
    from cddpm_core.config.folders import FolderFiles

__all__ = ["accuracy_table", "comparison_table", "condition_table", "configuration_table",
           "files_table", "label_table", "object_table", "of", "timesteps_table", "training_table",
           "unet_table", "verdict_table"]

# Facts about the labels of the course's real set.
COURSE_LABELS = {
    "images": "18,009", "images with 1 object": "6,003", "images with 2 objects": "6,003",
    "images with 3 objects": "6,003", "images with an object, minimum": "1,422",
    "images with an object, maximum": "1,577", "distinct conditions": "2,188",
    "conditions of test.json among them": "31 of 32",
    "conditions of new_test.json among them": "32 of 32"}
# Parameters of other chapters that belong to the training table.
PREPARATION = ("seed", "standardise", "data_scale")


def of(part: int | str, whole: int | str) -> str:
    """Return how many of how many."""
    return say("{part} of {whole}", part=part, whole=whole)


def files_table(files: FolderFiles) -> str:
    """Return how many images of a data folder are named, found, missing and surplus."""
    def row(what: str, names: Sequence[str]) -> list[str]:
        shown = ", ".join(map(code, names[:3])) + (", …" if len(names) > 3 else "")
        return [what, count(len(names)), shown or "–"]

    return table(["images", "number", "examples"],
                 [row("in train.json", files.named), row("found", list(files.found)),
                  row("missing", files.missing),
                  row("not in train.json", files.surplus)],
                 f"Files in {code(files.images)}.", numbers=False)


@if_present("data")
def label_table(facts: Facts) -> str:
    """Return the label statistics beside those of the course's ``train.json``."""
    data = facts.metrics["data"]
    per_object = data["per_object"].values()
    here = {"images": count(data["images"]),
            **{f"images with {n} object{'s' * (n > 1)}":
               count(data["objects_per_image"].get(str(n), 0)) for n in (1, 2, 3)},
            "images with an object, minimum": count(min(per_object)),
            "images with an object, maximum": count(max(per_object)),
            "distinct conditions": count(data["conditions"]),
            **{f"conditions of {name}.json among them":
               of(data["overlap"][name]["seen"], data["overlap"][name]["conditions"])
               for name in CONDITION_FILES}}
    course = {what: of(*value.split(" of ")) if " of " in value else value
              for what, value in COURSE_LABELS.items()}
    rows = [[say(what), value, course[what]] for what, value in here.items()]
    return table(["labels", "this run", "train.json of the course"], rows,
                 say("Label statistics; this run: {origin}.", origin=escape(facts.origin())),
                 name="labels")


@if_present("data")
def comparison_table(facts: Facts) -> str:
    """Return how far renders are from the real frames they were compared with."""
    rows = [[code(frame["file"]), ", ".join(frame["objects"]), f"{frame['difference']:.2f}",
             f"{frame['difference_in_boxes']:.2f}"]
            for frame in facts.metrics["data"].get("reference", [])]
    return table(["frame", "objects found", "difference", "in bounding boxes"], rows,
                 say("Mean absolute difference, of 255 levels at 64 × 64, between real frames and "
                     "the same scenes rendered."), numbers=False, name="comparison") if rows else ""


@if_present("test")
def accuracy_table(facts: Facts) -> str:
    """Return micro and macro accuracy of both condition files, also with one layout an image."""
    rows, alone = [], {}
    for name in CONDITION_FILES:
        part = facts.metrics[name]
        alone = part.get("one_layout") or {}
        rows.append([code(f"{name}.json"), decimals(part["micro"]), decimals(part["macro"]),
                     of(part["hits"], part["objects"]), of(part["solved"], part["images"]),
                     *(decimals(alone[metric]) for metric in ("micro", "macro") if alone)])
    caption = say("Accuracy on the two condition files ({origin}).",
                  origin=facts.origin() + facts.layout_note())
    if alone:
        caption = prose(caption, say("One layout: sampled again with {setting}.",
                                     setting=code("layout_choices: 1"))).strip()
    return table(["conditions", "micro", "macro", "objects found", "images fully correct",
                  *(["micro, one layout", "macro, one layout"] if alone else [])], rows,
                 caption, name="accuracy")


@if_present("test")
def verdict_table(facts: Facts) -> str:
    """Return the accuracies of two evaluators on the same images; empty if there is only one."""
    second = facts.metrics.get("second")
    if not second:
        return ""
    guided = say("; ") + say(GUIDED) if facts.params.evaluator_guidance else ""
    rows = [[evaluator_phrase(verdict["evaluator"]) + note, *accuracies(verdict)]
            for verdict, note in ((facts.metrics, guided), (second, ""))]
    return table(["evaluator", *map(" ".join, ACCURACIES)], rows,
                 say("The same images, scored by two evaluators ({data}).",
                     data=facts.data_phrase()), name="verdicts")


@if_present("test")
def object_table(facts: Facts) -> str:
    """Return hits of total for each object, colour by shape, a set of columns for each file."""
    rows = []
    for colour in COLOURS:
        tallies = [facts.scores[name]["per_object"].get(f"{colour} {shape}", {"total": 0})
                   for name in CONDITION_FILES for shape in SHAPES]
        rows.append([colour, *(of(t["hits"], t["total"]) if t["total"] else "–" for t in tallies)])
    return table(["colour", *(f"{name} {shape}" for name in CONDITION_FILES for shape in SHAPES)],
                 rows, say("Objects found, of those asked for, in both files ({origin}).",
                           origin=facts.origin() + facts.layout_note()), name="objects")


@if_present("test")
def condition_table(facts: Facts, name: str, max_rows: int = 8) -> str:
    """Return the conditions of lowest accuracy of a file, at most ``max_rows``, hardest first."""
    numbered = list(enumerate(facts.scores[name]["conditions"]))
    failed = sorted((item for item in numbered if not all(item[1]["hits"])),
                    key=lambda item: (item[1]["accuracy"], item[0]))
    if not failed:
        return ""
    rows = []
    for row, found in failed[:max_rows]:
        missed = [n for n, hit in zip(found["labels"], found["hits"], strict=True) if not hit]
        extra = [n for n in found["predicted"] if n not in found["labels"]]
        asked = [n for n in found["labels"] if n not in missed]
        rows.append([str(row), decimals(found["accuracy"]), ", ".join(asked) or "–",
                     ", ".join(missed), ", ".join(extra)])
    caption = say("The {shown} lowest-scoring of {failed} conditions with a missed object in "
                  "{file}; rows are numbered from 0 ({origin})." if len(failed) > len(rows) else
                  "All conditions with a missed object in {file}; rows are numbered from 0 "
                  "({origin}).",
                  shown=len(rows), failed=len(failed), file=code(f"{name}.json"),
                  origin=facts.origin() + facts.layout_note())
    return table(["row", "accuracy", "found", "missed", "seen instead"], rows, caption,
                 numbers=False, name=f"conditions_{name}")


def configuration_table(params: Params, keys: Sequence[str], caption: str, name: str) -> str:
    """Return the given parameters with their values and meanings."""
    values = params.to_dict()
    rows = [[code(key), code(values[key]), say(FIELDS[key].help)] for key in keys]
    return table(["parameter", "value", "meaning"], rows, caption, numbers=False, name=name)


def training_table(params: Params) -> str:
    """Return the parameters of noise and training that apply in this configuration."""
    keys = [key for key, about in FIELDS.items()
            if (about.chapter in ("noise", "training") or key in PREPARATION)
            and about.affects not in ("report", "nothing") and applies(key, params)]
    return configuration_table(params, keys, say("Training configuration."), "training")


def unet_table(params: Params) -> str:
    """Return the levels of the network: resolution, channels and kind."""
    width, rows = params.class_emb_size // 4, []
    for level, (attention, multiple) in enumerate(zip(params.blocks, params.channels, strict=True)):
        side = params.image_size // params.patch_size // 2**level
        layers = params.layers_per_block
        up = layers if params.backbone == "u_vit" else layers + 1
        made_of = say("{down} residual down, {up} up", down=layers, up=up)
        if params.backbone == "u_vit" and level == len(params.blocks) - 1:
            made_of = say("{number} transformer blocks", number=params.transformer_blocks)
        rows.append([str(level + 1), f"{side} × {side}", str(width * multiple), made_of,
                     say("yes") if attention else say("no")])
    return table(["level", "resolution", "channels", "layers", "attention"], rows,
                 say("Levels of the U-Net."), name="levels")


@if_present("timesteps")
def timesteps_table(facts: Facts) -> str:
    """Return the accuracies of the variants of the timesteps experiment."""
    rows = [[str(variant["num_train_timesteps"]), str(variant["num_inference_steps"]),
             *accuracies(variant), f"{variant['loss']:.4f}", duration(variant["seconds"])]
            for variant in facts.metrics["timesteps"]["variants"]]
    return table(["T", "sampler steps", *map(" ".join, ACCURACIES), "loss", "training"], rows,
                 say("Accuracy with different numbers of timesteps ({origin}).",
                     origin=facts.origin()), name="timesteps")
