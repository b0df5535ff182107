"""Sentences of the report on the results, each computed from what the run has written.

So a sentence cannot contradict its table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.evaluation.score import confusion
from cddpm_core.report.compare import Group, is_usual, paired
from cddpm_core.report.facts import Facts, if_present
from cddpm_core.report.language import say
from cddpm_core.report.markdown import (
    code,
    count,
    decimals,
    duration,
    identifier,
    listed,
    prose,
    with_interval,
)

__all__ = ["denoise_text", "discussion", "experiment_text", "published_text",
           "result_text", "runs_text", "summary_text", "training_text", "verdict_text"]


@if_present("test")
def summary_text(facts: Facts) -> str:
    """Return the result in two sentences, for the introduction."""
    found = []
    for name in CONDITION_FILES:
        part = facts.metrics[name]
        alone = part.get("one_layout")
        found.append(say(
            "{micro} on {file} ({alone} with one layout)" if alone else "{micro} on {file}",
            micro=decimals(part["micro"]), file=code(name + ".json"),
            **({"alone": decimals(alone["micro"])} if alone else {})))
    return prose(
        say("In this run the fraction of objects found (micro accuracy) is {found} "
            "(@tbl:accuracy).", found=listed(found)),
        say("Unless stated otherwise, numbers and figures are those of the run {run}: {origin}.",
            run=code(facts.run.name), origin=f"{facts.origin()}{facts.layout_note()}"))


@if_present("train")
def training_text(facts: Facts) -> str:
    """Return how long and how fast the training was, or that the model is imported."""
    train = facts.metrics["train"]
    if about := train.get("imported"):
        file = " ".join(filter(None, (about["file"], about["where"])))
        return prose(
            say("The model was **not trained here**. Its weights were imported from {file} "
                "(SHA-256 {sha256}).", file=code(file), sha256=code(about["sha256"])),
            say("What this report says of its objective follows from the parameters that were "
                "given with it; how it was trained is not known here."))
    return prose(
        "" if train["finished"] else
        say("**The training is not finished.** It was stopped early, and all results below are "
            "those of an unfinished model."),
        say("Training took {steps} steps, {images} images counting repetitions, in {time}: {speed} "
            "images per second on {device}.", steps=count(train["steps"]),
            images=count(train["images"]), time=duration(train["seconds"]),
            speed=count(train["images_per_second"]), device=train["device"]),
        say("The final loss was {loss}.", loss=f"{train['loss']:.4f}"))


@if_present("test")
def result_text(facts: Facts) -> str:
    """Return both accuracies and how the images were sampled, in words."""
    parts = []
    for name in CONDITION_FILES:
        part = facts.metrics[name]
        parts.append(say(
            "On {file}, {hits} of {objects} objects were found, a micro accuracy of {micro}. The "
            "macro accuracy is {macro}, and {solved} of {images} images show all their objects.",
            file=code(name + ".json"), hits=part["hits"], objects=part["objects"],
            micro=decimals(part["micro"]), macro=decimals(part["macro"]), solved=part["solved"],
            images=part["images"]))
    sampled = facts.metrics["sample"]
    return prose(
        *parts,
        say("The images were sampled with {sampler} in {steps} steps with guidance {scale}, at "
            "{speed} images per second.", sampler=code(sampled["sampler"]),
            steps=sampled["num_inference_steps"], scale=f"{sampled['guidance_scale']:g}",
            speed=f"{sampled['images_per_second']:.2f}"),
        say("The evaluator guided the sampling, so its scores are biased.")
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
    usual = is_usual(mean, half)
    first = say("official evaluator" if facts.metrics["evaluator"]["kind"] == "official"
                else "private stand-in")
    return prose(
        say("The {first} differs from the released stand-in by {difference} in micro accuracy, "
            "which is usual for images that were made without either evaluator." if usual else
            "**The {first} differs from the released stand-in by {difference} in micro accuracy, "
            "more than is usual for images that were made without either evaluator.**",
            first=first, difference=with_interval(mean, half, signed=True)),
        say("The {first} guided the sampling, and the released stand-in took no part in it.",
            first=first) if facts.params.evaluator_guidance else
        say("Models that were optimised for the evaluator that scores them show such a gap.")
        if mean > 0 and not usual else "")


@if_present("denoise")
def denoise_text(facts: Facts) -> str:
    """Return what the denoising figures show."""
    shown = listed([say("{labels} (row {row}, counted from 0, of {file})",
                        labels=", ".join(about["labels"]), row=about["row"],
                        file=code(name + ".json"))
                    for name, about in facts.metrics["denoise"].items()])
    return prose(
        say(r"The figures show the denoising of {shown}: the state $x_t$ of the sampler and the "
            r"image $\hat x_0$ that the network predicts from it.", shown=shown),
        say("They take more steps than the images above, and so end in slightly different images.")
        if facts.params.num_inference_steps < facts.params.denoise_steps else "",
        say("*Normalised* images show the values that the network sees, each rescaled to [0, 1]."),
        say("*Denormalised* images show the same values as pixels, clipped to their range."))


@if_present("timesteps")
def experiment_text(facts: Facts) -> str:
    """Return the result of the timesteps experiment."""
    first, second = facts.metrics["timesteps"]["variants"]
    changes = []
    for name in CONDITION_FILES:
        gain = second[name]["micro"] - first[name]["micro"]
        objects = facts.metrics["timesteps"]["objects"][name]
        changes.append(say(
            "on {file} it does not change the micro accuracy" if gain == 0 else
            "on {file} it raises the micro accuracy by {gain} ({hits} of {objects} objects)"
            if gain > 0 else
            "on {file} it lowers the micro accuracy by {gain} ({hits} of {objects} objects)",
            file=code(name + ".json"), gain=decimals(abs(gain)),
            hits=round(abs(gain) * objects), objects=objects))
    return prose(
        "" if first.get("finished", True) and second.get("finished", True) else
        say("**One of the trainings is not finished.**"),
        say("The experiment trains with T = {second}, not {first}: {changes} (@tbl:timesteps).",
            second=second["num_train_timesteps"], first=first["num_train_timesteps"],
            changes=listed(changes)),
        say("Both variants are compared after {compared} of the {epochs} epochs of the same "
            "training.", compared=first["epochs"], epochs=facts.params.epochs)
        if first["epochs"] < facts.params.epochs else "",
        say("Each is a single training with one seed, so differences of a few objects may be due "
            "to chance."))


def runs_text(groups: Sequence[Group]) -> str:
    """Return the accuracy over seeds, and which groups differ from the first beyond chance.

    Empty if there is a single run.
    """
    if sum(len(group.runs) for group in groups) < 2:
        return ""
    first, *others = groups
    sentences = []
    if len(first.runs) > 1:
        scores = listed([say("{micro} on {file}", micro=with_interval(*first.accuracy(name)),
                             file=code(name + ".json")) for name in CONDITION_FILES])
        sentences.append(say(
            "Over {number} seeds ({seeds}), this configuration reaches a mean micro accuracy of "
            "{scores}.", number=len(first.runs), seeds=listed([str(s) for s in first.seeds]),
            scores=scores))
    gains = [(code(group.name) + (say(" (sampling guided by the evaluator)") if group.guided
                                  else ""), group.gain(first)) for group in others]
    known = [(name, gain) for name, gain in gains if gain]
    base = code(first.name)
    for text, names in (
            ("More objects are found with {names} than with {base} over both files.",
             [name for name, (mean, half) in known if mean > half]),
            ("Fewer objects are found with {names} than with {base} over both files.",
             [name for name, (mean, half) in known if mean < -half]),
            ("The difference between {names} and {base} over both files is not significant.",
             [name for name, (mean, half) in known if abs(mean) <= half]),
            ("No seed is shared between {base} and {names}.",
             [name for name, gain in gains if not gain])):
        if names:
            sentences.append(say(text, names=listed(names), base=base))
    if known:
        sentences.append(say(
            "The intervals cover the conditions, not the training seeds: another training could "
            "change the result."))
    return prose(*sentences)


@if_present("test")
def discussion(facts: Facts) -> str:
    """Return what fails and what does not, for both condition files."""
    items = []
    for name in CONDITION_FILES:
        scored, file = facts.scores[name], code(f"{name}.json")
        kinds = confusion([scored])
        missed = sum(kinds[key] for key in ("bound", "alien", "reshaped", "other"))
        if not missed:
            items.append(say("In {file}, no object was missed.", file=file))
            continue
        items.append(say(
            "In {file}, one object was missed (@tbl:{table})." if missed == 1 else
            "In {file}, {missed} objects were missed: {colour} were seen with the right shape in "
            "another colour, {shape} with the right colour in another shape, and {both} with both "
            "wrong (@tbl:{table}).", file=file, missed=missed,
            colour=kinds["bound"] + kinds["alien"], shape=kinds["reshaped"], both=kinds["other"],
            table=f"conditions-{identifier(name)}"))
        by_count = listed([
            say("{found} for {size} object" if size == "1" else "{found} for {size} objects",
                found=decimals(part["hits"] / part["total"]), size=size)
            for size, part in sorted(scored["per_count"].items())])
        items.append(say(
            "In {file}, the fraction found is {fractions}. The lowest accuracy by colour is for "
            "{colour}, and by shape for {shape} (@tbl:objects).", file=file, fractions=by_count,
            colour=_weakest(scored["per_colour"]), shape=_weakest(scored["per_shape"])))
    return "\n".join(f"- {item}" for item in items) + "\n"


def _weakest(tallies: Mapping[str, Mapping[str, int]]) -> str:
    found = {name: tally["hits"] / tally["total"] for name, tally in tallies.items()}
    return listed([say("{name} ({hits} of {total})", name=name, **tallies[name])
                   for name in found if found[name] == min(found.values())])


def published_text(facts: Facts) -> str:
    """Return whether this run's scores are comparable with the published ones."""
    data, evaluator = (facts.metrics.get(part, {}) for part in ("data", "evaluator"))
    if (data.get("kind") == "real" and evaluator.get("kind") == "official"
            and evaluator.get("known", True) and not facts.params.evaluator_guidance):
        return say("This run also used the real data and the official evaluator, so its scores are "
                   "comparable with published scores of the same metric.") + "\n"
    return say("The published scores are for real data and the official evaluator. Those of this "
               "run ({origin}) cannot be compared with them and are listed in separate tables.",
               origin=facts.origin()) + "\n"
