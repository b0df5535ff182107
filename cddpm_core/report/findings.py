"""Sentences of the report on the results, each computed from what the run has written.

So a sentence cannot contradict its table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.evaluation.score import confusion
from cddpm_core.report.compare import Group, paired
from cddpm_core.report.facts import Facts, if_present
from cddpm_core.report.markdown import code, count, decimals, duration, listed, prose, with_interval

__all__ = ["denoise_text", "discussion", "error_kinds", "experiment_text", "published_text",
           "result_text", "runs_text", "summary_text", "training_text", "verdict_text"]


@if_present("test", "evaluate")
def summary_text(facts: Facts) -> str:
    """Return the result in two sentences, for the introduction."""
    found = listed([f"{decimals(facts.metrics[name]['micro'])} on {code(name + '.json')}"
                    for name in CONDITION_FILES])
    return prose(
        f"In this run the fraction of objects found (micro accuracy) is {found}.",
        f"All numbers, figures and results come from one run, {code(facts.run.name)}: "
        f"{facts.origin()}{facts.layout_note()}.")


@if_present("train", "train")
def training_text(facts: Facts) -> str:
    """Return how long and how fast the training was."""
    train = facts.metrics["train"]
    return prose(
        "" if train["finished"] else
        "**The training is not finished.** It was stopped early, and all results below are those "
        "of an unfinished model.",
        f"Training took {count(train['steps'])} steps on {count(train['images'])} images in "
        f"{duration(train['seconds'])}, or {count(train['images_per_second'])} images per second "
        f"on {train['device']}.",
        f"The final loss was {train['loss']:.4f}.")


@if_present("test", "evaluate")
def result_text(facts: Facts) -> str:
    """Return both accuracies and how the images were sampled, in words."""
    parts = []
    for name in CONDITION_FILES:
        part = facts.metrics[name]
        parts.append(
            f"On {code(name + '.json')}, {part['hits']} of {part['objects']} objects were found, "
            f"a micro accuracy of {decimals(part['micro'])}. "
            f"The macro accuracy is {decimals(part['macro'])}, and {part['solved']} of "
            f"{part['images']} images show all their objects.")
    sampled = facts.metrics["sample"]
    return prose(
        *parts,
        f"The images were sampled with {code(sampled['sampler'])} in "
        f"{sampled['num_inference_steps']} steps with guidance {sampled['guidance_scale']:g}, at "
        f"{sampled['images_per_second']:.2f} images per second.",
        "The evaluator guided the sampling, so its scores are biased."
        if sampled.get("evaluator_guidance") else "")


@if_present("test")
def verdict_text(facts: Facts) -> str:
    """Return how far two evaluators differ on the same images; empty if there is only one."""
    second = facts.metrics.get("second")
    if not second:
        return ""
    more = [sum(entry["hits"]) - hits for name in CONDITION_FILES for entry, hits in
            zip(facts.scores[name]["conditions"], second[name]["image_hits"], strict=True)]
    mean, half = paired(more, sum(second[name]["objects"] for name in CONDITION_FILES))
    first = facts.metrics["evaluator"]["kind"]
    first = "official evaluator" if first == "official" else "private stand-in"
    differ = f"differ by {with_interval(mean, half, signed=True)} over both files"
    return prose(
        f"The verdicts of the {first} and of the released stand-in {differ}, which is within "
        "chance." if abs(mean) <= half else
        f"**The verdicts of the {first} and of the released stand-in {differ}, more than chance "
        "allows.**",
        f"The {first} guided the sampling, and the released stand-in took no part in it."
        if facts.params.evaluator_guidance else
        "So it is with images that were trained against the evaluator that scores them."
        if mean > half else "")


@if_present("denoise", "denoise")
def denoise_text(facts: Facts) -> str:
    """Return what the denoising figures show."""
    shown = listed([f"{', '.join(about['labels'])} (row {about['row']} of {code(name + '.json')})"
                    for name, about in facts.metrics["denoise"].items()])
    return prose(
        f"The figures show the denoising of {shown}: the state $x_t$ of the sampler and the image "
        r"$\hat x_0$ that the network predicts from it.",
        "*Normalised* are the values that the network sees, rescaled to [0, 1] image by image.",
        "*Denormalised* are the same values as pixels, clipped to their range.")


@if_present("timesteps", "timesteps")
def experiment_text(facts: Facts) -> str:
    """Return the result of the timesteps experiment."""
    first, second = facts.metrics["timesteps"]["variants"]
    changes = []
    for name in CONDITION_FILES:
        gain = second[name]["micro"] - first[name]["micro"]
        objects = facts.metrics["timesteps"]["objects"][name]
        change = ("does not change the micro accuracy" if gain == 0 else
                  f"{'raises' if gain > 0 else 'lowers'} the micro accuracy by "
                  f"{decimals(abs(gain))} ({round(abs(gain) * objects)} of {objects} objects)")
        changes.append(f"on {code(name + '.json')} it {change}")
    return prose(
        f"Training with T = {second['num_train_timesteps']} instead of "
        f"{first['num_train_timesteps']}, all else equal: {listed(changes)}.",
        f"Both variants are compared after {first['epochs']} of the {facts.params.epochs} epochs "
        "of the same training.",
        "Each is a single training with one seed, so differences of a few objects are within "
        "chance.")


def runs_text(groups: Sequence[Group]) -> str:
    """Return the accuracy over seeds, and which groups differ from the first beyond chance."""
    if sum(len(group.runs) for group in groups) < 2:
        return prose(
            "No other runs were named for a comparison.",
            f"Set the parameter {code('runs')}, or use {code('make seeds')} and "
            f"{code('make ablations')}.")
    first, *others = groups
    sentences = []
    if len(first.runs) > 1:
        scores = listed([f"{with_interval(*first.micro(name))} on {code(name + '.json')}"
                         for name in CONDITION_FILES])
        sentences.append(
            f"Over {len(first.runs)} seeds ({listed([str(s) for s in first.seeds])}), this "
            f"configuration reaches a mean micro accuracy of {scores}.")
    gains = [(code(group.name) + (" (sampling guided by the evaluator)" if group.guided else ""),
              group.gain(first)) for group in others]
    known = [(name, gain) for name, gain in gains if gain]
    better = [name for name, (mean, half) in known if mean > half]
    worse = [name for name, (mean, half) in known if mean < -half]
    unclear = [name for name, (mean, half) in known if abs(mean) <= half]
    base = f"{code(first.name)} over both files"
    if better:
        sentences.append(f"More objects are found with {listed(better)} than with {base}.")
    if worse:
        sentences.append(f"Fewer objects are found with {listed(worse)} than with {base}.")
    if unclear:
        sentences.append(f"The difference between {listed(unclear)} and {base} is not significant.")
    if known:
        sentences += [
            "The intervals cover the conditions, not the training seeds.",
            "Among comparisons without a true difference, one in twenty still appears significant."]
    if unpaired := [name for name, gain in gains if not gain]:
        sentences.append(f"No seed is shared between {code(first.name)} and {listed(unpaired)}.")
    return prose(*sentences)


def error_kinds(scored: Mapping[str, Any]) -> dict[str, int]:
    """Return how many missed objects were seen in another colour, another shape, or both."""
    found = confusion([scored])
    return {"colour": found["bound"] + found["alien"], "shape": found["reshaped"],
            "both": found["other"]}


@if_present("test", "evaluate")
def discussion(facts: Facts) -> str:
    """Return what fails and what does not, for both condition files."""
    items = []
    for name in CONDITION_FILES:
        scored, file = facts.scores[name], code(f"{name}.json")
        kinds = error_kinds(scored)
        missed = sum(kinds.values())
        if not missed:
            items.append(f"In {file}, no object was missed.")
            continue
        items.append(
            f"In {file}, {missed} objects were missed: {kinds['colour']} were seen with the right "
            f"shape in another colour, {kinds['shape']} with the right colour in another shape, "
            f"and {kinds['both']} with both wrong.")
        by_count = listed([
            f"{decimals(part['hits'] / part['total'])} for {size} object{'s' * (size != '1')}"
            for size, part in sorted(scored["per_count"].items())])
        items.append(
            f"In {file}, the fraction found is {by_count}. The lowest accuracy by colour is for "
            f"{_weakest(scored['per_colour'])}, and by shape for {_weakest(scored['per_shape'])}.")
    return "\n".join(f"- {item}" for item in items) + "\n"


def _weakest(tallies: Mapping[str, Mapping[str, int]]) -> str:
    name = min(tallies, key=lambda key: tallies[key]["hits"] / tallies[key]["total"])
    return f"{name} ({tallies[name]['hits']} of {tallies[name]['total']})"


def published_text(facts: Facts) -> str:
    """Return whether this run's scores are comparable with the published ones."""
    data = facts.metrics.get("data", {}).get("kind")
    kind = facts.metrics.get("evaluator", {}).get("kind")
    if (data, kind) == ("real", "official"):
        return ("This run also used the real data and the official evaluator, so its scores are "
                "comparable with published scores of the same metric.\n")
    return prose(
        "The published scores are for real data and the official evaluator.",
        f"This run used other data or another evaluator ({facts.origin()}), so its scores cannot "
        "be compared with them and are listed in separate tables.")
