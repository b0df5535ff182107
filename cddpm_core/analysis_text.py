"""Sentences and tables on the closer looks and the sampling experiment, from ``metrics.json``."""

from __future__ import annotations

from typing import Any

from cddpm_core.facts import Facts, needs
from cddpm_core.labels import CONDITION_FILES
from cddpm_core.markdown import code, count, escape, listed, share, table

__all__ = ["analysis_text", "distance_table", "quartile_table", "sampling_table",
           "sampling_text", "weights_table"]


@needs("analyse", "analyse")
def analysis_text(facts: Facts) -> str:
    """Return what the closer looks found, in sentences."""
    found = facts.metrics["analyse"]
    confused, near, varied = found["confusion"], found["nearest"], found["diversity"]
    items = [
        f"Over both files {confused['bound'] + confused['alien']} objects were seen in another "
        f"colour, {confused['bound']} of them in one that was asked for with another object of "
        f"the image (bound to the wrong object) and {confused['alien']} in one that was not asked "
        f"for at all; {confused['reshaped']} in another shape; {confused['other']} in both.",
        f"From one of {near['images']} drawn images to the training image nearest to it, it is "
        f"{near['drawn']:.1f} levels of 255 on average"
        + (f", from a held-out image of the same labels {near['heldout']:.1f}: the drawn ones are "
           + ("no nearer to what was trained on than those."
              if near["drawn"] >= near["heldout"] else "nearer to what was trained on than those.")
           if near["heldout"] is not None else
           "; there are no held-out images to set beside it."),
        f"{varied['images']} images drawn for {listed([code(n) for n in varied['labels']])} are "
        f"{varied['drawn']:.1f} levels apart on average"
        + (f", {varied['compared']} training images of these labels {varied['training']:.1f}."
           if varied["training"] is not None else
           "; too few training images have just these labels to compare.")]
    if found.get("restored"):
        items.insert(0, _restored(found["restored"], found["asked_of"]))
    return "\n".join(f"- {item}" for item in items) + "\n"


def _restored(points: list[dict[str, Any]], asked_of: str) -> str:
    spans = list(zip(points, points[1:], strict=False))
    low, high = max(spans, key=lambda span: span[0]["micro"] - span[1]["micro"])
    kept = "; ".join(f"{share(point['micro'])} from t = {point['timestep']}"
                     for point in points[1:])
    lost = low["micro"] - high["micro"]
    return (f"Of the objects of {escape(asked_of)} the evaluator finds {share(points[0]['micro'])} "
            f"as they are, and after they were given noise and drawn again: {kept}."
            + (f" Most is lost between {low['timestep']} and "
               f"{high['timestep']}, {share(lost)}." if lost > 0 else ""))


@needs("analyse")
def quartile_table(facts: Facts) -> str:
    """Return the errors in each quarter of the timesteps."""
    found = facts.metrics["analyse"]
    names = {"x_0": "error of $x_0$", "x_0_without_label": "the same without the label",
             "epsilon": r"error of $\epsilon$"}
    shown = {key: name for key, name in names.items() if key in found["quartiles"][0]}
    rows = [[" to ".join(map(str, part["timesteps"])), *(f"{part[key]:.5f}" for key in shown)]
            for part in found["quartiles"]]
    return table(["timesteps", *shown.values()], rows,
                 f"Mean squared errors of the prediction on {count(found['images_asked'])} "
                 f"{escape(found['asked_of'])}, in the values the network sees, by quarter of the "
                 f"timesteps ({facts.origin()}).")


@needs("analyse")
def weights_table(facts: Facts) -> str:
    """Return the accuracies of the averaged weights and of those of the last step."""
    raw = facts.metrics["analyse"].get("raw")
    if not raw:
        return "There are no other weights than those that were evaluated.\n"
    averaged = {file: facts.metrics[file].get("first", facts.metrics[file])
                for file in CONDITION_FILES}
    rows = [[name, *(share(source[file][metric]) for file in CONDITION_FILES
                     for metric in ("micro", "macro"))]
            for name, source in (("moving average (EMA)", averaged), ("of the last step", raw))]
    return table(["weights", *(f"{file} {metric}" for file in CONDITION_FILES
                               for metric in ("micro", "macro"))], rows,
                 "Averaged and raw weights, drawn from the same seeds, one image for each label "
                 f"set ({facts.origin()}).")


@needs("analyse")
def distance_table(facts: Facts) -> str:
    """Return the Frechet and kernel distances on the evaluator's features."""
    found = facts.metrics["analyse"]["distances"]
    if not found:
        return "There are too few images for distances between sets of them.\n"
    rows = [[escape(name), f"{found[key]['frechet']:.2f}", f"{found[key]['kernel']:.4f}"]
            for key, name in (("drawn", "drawn images"), ("baseline", found["baseline_is"]))]
    return table(["images", "Fréchet distance", "kernel distance"], rows,
                 f"Distance of {count(found['images'])} images each to as many "
                 f"{escape(found['compared_with'])}, on the 512 features of the evaluator. These "
                 "are not FID and KID, which use another network, and depend on the number of "
                 f"images ({facts.origin()}).")


@needs("sampling", "sampling")
def sampling_text(facts: Facts) -> str:
    """Return the best and the fastest good arm of the sampling experiment."""
    found = facts.metrics["sampling"]
    arms = found["arms"]
    best = max(arms, key=lambda arm: arm["micro"])
    near = [arm for arm in arms if arm["micro"] >= best["micro"] - 0.03]
    fastest = min(near, key=lambda arm: arm["seconds_per_image"])
    return (f"Each of the {len(arms)} arms draws the label sets of both files, "
            f"{found['objects']} objects, with the same weights and seeds. The best is "
            f"{_named(best)}; the fastest within 0.03 of it is {_named(fastest)}. With so many "
            "arms the best one is partly the luckiest.\n")


def _named(arm: dict[str, Any]) -> str:
    return (f"{code(arm['sampler'])} in {arm['num_inference_steps']} steps with guidance "
            f"{arm['guidance_scale']:g} ({share(arm['micro'])}, "
            f"{arm['seconds_per_image']:.2f} s an image)")


@needs("sampling")
def sampling_table(facts: Facts) -> str:
    """Return a row for each sampler and number of steps, a column for each guidance scale."""
    arms = facts.metrics["sampling"]["arms"]
    scales = sorted({arm["guidance_scale"] for arm in arms})
    rows = []
    for key in dict.fromkeys((arm["sampler"], arm["num_inference_steps"]) for arm in arms):
        cells = {arm["guidance_scale"]: arm for arm in arms
                 if (arm["sampler"], arm["num_inference_steps"]) == key}
        rows.append([code(key[0]), str(key[1]), str(next(iter(cells.values()))["network_calls"]),
                     *(f"{share(cells[s]['micro'])} in {cells[s]['seconds_per_image']:.2f} s"
                       if s in cells else "–" for s in scales)])
    return table(["sampler", "steps", "network calls", *(f"guidance {s:g}" for s in scales)], rows,
                 "Micro accuracy over both files, and seconds an image, by sampler, steps and "
                 f"guidance; a call with guidance other than 1 is of twice the images "
                 f"({facts.origin()}).")
