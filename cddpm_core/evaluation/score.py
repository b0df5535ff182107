"""Scores: how many of the objects asked for the evaluator finds, and what it finds instead.

A score compares the k most probable objects with the k labels of an image. Micro accuracy
counts hits over all objects (the lab's evaluator on one batch); macro accuracy is the mean
over images of hits / k. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cddpm_core.config.errors import UserError
from cddpm_core.data.labels import COLOURS, OBJECTS, SHAPES, check_names

if TYPE_CHECKING:
    import torch

    from cddpm_core.evaluation.evaluator import Evaluator

__all__ = ["confusion", "evaluator_facts", "missed_pairs", "score", "score_facts"]


def score(probabilities: torch.Tensor | np.ndarray,
          conditions: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return the accuracies of probabilities ``(N, 24)`` for N conditions, as plain JSON.

    ``micro``, ``macro`` in [0, 1] and ``objects``; ``conditions``, one entry per image:
    its labels, the k predicted names from the most probable down, whether each label
    is a hit, the accuracy and the probabilities of its labels; and hits and totals
    ``per_object``, ``per_colour``, ``per_shape`` and ``per_count`` (number of labels).
    """
    probabilities = np.asarray(probabilities, np.float32)
    if probabilities.shape != (len(conditions), len(OBJECTS)) or not len(conditions):
        raise UserError(
            f"score: expected probabilities of shape ({len(conditions)}, {len(OBJECTS)}) with at "
            f"least one row for {len(conditions)} conditions, found {probabilities.shape}")
    if not np.isfinite(probabilities).all():
        raise UserError("score: expected finite probabilities, found NaN or infinity")
    entries = []
    tallies: dict[str, dict[str, dict[str, int]]] = {
        f"per_{kind}": {} for kind in ("object", "colour", "shape", "count")}
    for row, (values, names) in enumerate(zip(probabilities, conditions, strict=True)):
        labels = check_names(names, f"score: row {row}")
        order = np.argsort(-values, kind="stable")[: len(labels)]
        predicted = [OBJECTS[i] for i in order]
        hits = [name in predicted for name in labels]
        for name, hit in zip(labels, hits, strict=True):
            groups = (name, *name.split(), str(len(labels)))
            for tally, group in zip(tallies.values(), groups, strict=True):
                entry = tally.setdefault(group, {"hits": 0, "total": 0})
                entry["hits"] += hit
                entry["total"] += 1
        entries.append({
            "labels": list(labels), "predicted": predicted, "hits": hits,
            "accuracy": sum(hits) / len(hits),
            "probabilities": [values[OBJECTS.index(name)].item() for name in labels]})
    total = sum(len(entry["labels"]) for entry in entries)
    return {"micro": sum(sum(entry["hits"]) for entry in entries) / total,
            "macro": sum(entry["accuracy"] for entry in entries) / len(entries),
            "objects": total, "conditions": entries, **tallies}


def evaluator_facts(evaluator: Evaluator) -> dict[str, Any]:
    """Return an evaluator's entry in ``metrics.json``; held-out values are None if official."""
    heldout = evaluator.heldout or {}
    return {"kind": evaluator.kind, "sha256": evaluator.sha256, "known": evaluator.known,
            "released": evaluator.known and evaluator.kind == "stand-in",
            **{f"heldout_{key}": heldout.get(key)
               for key in ("micro", "macro", "images", "augmented_micro", "crowded_micro")}}


def score_facts(scored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a `score` in ``metrics.json``; ``solved`` images have all labels."""
    conditions = scored["conditions"]
    return {"micro": scored["micro"], "macro": scored["macro"],
            "hits": sum(sum(c["hits"]) for c in conditions), "objects": scored["objects"],
            "solved": sum(all(c["hits"]) for c in conditions), "images": len(conditions)}


def missed_pairs(scored: Mapping[str, Any]) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yield each missed label, the object predicted in its place, and the labels of its image.

    ``scored`` is what `score` returns. A missed label is paired with an object of its shape if
    one was predicted, else with one of its colour, else with any.
    """
    for condition in scored["conditions"]:
        missed = [n for n in condition["labels"] if n not in condition["predicted"]]
        extra = [n for n in condition["predicted"] if n not in condition["labels"]]
        for same in (1, 0, None):
            for name in list(missed):
                partner = next((n for n in extra
                                if same is None or n.split()[same] == name.split()[same]), None)
                if partner:
                    missed.remove(name)
                    extra.remove(partner)
                    yield name, partner, condition["labels"]


def confusion(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the confusion matrices of colours and shapes over several scores.

    ``colour`` and ``shape`` are square tables of all labels: a row for each label, a column for
    each prediction. Missed labels are counted by kind: ``bound`` in the colour of another label
    of the image, ``alien`` in a colour of no label, both in the right shape; ``reshaped`` in the
    right colour and another shape; ``other`` in another colour and shape.
    """
    colours, shapes = list(COLOURS), list(SHAPES)
    colour, shape = (np.zeros((len(names),) * 2, int) for names in (colours, shapes))
    counts = {"bound": 0, "alien": 0, "reshaped": 0, "other": 0}
    for scored in scores:
        found = [(name, name, ()) for entry in scored["conditions"] for name in entry["labels"]
                 if name in entry["predicted"]]
        for name, predicted, labels in [*found, *missed_pairs(scored)]:
            (c, s), (other_c, other_s) = name.split(), predicted.split()
            colour[colours.index(c), colours.index(other_c)] += 1
            shape[shapes.index(s), shapes.index(other_s)] += 1
            if name != predicted:
                others = {label.split()[0] for label in labels if label != name}
                counts["reshaped" if c == other_c else "other" if s != other_s else
                       "bound" if other_c in others else "alien"] += 1
    return {"colour": colour.tolist(), "shape": shape.tolist(), **counts}
