"""The tables of the notebooks and the report, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from cddpm_core.config.schema import FIELDS, Params, applies
from cddpm_core.data.labels import COLOURS, CONDITION_FILES, SHAPES
from cddpm_core.report.compare import Group
from cddpm_core.report.facts import GUIDED, Facts, evaluator_phrase, if_present
from cddpm_core.report.markdown import code, count, decimals, duration, escape, table, with_interval

if TYPE_CHECKING:
    from cddpm_core.data.images import FolderFiles

__all__ = ["accuracy_table", "comparison_table", "condition_table", "configuration_table",
           "files_table", "label_table", "object_table", "provenance_table", "runs_table",
           "stage_table", "timesteps_table", "training_table", "unet_table", "verdict_table"]

# Facts about the labels of the course's real set.
COURSE_LABELS = {
    "images": "18,009", "images with 1 object": "6,003", "images with 2 objects": "6,003",
    "images with 3 objects": "6,003", "images with an object, minimum": "1,422",
    "images with an object, maximum": "1,577", "distinct conditions": "2,188",
    "conditions of test.json among them": "31 of 32",
    "conditions of new_test.json among them": "32 of 32"}
ACCURACIES = [f"{name} {metric}" for name in CONDITION_FILES for metric in ("micro", "macro")]
# Parameters of other chapters that belong to the training table.
PREPARATION = ("seed", "standardise", "trim_rows", "data_scale")


def files_table(files: FolderFiles) -> str:
    """Return how many images of a data folder are named, found, missing and surplus."""
    def row(what: str, names: Sequence[str]) -> list[str]:
        shown = ", ".join(map(code, names[:3])) + (", …" if len(names) > 3 else "")
        return [what, count(len(names)), shown or "–"]

    there = [name for name in files.named if name not in set(files.missing)]
    return table(["images", "number", "examples"],
                 [row("in train.json", files.named), row("found", there),
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
               f"{data['overlap'][name]['seen']} of {data['overlap'][name]['conditions']}"
               for name in CONDITION_FILES}}
    rows = [[what, value, COURSE_LABELS[what]] for what, value in here.items()]
    return table(["labels", "this run", "train.json of the course"], rows,
                 f"Label statistics; this run: {escape(facts.origin())}.")


@if_present("data")
def comparison_table(facts: Facts) -> str:
    """Return how far renders are from the real frames they were compared with."""
    rows = [[code(frame["file"]), ", ".join(frame["objects"]), f"{frame['difference']:.2f}",
             f"{frame['difference_in_boxes']:.2f}"]
            for frame in facts.metrics["data"].get("reference", [])]
    return table(["frame", "objects found", "difference", "in bounding boxes"], rows,
                 "Mean absolute difference, of 255 levels at 64 × 64, between real frames and the "
                 "same scenes rendered.", numbers=False) if rows else ""


@if_present("test")
def accuracy_table(facts: Facts) -> str:
    """Return micro and macro accuracy of both condition files."""
    rows = []
    for name in CONDITION_FILES:
        part = facts.metrics[name]
        rows.append([code(f"{name}.json"), decimals(part["micro"]), decimals(part["macro"]),
                     f"{part['hits']} of {part['objects']}",
                     f"{part['solved']} of {part['images']}"])
    caption = f"Accuracy on the two condition files ({facts.origin()}{facts.layout_note()})."
    return table(["conditions", "micro", "macro", "objects found", "images fully correct"], rows,
                 caption)


@if_present("test")
def verdict_table(facts: Facts) -> str:
    """Return the accuracies of two evaluators on the same images; empty if there is only one."""
    second = facts.metrics.get("second")
    if not second:
        return ""
    guided = f"; {GUIDED}" if facts.params.evaluator_guidance else ""
    rows = [[evaluator_phrase(verdict["evaluator"]) + note, *(
        decimals(verdict[name][metric]) for name in CONDITION_FILES
        for metric in ("micro", "macro"))]
        for verdict, note in ((facts.metrics, guided), (second, ""))]
    return table(["evaluator", *ACCURACIES], rows,
                 f"The same images, scored by two evaluators ({facts.data_phrase()}).")


@if_present("test")
def object_table(facts: Facts, name: str) -> str:
    """Return hits of total for each object of a condition file, colour by shape."""
    per_object = facts.scores[name]["per_object"]
    rows = []
    for colour in COLOURS:
        tallies = [per_object.get(f"{colour} {shape}", {"hits": 0, "total": 0})
                   for shape in SHAPES]
        rows.append([colour, *(f"{t['hits']} of {t['total']}" if t["total"] else "–"
                               for t in tallies)])
    return table(["colour", *SHAPES], rows,
                 f"Objects found, of those asked for in {code(name + '.json')} "
                 f"({facts.origin()}{facts.layout_note()}).")


@if_present("test")
def condition_table(facts: Facts, name: str, max_rows: int = 8) -> str:
    """Return the conditions of lowest accuracy of a file, at most ``max_rows``, hardest first."""
    numbered = list(enumerate(facts.scores[name]["conditions"]))
    failed = sorted((item for item in numbered if not all(item[1]["hits"])),
                    key=lambda item: (item[1]["accuracy"], item[0]))
    if not failed:
        return f"In {code(name + '.json')}, every object was found.\n"
    rows = []
    for row, found in failed[:max_rows]:
        missed = [n for n, hit in zip(found["labels"], found["hits"], strict=True) if not hit]
        extra = [n for n in found["predicted"] if n not in found["labels"]]
        asked = [n for n in found["labels"] if n not in missed]
        rows.append([str(row), decimals(found["accuracy"]), ", ".join(asked) or "–",
                     ", ".join(missed), ", ".join(extra)])
    shown = (f"The {len(rows)} of {len(failed)} conditions of lowest accuracy"
             if len(failed) > len(rows) else "All conditions with a missed object")
    caption = (f"{shown} in {code(name + '.json')}; rows count from 0 "
               f"({facts.origin()}{facts.layout_note()}).")
    return table(["row", "accuracy", "found", "missed", "seen instead"], rows, caption,
                 numbers=False)


def configuration_table(params: Params, keys: Sequence[str], caption: str) -> str:
    """Return the given parameters with their values and meanings."""
    values = params.to_dict()
    rows = [[code(key), code(values[key]), FIELDS[key].help] for key in keys]
    return table(["parameter", "value", "meaning"], rows, caption, numbers=False)


def training_table(params: Params) -> str:
    """Return the parameters of noise and training that apply in this configuration."""
    keys = [key for key, about in FIELDS.items()
            if (about.chapter in ("noise", "training") or key in PREPARATION)
            and about.affects not in ("report", "nothing") and applies(key, params)]
    return configuration_table(params, keys, "Training configuration.")


def unet_table(params: Params, image_rows: Sequence[int] = ()) -> str:
    """Return the levels of the network: resolution, channels and kind.

    ``image_rows`` are the first row of the image that the network generates and the one
    after the last; empty for all.
    """
    width, rows = params.class_emb_size // 4, []
    top, bottom = image_rows or (0, params.image_size)
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
                 "Levels of the U-Net.")


@if_present("timesteps")
def timesteps_table(facts: Facts) -> str:
    """Return the accuracies of the variants of the timesteps experiment."""
    rows = [[str(variant["num_train_timesteps"]), str(variant["num_inference_steps"]),
             *(decimals(variant[name][metric]) for name in CONDITION_FILES
               for metric in ("micro", "macro")),
             f"{variant['loss']:.4f}", duration(variant["seconds"])]
            for variant in facts.metrics["timesteps"]["variants"]]
    return table(["T", "sampler steps", *ACCURACIES, "loss", "training"], rows,
                 f"Accuracy with different numbers of timesteps ({facts.origin()}).")


def runs_table(facts: Facts, groups: Sequence[Group]) -> str:
    """Return a row for each group of runs: what differs from the first, and its accuracies."""
    rows, gains = [], [group.gain(groups[0]) for group in groups]
    for group, gain in zip(groups, gains, strict=True):
        changes = "; ".join(f"{code(key)} {code(here)}" for key, (_, here) in
                            group.changes(groups[0]).items())
        rows.append([code(group.name), changes or "–", str(len(group.runs)),
                     *(with_interval(*accuracy(name)) for name in CONDITION_FILES
                       for accuracy in (group.micro, group.macro)),
                     *([with_interval(*gain, signed=True) if gain else "–"] if any(gains) else []),
                     duration(fmean(group.values("train", "seconds")))])
    header = ["run", "changes", "seeds", *ACCURACIES, *(["gain"] if any(gains) else []),
              "training"]
    notes = ["Runs side by side: means over seeds, with 95 % intervals where there are several."]
    if any(gains):
        notes.append("Gain: the fraction of objects of both files found in addition to the first "
                     "row, with its 95 % interval over conditions.")
    if any(group.guided for group in groups):
        notes.append(f"With {code('evaluator_guidance')} the evaluator also guided the sampling.")
    return table(header, rows, f"{' '.join(notes)} ({facts.origin()}.)")


def provenance_table(facts: Facts) -> str:
    """Return where data, evaluator and software of the run come from."""
    metrics = facts.metrics
    rows = [["run", code(facts.run.name)], ["seed", code(facts.params.seed)]]
    for part in ("data", "evaluator"):
        if part in metrics:
            kind = metrics[part]["kind"] if part == "data" else evaluator_phrase(metrics[part])
            rows += [[part, kind], [f"SHA-256 of the {part}", code(metrics[part]["sha256"])]]
    rows += [[escape(key), code(value)] for key, value in metrics.get("made_with", {}).items()]
    return table(["what", "value"], rows, "Provenance of the run.", numbers=False)


def stage_table(facts: Facts) -> str:
    """Return the state of each stage and the time it took."""
    rows = [[name, stage["state"], duration(stage["seconds"]) if "seconds" in stage else "–"]
            for name, stage in facts.status.get("stages", {}).items()]
    return table(["stage", "state", "time"], rows, "Stages of the run.") if rows else ""
