"""Score images made elsewhere, and warn if they may not be what was scored there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from cddpm_core.config.errors import UserError, did_you_mean
from cddpm_core.config.files import SCHEMA, typed_path
from cddpm_core.data.images import to_float
from cddpm_core.data.labels import (
    CONDITION_FILES,
    OBJECTS,
    check_names,
    condition_file,
    read_conditions,
)
from cddpm_core.evaluation.evaluator import Evaluator
from cddpm_core.evaluation.given_images import GivenImages, read_images
from cddpm_core.evaluation.grids import MIN_CELL
from cddpm_core.evaluation.images import to_uint8
from cddpm_core.evaluation.score import evaluator_facts, score, score_facts
from cddpm_core.evaluation.stand_in import load_evaluator, released
from cddpm_core.evaluation.tone import GROUND, Tone, read_tone, set_back

__all__ = ["Treatment", "given_conditions", "score_given", "score_images"]

Conditions = str | Path | Sequence[Sequence[str]]
Treatment = Literal["auto", "keep", "undo"]
CLEARLY = 2.5  # standard errors of a difference of accuracies, where a hit varies by at most 0.5


def score_images(images: Any, conditions: Conditions = "test",
                 evaluator: Evaluator | str | Path | None = None, *,
                 tone: Treatment = "auto") -> dict[str, Any]:
    """Return the score of images made elsewhere, see `score_given`.

    Args:
        images: a tensor (N, 3, H, W) in [-1, 1]; or a path or paths, see `read_images`.
        conditions: ``test``, ``new_test``, the path of a condition file, or N lists of names.
        evaluator: an evaluator or the path of its file; None: the released stand-in.
        tone: see `score_given`.
    """
    wanted = given_conditions(conditions)[1]
    if isinstance(images, torch.Tensor):
        if images.ndim != 4 or images.shape[1] != 3 or not images.isfinite().all():
            raise UserError("images: expected finite values of shape (N, 3, H, W), found shape "
                            f"{tuple(images.shape)}")
        pixels = to_uint8(images).cpu().numpy()
        given = GivenImages("tensor", pixels, tuple(map(str, range(len(pixels)))), {
            "source": "tensor", "is": "tensor", "images": len(pixels), "width": pixels.shape[2],
            "height": pixels.shape[1], "lossy": [], "gray": False})
    else:
        given = read_images(images, expected=len(wanted))
    return score_given(given, conditions, evaluator, tone=tone)


def given_conditions(conditions: Conditions) -> tuple[str, list[tuple[str, ...]]]:
    """Return the name and the conditions of ``test``, ``new_test``, a file, or lists of names."""
    if not isinstance(conditions, str | Path):
        return "given", [check_names(names, f"conditions: row {row}")
                         for row, names in enumerate(conditions)]
    if str(conditions) in CONDITION_FILES:
        return str(conditions), read_conditions(condition_file(str(conditions)))
    path = typed_path(conditions)
    if not path.exists():
        near = did_you_mean(conditions, CONDITION_FILES) or did_you_mean(
            path.name, [p.name for p in path.parent.glob("*.json")])
        raise UserError(f"conditions: found {str(conditions)!r}{near}, expected "
                        f"{' or '.join(CONDITION_FILES)} or a JSON file with a list of labels for "
                        "each image")
    return str(conditions), read_conditions(path)


def score_given(given: GivenImages, conditions: Conditions = "test",
                evaluator: Evaluator | str | Path | None = None, *,
                tone: Treatment = "auto") -> dict[str, Any]:
    """Return the score of N images for N conditions, as plain JSON.

    It is what `score` and `score_facts` return, with facts of the images that were ``given``, the
    ``condition_file``, the ``evaluator``, and ``warnings``: a sentence for each reason why these
    may not be the images that were scored elsewhere. With another evaluator than the released
    stand-in, ``second`` is the stand-in's score of the same images.

    A tone stretched to the range of all images is set back before they are scored, see
    `tone.set_back`; with ``tone`` "keep" never, with "undo" always. ``otherwise`` is then
    the accuracy of the other way.
    """
    name, wanted = given_conditions(conditions)
    if len(given) != len(wanted):
        others = [file for file in CONDITION_FILES if file != name
                  and len(read_conditions(condition_file(file))) == len(given)]
        span = f", {given.names[0]} to {given.names[-1]}{_gap(given)}" if len(given) > 1 else ""
        raise UserError(f"{given.source}: found {len(given)} images{span}, expected "
                        f"{len(wanted)}, one for each row of {name}"
                        + (f" (--conditions {others[0]} has {len(given)})" if others else ""))
    if not isinstance(evaluator, Evaluator):
        evaluator = load_evaluator(evaluator or "")
    height, width = given.pixels.shape[1:3]
    if min(height, width) < MIN_CELL:
        raise UserError(f"{given.source}: found images of {width} x {height} pixels, expected at "
                        f"least {MIN_CELL} x {MIN_CELL}")
    found = read_tone(given.pixels)
    if tone == "undo" and found.kind == "unknown":
        raise UserError(f"{given.source}: the gray ground of i-CLEVR is not seen, so its tone "
                        "cannot be undone")
    change = tone == "undo" or (tone == "auto" and found.kind == "stretched")
    here = _images(given, found, change)
    probabilities = evaluator(here)
    scored = _scored(probabilities, wanted)
    result = {"schema": SCHEMA, "given": {**given.facts, "names": list(given.names), "tone": {
        **asdict(found), "set_back": change}}, "condition_file": name,
        "evaluator": evaluator_facts(evaluator), "warnings": [], **scored}
    if change or found.kind.startswith("stretched"):
        result["otherwise"] = score_facts(score(evaluator(_images(given, found, not change)),
                                                wanted))
    if not result["evaluator"]["released"]:
        stand_in = released(evaluator.device)
        result["second"] = {"evaluator": evaluator_facts(stand_in),
                            **_scored(stand_in(here), wanted)}
    order = _better_order(probabilities.numpy(), wanted, name, given.facts.get("columns", 0))
    gap = _gap(given) and (f"order: the names are numbered{_gap(given)}, so images may be scored "
                           "for the labels of others")
    result["warnings"] = [*_warnings(given.facts, found, result), *filter(None, [gap, order])]
    return result


def _gap(given: GivenImages) -> str:
    """The first number that is missing between those of the names, if they are numbers."""
    stems = [Path(name).stem for name in given.names]
    if not all(stem.isdecimal() for stem in stems):
        return ""
    numbers = set(map(int, stems))
    missing = next((n for n in range(min(numbers), max(numbers)) if n not in numbers), None)
    return "" if missing is None else f" without {missing}"


def _scored(probabilities: torch.Tensor, conditions: Sequence[Sequence[str]]) -> dict[str, Any]:
    scored = score(probabilities, conditions)
    return {**score_facts(scored), **scored}


def _images(given: GivenImages, tone: Tone, change: bool) -> torch.Tensor:
    """The images as the evaluator gets them, (N, 3, 64, 64) in [-1, 1]."""
    pixels = given.pixels
    if change:
        pixels = set_back(pixels, each=tone.kind == "stretched each")
    return Evaluator.resized(to_float(pixels))


def _warnings(facts: Mapping[str, Any], tone: Tone, result: Mapping[str, Any]) -> Iterator[str]:
    usual = (f"the ground is at {tone.ground:.0f} of 255 levels, where i-CLEVR has "
             f"{GROUND.mean():.0f}")
    if tone.kind.startswith("stretched"):
        by = ("each image by itself, by min-max normalisation (scale_each=True), in the picture "
              "or before" if tone.kind == "stretched each" else
              "by min-max normalisation, as make_grid(normalize=True) does")
        done, other = "as they are", "with the tone set back"
        if result["given"]["tone"]["set_back"]:
            done, other = other, done
        yield (f"tone: stretched {by}: {usual}, and the darkest value is 0, the brightest 255; "
               f"scored {done}; {other}: micro {result['otherwise']['micro']:.3f}")
    elif tone.kind == "other":
        yield (f"tone: {usual}, with {tone.contrast:.1f} times the contrast, so the images were "
               "probably saved from another range than [-1, 1]")
    elif tone.kind == "unknown":
        yield "tone: the gray ground of i-CLEVR is not seen, so these may be other images"
    if facts["lossy"]:
        yield (f"format: {' and '.join(facts['lossy'])} is lossy, so these are not exactly the "
               "pixels that were generated")
    if (facts["width"], facts["height"]) != (64, 64):
        yield (f"size: found {facts['width']} x {facts['height']} pixels, resized to 64 x 64, "
               "the size at which the official evaluator scores")
    if facts["gray"]:
        yield "colour: all images are gray, so no colour can be told"


def _better_order(probabilities: np.ndarray, conditions: Sequence[Sequence[str]], name: str,
                  columns: int) -> str:
    """Return a sentence if the images fit the conditions clearly better in another order."""
    count = len(conditions)
    objects = sum(map(len, conditions))
    hits = _hits(probabilities, conditions)
    rows = np.arange(count)
    text = np.array(sorted(range(count), key=str))
    orders = {"in reverse order": rows[::-1],
              "in the order 0, 1, 10, 11, 2, ..., in which names are sorted as text": text,
              "in the order that sorting the names 0, 1, 10, 11, 2, ... as text undoes":
              np.argsort(text)}
    if columns and count % columns == 0:
        orders["column by column"] = rows.reshape(columns, -1).T.ravel()
    best = {f"{name} {how}": hits[rows, order].sum() / objects for how, order in orders.items()}
    for file in CONDITION_FILES:
        others = read_conditions(condition_file(file))
        if len(others) == count and list(map(tuple, conditions)) != others:
            best[f"{file} (--conditions {file})"] = (
                _hits(probabilities, others)[rows, rows].sum() / sum(map(len, others)))
    here, margin = hits[rows, rows].sum() / objects, CLEARLY * (0.5 / objects) ** 0.5
    which, micro = max(best.items(), key=lambda item: item[1])
    if micro <= here + margin:
        which = f"{name} in some other order"
        micro = hits[linear_sum_assignment(hits, maximize=True)].sum() / objects
        if micro <= here + 0.4:  # the best of all orders is better for any images
            return ""
    return (f"order: the images fit the labels of {which} clearly better, micro {micro:.3f} "
            f"where it is {here:.3f}")


def _hits(probabilities: np.ndarray, conditions: Sequence[Sequence[str]]) -> np.ndarray:
    """How many labels of each condition each image shows, (images, conditions)."""
    rank = np.argsort(np.argsort(-probabilities, axis=1, kind="stable"), axis=1)
    return np.stack([(rank[:, [OBJECTS.index(label) for label in labels]] < len(labels)).sum(1)
                     for labels in conditions], axis=1)
