"""Sentences and tables of the analysis and of the sampling experiment, from ``metrics.json``."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.report.facts import Facts, if_present
from cddpm_core.report.markdown import code, count, decimals, escape, listed, prose, table

__all__ = ["analysis_text", "distance_table", "quartile_table", "sampling_table",
           "sampling_text", "weights_table"]

NEAR = 0.03  # of the best accuracy: among such variants the fastest one is named


@if_present("analyse", "analyse")
def analysis_text(facts: Facts) -> str:
    """Return the results of the analysis as a list of sentences."""
    found = facts.metrics["analyse"]
    items = [_confusion(found["confusion"]), _nearest(found["nearest"]),
             _diversity(found["diversity"])]
    if found.get("restored"):
        items.insert(0, _restored(found["restored"], found["image_kind"]))
    return "\n".join(f"- {item}" for item in items) + "\n"


def _confusion(found: dict[str, Any]) -> str:
    return (f"Over both files, {found['bound'] + found['alien']} objects were seen in another "
            f"colour: {found['bound']} in the colour of another object of the image (a binding "
            f"error) and {found['alien']} in a colour that was not asked for. "
            f"Another {found['reshaped']} were seen in another shape, and {found['other']} with "
            "both wrong.")


def _nearest(found: dict[str, Any]) -> str:
    text = (f"The distance from a generated image to its nearest training image is "
            f"{found['generated']:.1f} of 255 levels on average, over {found['images']} images.")
    if found["heldout"] is None:
        return f"{text} There are no held-out images to compare with."
    nearer = found["generated"] < found["heldout"]
    return (f"{text} For held-out images of the same labels it is {found['heldout']:.1f}, so "
            f"generated images are {'closer' if nearer else 'no closer'} to the training images "
            "than held-out images are.")


def _diversity(found: dict[str, Any]) -> str:
    text = (f"The mean distance between {found['images']} images generated for "
            f"{listed([code(name) for name in found['labels']])} is {found['generated']:.1f} "
            "levels.")
    if found["training"] is None:
        return f"{text} Too few training images have exactly these labels for a comparison."
    return (f"{text} Between {found['compared']} training images of these labels it is "
            f"{found['training']:.1f}.")


def _restored(points: list[dict[str, Any]], image_kind: str) -> str:
    low, high = max(pairwise(points), key=lambda span: span[0]["micro"] - span[1]["micro"])
    lost = low["micro"] - high["micro"]
    kept = "; ".join(f"{decimals(point['micro'])} from t = {point['timestep']}"
                     for point in points[1:])
    largest = (f" The largest loss, {decimals(lost)}, is between t = {low['timestep']} and "
               f"t = {high['timestep']}." if lost > 0 else "")
    return (f"The evaluator finds {decimals(points[0]['micro'])} of the objects in "
            f"{escape(image_kind)} as they are. After noise up to timestep t is added and removed "
            f"again, it finds {kept}.{largest}")


@if_present("analyse")
def quartile_table(facts: Facts) -> str:
    """Return the errors in each quarter of the timesteps."""
    found = facts.metrics["analyse"]
    names = {"x_0": "error of $x_0$", "x_0_without_label": "error of $x_0$ without the label",
             "epsilon": r"error of $\epsilon$"}
    shown = {key: name for key, name in names.items() if key in found["quartiles"][0]}
    rows = [[" to ".join(map(str, part["timesteps"])), *(f"{part[key]:.5f}" for key in shown)]
            for part in found["quartiles"]]
    return table(["timesteps", *shown.values()], rows,
                 f"Mean squared error of the prediction on {count(found['images'])} "
                 f"{escape(found['image_kind'])} by quarter of the timesteps, in the values that "
                 f"the network sees ({facts.origin()}).")


@if_present("analyse")
def weights_table(facts: Facts) -> str:
    """Return the accuracies of the averaged weights and of those of the last step."""
    raw = facts.metrics["analyse"].get("raw")
    if not raw:
        return "This run has no moving average to compare the last weights with.\n"
    rows = [[name, *(decimals(source[file][metric]) for file in CONDITION_FILES
                     for metric in ("micro", "macro"))]
            for name, source in (("moving average (EMA)", facts.metrics), ("last step", raw))]
    return table(["weights", *(f"{file} {metric}" for file in CONDITION_FILES
                               for metric in ("micro", "macro"))], rows,
                 f"Averaged and raw weights, sampled from the same seeds ({facts.origin()}).")


@if_present("analyse")
def distance_table(facts: Facts) -> str:
    """Return the Fréchet and kernel distances on the evaluator's features."""
    found = facts.metrics["analyse"]["distances"]
    if not found:
        return "There are too few images for distances between sets of images.\n"
    rows = [[escape(name), f"{found[key]['frechet']:.2f}", f"{found[key]['kernel']:.4f}"]
            for key, name in (("generated", "generated images"),
                              ("baseline", found["baseline_is"]))]
    return table(["images", "Fréchet distance", "kernel distance"], rows,
                 f"Distance between {count(found['images'])} images and as many "
                 f"{escape(found['compared_with'])}, on the features of the evaluator. These "
                 "are not FID and KID, which use another network, and they depend on the number "
                 f"of images ({facts.origin()}).")


@if_present("sampling", "sampling")
def sampling_text(facts: Facts) -> str:
    """Return the best variant of the sampling experiment, and the fastest one close to it."""
    found = facts.metrics["sampling"]
    variants = found["variants"]
    best = max(variants, key=lambda variant: variant["micro"])
    near = [variant for variant in variants if variant["micro"] >= best["micro"] - NEAR]
    fastest = min(near, key=lambda variant: variant["seconds_per_image"])
    return prose(
        f"Each of the {len(variants)} variants samples the conditions of both files, "
        f"{found['objects']} objects, with the same weights and seeds.",
        f"The best is {_described(best)}.",
        f"The fastest within {NEAR} of it is {_described(fastest)}.",
        "With so many variants, the best one is partly a matter of luck.")


def _described(variant: dict[str, Any]) -> str:
    return (f"{code(variant['sampler'])} in {variant['num_inference_steps']} steps with guidance "
            f"{variant['guidance_scale']:g} ({decimals(variant['micro'])}, "
            f"{variant['seconds_per_image']:.2f} s per image)")


@if_present("sampling")
def sampling_table(facts: Facts) -> str:
    """Return a row for each sampler and number of steps, a column for each guidance scale."""
    variants = facts.metrics["sampling"]["variants"]
    scales = sorted({variant["guidance_scale"] for variant in variants})
    rows = []
    for key in dict.fromkeys((v["sampler"], v["num_inference_steps"]) for v in variants):
        cells = {variant["guidance_scale"]: variant for variant in variants
                 if (variant["sampler"], variant["num_inference_steps"]) == key}
        rows.append([code(key[0]), str(key[1]), str(next(iter(cells.values()))["network_calls"]),
                     *(f"{decimals(cells[s]['micro'])} in {cells[s]['seconds_per_image']:.2f} s"
                       if s in cells else "–" for s in scales)])
    return table(["sampler", "steps", "network calls", *(f"guidance {s:g}" for s in scales)], rows,
                 "Micro accuracy over both files and seconds per image. With guidance other than "
                 f"1 a call has twice the images ({facts.origin()}).")
