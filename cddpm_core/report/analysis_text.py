"""Sentences and tables of the analysis and of the sampling experiment, from ``metrics.json``."""

from __future__ import annotations

from typing import Any

from cddpm_core.report.facts import ACCURACIES, Facts, accuracies, if_present
from cddpm_core.report.language import say
from cddpm_core.report.markdown import code, count, decimals, listed, prose, table

__all__ = ["analysis_text", "fidelity_table", "quarter_table", "sampling_table",
           "sampling_text", "weights_table"]

NEAR = 0.03  # of the best accuracy: among such variants the fastest one is named


@if_present("analyse")
def analysis_text(facts: Facts) -> str:
    """Return the results of the analysis as a list of sentences."""
    found = facts.metrics["analyse"]
    items = [_confusion(found["confusion"]), _nearest(found["nearest"]),
             *_fidelity(facts.metrics.get("fidelity"))]
    if found.get("restored"):
        items.insert(0, _restored(found["restored"], found["image_kind"]))
    return "\n".join(f"- {item}" for item in items) + "\n"


def _confusion(found: dict[str, Any]) -> str:
    if not any(found[key] for key in ("bound", "alien", "reshaped", "other")):
        return say("In no image of either file was an object seen in another colour or shape.")
    return say("Over both files, {colour} objects were seen in another colour: {bound} in the "
               "colour of another object of the image (a binding error) and {alien} in a colour "
               "that was not asked for. Another {reshaped} were seen in another shape, and {other} "
               "with both wrong.", colour=found["bound"] + found["alien"],
               **{key: found[key] for key in ("bound", "alien", "reshaped", "other")})


def _nearest(found: dict[str, Any]) -> str:
    return prose(
        say("The distance from a generated image to its nearest training image is {distance} of "
            "255 levels on average, over {images} images.",
            distance=f"{found['generated']:.1f}", images=found["images"]),
        say("There are no held-out images to compare with.") if found["heldout"] is None else
        say("For held-out images of the same labels it is {distance}. A model that copies its "
            "training images would be much closer to them. Positions, if the network is given any, "
            "are those of the held-out images; whether those of a training scene would bring it "
            "back is not tested.", distance=f"{found['heldout']:.1f}")).strip()


def _fidelity(found: dict[str, Any] | None) -> list[str]:
    if not found:
        return []
    items, diversity = [], found["diversity"]
    if found["sharpness"]["value"] is not None:
        items.append(say(
            "Generated images have {ratio} of the sharpness of {kind} with the same labels (and "
            "the same positions, if the network is given any). A small network tells the two apart "
            "with an accuracy of {accuracy}; guessing gives 0.5 (@tbl:fidelity).",
            ratio=decimals(found["sharpness"]["value"]), kind=say(found["image_kind"]),
            accuracy=decimals(found["two_sample"]["value"])))
    label = listed([code(name) for name in diversity["labels"]])
    items.append(
        say("Too few training images show exactly {label} to say how varied the images are.",
            label=label) if diversity["value"] is None else
        say("The mean distance between {number} images generated for {label} is {ratio} of that "
            "between training images of this label.", number=diversity["images"], label=label,
            ratio=decimals(diversity["value"])))
    return items


def _restored(points: list[dict[str, Any]], image_kind: str) -> str:
    kept = say("; ").join(say("{micro} from t = {t}", micro=decimals(point["micro"]),
                              t=point["timestep"]) for point in points[1:])
    return say(
        "The evaluator finds {micro} of the objects in {kind} as they are. After noise up to "
        "timestep t is added and removed again [@meng2022], it finds {kept}.",
        micro=decimals(points[0]["micro"]), kind=say(image_kind), kept=kept)


@if_present("analyse")
def quarter_table(facts: Facts) -> str:
    """Return the errors in each quarter of the timesteps."""
    found = facts.metrics["analyse"]
    names = {"x_0": "error of $x_0$", "x_0_without_label": "error of $x_0$ without the condition",
             "epsilon": r"error of $\epsilon$"}
    shown = {key: name for key, name in names.items() if key in found["quarters"][0]}
    rows = [[say(" to ").join(map(str, part["timesteps"])), *(f"{part[key]:.5f}" for key in shown)]
            for part in found["quarters"]]
    return table(["timesteps", *shown.values()], rows,
                 say("Mean squared error of the prediction on {images} {kind} by quarter of the "
                     "timesteps, in the values that the network sees ({origin}).",
                     images=count(found["images"]), kind=say(found["image_kind"]),
                     origin=facts.origin()), name="quarters")


@if_present("analyse")
def weights_table(facts: Facts) -> str:
    """Return the accuracies of the averaged weights and of those of the last step."""
    raw = facts.metrics["analyse"].get("raw")
    if not raw:
        return ""
    rows = [[say("moving average (EMA)"), *accuracies(facts.metrics)],
            [say("last step"), *accuracies(raw)]]
    return table(["weights", *map(" ".join, ACCURACIES)], rows,
                 say("Averaged and raw weights, sampled from the same seeds ({origin}).",
                     origin=facts.origin()), name="weights")


@if_present("fidelity")
def fidelity_table(facts: Facts) -> str:
    """Return how close generated images are to others, and what other images give in their place.
    """
    found = facts.metrics["fidelity"]
    kind = say(found["image_kind"])
    rows = [[say(what), *("–" if (value := found[key][part]) is None else
                          f"{value:.{digits}f}".replace("-", "−")
                          for part in ("value", "baseline")), best]
            for key, what, digits, best in (
                ("sharpness", "sharpness, ratio", 3, "1"),
                ("kernel_distance", "kernel distance", 4, "0"),
                ("two_sample", "two-sample test, accuracy", 3, "0.5"),
                ("diversity", "diversity, ratio", 3, "1"))]
    caption = say(
        "{images} generated images, compared with as many {kind} with the same labels (and the "
        "same positions, if the network is given any). *Other images*: the same measures for "
        "{baseline} other {kind} instead. Sharpness is the 99th percentile of "
        "the colour gradient. The kernel distance is on the features of the evaluator, so it is "
        "not KID. The two-sample test is the accuracy of a small network that tells the two kinds "
        "of images apart, in cross-validation. Diversity is the mean distance between {varied} "
        "images of {label}, compared with training images ({origin}).",
        images=count(found["images"]), kind=kind, baseline=count(found["baseline_images"]),
        varied=found["diversity"]["images"],
        label=listed([code(name) for name in found["diversity"]["labels"]]),
        origin=facts.origin())
    return table(["measure", "generated", "other images", "ideal"], rows, caption, name="fidelity")


@if_present("sampling")
def sampling_text(facts: Facts) -> str:
    """Return the best variant of the sampling experiment, and the fastest one close to it."""
    found = facts.metrics["sampling"]
    variants = found["variants"]
    best = max(variants, key=lambda variant: variant["micro"])
    near = [variant for variant in variants if variant["micro"] >= best["micro"] - NEAR]
    fastest = min(near, key=lambda variant: variant["seconds_per_image"])
    return say(
        "Each of the {number} variants samples the conditions of both files, {objects} objects, "
        "with the same weights and seeds (@tbl:sampling). The best is {best}. The fastest within "
        "{near} of it is {fastest}. With so many variants, the best one is partly a matter of "
        "luck.", number=len(variants), objects=found["objects"], best=_described(best), near=NEAR,
        fastest=_described(fastest)) + "\n"


def _described(variant: dict[str, Any]) -> str:
    return say("{sampler} in {steps} steps with guidance {scale} ({micro}, {seconds} s per image)",
               sampler=code(variant["sampler"]), steps=variant["num_inference_steps"],
               scale=f"{variant['guidance_scale']:g}", micro=decimals(variant["micro"]),
               seconds=f"{variant['seconds_per_image']:.2f}")


@if_present("sampling")
def sampling_table(facts: Facts) -> str:
    """Return a row for each sampler and number of steps, a column for each guidance scale."""
    variants = facts.metrics["sampling"]["variants"]
    scales = sorted({variant["guidance_scale"] for variant in variants})
    low, high = facts.params.guidance_interval
    rows = []
    for key in dict.fromkeys((v["sampler"], v["num_inference_steps"]) for v in variants):
        cells = {variant["guidance_scale"]: variant for variant in variants
                 if (variant["sampler"], variant["num_inference_steps"]) == key}
        rows.append([code(key[0]), str(key[1]), str(next(iter(cells.values()))["network_calls"]),
                     *(say("{micro} in {seconds} s", micro=decimals(cells[s]["micro"]),
                           seconds=f"{cells[s]['seconds_per_image']:.2f}")
                       if s in cells else "–" for s in scales)])
    return table(["sampler", "steps", "network calls",
                  *(say("guidance {scale}", scale=f"{s:g}") for s in scales)], rows,
                 say("Micro accuracy over both files and seconds per image. Guidance applies at "
                     "$t / T$ from {low} to {high}, where a network call has twice the images "
                     "({origin}).", low=f"{low:g}", high=f"{high:g}", origin=facts.origin()),
                 name="sampling")
