"""Sentences of the report on what came of the run, each computed from what it has written.

A sentence that states a result can so not disagree with its table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cddpm_core.analysis import confusion
from cddpm_core.compare import Group
from cddpm_core.facts import GUIDED, Facts, needs
from cddpm_core.labels import CONDITION_FILES
from cddpm_core.markdown import code, count, duration, listed, share, with_interval

__all__ = ["denoise_text", "discussion", "error_kinds", "experiment_text", "published_text",
           "result_text", "runs_text", "summary_text", "training_text"]


@needs("test", "evaluate")
def summary_text(facts: Facts) -> str:
    """Return the result in two sentences, for the introduction."""
    found = listed([f"{share(facts.metrics[name]['micro'])} on {code(name + '.json')}"
                    for name in CONDITION_FILES])
    return (f"In this run the share of objects found (micro accuracy) is {found}. All numbers, "
            f"figures and sentences on results come from one run, {code(facts.run.name)}: "
            f"{facts.origin()}{facts.chosen()}.\n")


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
             f"{sampled['images_per_second']:.2f} images a second{_choice(facts)}."
             + (f" {GUIDED.removeprefix('; ').capitalize()}." if sampled.get("evaluator_guidance")
                else ""))
    return " ".join([*parts, speed]) + "\n"


def _choice(facts: Facts) -> str:
    """What came of choosing among several images of a label set, and that it took time."""
    parts = [facts.metrics[name] for name in CONDITION_FILES]
    if not all("first" in part for part in parts):
        return ""
    first = listed([share(part["first"]["micro"]) for part in parts])
    return (f", each chosen by the network itself from {facts.params.candidates}, which the time "
            f"counts; with the first of them in place of the chosen one the micro accuracies "
            f"are {first}")


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
    """Return how the run does over seeds, and which others find more or fewer objects."""
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
    gains = [(code(group.name) + (" (drawn with guidance by that evaluator)" if group.guided
                                  else ""), group.gain(first)) for group in others]
    told = [(name, gain) for name, gain in gains if gain]
    for names, found in (
            ([name for name, (mean, half) in told if mean > half],
             "more objects are found than in {}, both files taken together"),
            ([name for name, (mean, half) in told if mean < -half],
             "fewer objects are found than in {}, both files taken together"),
            ([name for name, (mean, half) in told if abs(mean) <= half],
             "the difference from {} cannot be told from chance")):
        if names:
            said.append(f"In {listed(names)} {found.format(code(first.name))}.")
    if told:
        said.append("That is said of these trainings, over label sets; of rows that do not differ "
                    "one in twenty would still seem to.")
    if untold := [name for name, gain in gains if not gain]:
        said.append(f"With {code(first.name)}, {listed(untold)} "
                    f"{'have' if len(untold) > 1 else 'has'} no seed in common.")
    return " ".join(said) + "\n"


def error_kinds(scored: Mapping[str, Any]) -> dict[str, int]:
    """Return how often a missed object was seen in another colour, another shape, or neither."""
    found = confusion([scored])
    return {"colour": found["bound"] + found["alien"], "shape": found["reshaped"],
            "both": found["other"]}


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
