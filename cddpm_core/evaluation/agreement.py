"""How far an evaluator agrees with the official one, on images with a known official score.

A folder of such images has ``manifest.json``, a list with an entry for each grid picture: its
``file``, the ``conditions`` (``test``, ``new_test`` or a file), the ``official`` score, its
``metric`` (``micro`` or ``macro``), the ``kind`` of model and the ``quality`` of the picture.
``per_image.json``, if there, maps some of these files to a list with the official ``hits`` of
each image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from cddpm_core.config.errors import UserError, did_you_mean, shown
from cddpm_core.config.files import SCHEMA, read_json, typed_path
from cddpm_core.config.progress import progress
from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.evaluation.evaluator import Evaluator
from cddpm_core.evaluation.given_score import Treatment, score_images
from cddpm_core.evaluation.score import evaluator_facts
from cddpm_core.evaluation.stand_in import load_evaluator

__all__ = ["BIASED", "agreement"]

# Kinds of models that know the official evaluator, so that its score says less of their images.
BIASED = ("classifier guidance", "trained against the official evaluator")
KEYS = {"file": str, "conditions": str, "official": float, "metric": str, "kind": str,
        "quality": str}


def agreement(folder: str | Path, evaluator: Evaluator | str | Path | None = None,
              tone: Treatment = "auto", desc: str | None = None) -> dict[str, Any]:
    """Return the agreement of an evaluator with the official scores of a folder, as plain JSON.

    ``grids`` has each entry of the manifest with the ``score`` found and the ``gap``, score less
    official; ``groups`` the `gaps` of grids by quality and by kind; ``images`` how many images of
    ``per_image.json`` have the ``same`` number of hits, and the others in ``differ``. The
    evaluator is the released stand-in by default; ``tone`` is that of `score_given`; ``desc``
    names a progress bar.
    """
    folder = typed_path(folder)
    entries, official = _manifest(folder), _per_image(folder)
    if not isinstance(evaluator, Evaluator):
        evaluator = load_evaluator(evaluator or "")
    grids, images = [], []
    for entry in progress(iterable=entries, desc=desc, unit="grid", disable=desc is None):
        conditions = entry["conditions"]
        scored = score_images(folder / entry["file"], conditions if conditions in CONDITION_FILES
                              else folder / conditions, evaluator, tone=tone)
        grids.append({**entry, "score": scored[entry["metric"]],
                      "gap": scored[entry["metric"]] - entry["official"],
                      "tone": scored["given"]["tone"]["kind"], "warnings": scored["warnings"]})
        if entry["file"] in official:
            images += _compared(folder, entry["file"], official[entry["file"]],
                                scored["conditions"])
    fair = [grid for grid in grids if grid["kind"] not in BIASED]
    qualities, kinds = (list(dict.fromkeys(grid[key] for grid in grids))
                        for key in ("quality", "kind"))
    return {
        "schema": SCHEMA, "evaluator": evaluator_facts(evaluator), "grids": grids,
        "groups": [gaps("all but guided or trained against", fair),
                   *(gaps(name, [g for g in fair if g["quality"] == name]) for name in qualities),
                   *(gaps(name, [g for g in grids if g["kind"] == name]) for name in kinds)],
        "images": {"compared": len(images), "same": sum(i["same"] for i in images),
                   "differ": [image for image in images if not image["same"]]}}


def gaps(name: str, grids: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean absolute gap of a group of grids, the mean gap, the largest, and Spearman's
    rank correlation of both scores; None where there are too few."""
    found = np.array([grid["gap"] for grid in grids])
    scores = [[grid[key] for grid in grids] for key in ("official", "score")]
    ranked = len(grids) > 2 and all(len(set(values)) > 1 for values in scores)
    return {"name": name, "grids": len(grids),
            "mean_absolute_gap": float(np.abs(found).mean()) if len(found) else None,
            "mean_gap": float(found.mean()) if len(found) else None,
            "largest_gap": float(np.abs(found).max()) if len(found) else None,
            "rank_correlation": float(spearmanr(*scores).statistic) if ranked else None}


def _compared(folder: Path, file: str, official: Sequence[Mapping[str, Any]],
              found: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    where = f"{folder / 'per_image.json'}: {file}"
    if len(official) != len(found):
        raise UserError(f"{where}: found {len(official)} images, expected {len(found)}")
    for row, (theirs, ours) in enumerate(zip(official, found, strict=True)):
        if not isinstance(theirs, dict) or not isinstance(theirs.get("hits"), int):
            raise UserError(f"{where}: image {row}: expected the number of 'hits', found "
                            f"{shown(theirs)}")
        if theirs.get("labels", ours["labels"]) != ours["labels"]:
            raise UserError(f"{where}: image {row}: found the labels {shown(theirs['labels'])}, "
                            f"expected those of the conditions, {shown(ours['labels'])}")
        yield {"file": file, "row": row, "labels": ours["labels"], "official": theirs["hits"],
               "hits": sum(ours["hits"]), "same": theirs["hits"] == sum(ours["hits"]),
               "predicted": ours["predicted"]}


def _manifest(folder: Path) -> list[dict[str, Any]]:
    path = folder / "manifest.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected one with manifest.json and grid "
                        "pictures")
    found = read_json(path)
    if not isinstance(found, list) or not found:
        raise UserError(f"{path}: expected a list of grids")
    for row, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: entry {row}: expected keys and values, found {shown(entry)}")
        for key, kind in KEYS.items():
            value = entry.get(key)
            if not isinstance(value, (int, float) if kind is float else kind):
                near = did_you_mean(key, entry) if key not in entry else ""
                raise UserError(f"{path}: entry {row}: {key}: expected {kind.__name__}, found "
                                f"{shown(value) if key in entry else 'nothing'}{near}")
        if entry["metric"] not in ("micro", "macro") or not 0 <= entry["official"] <= 1:
            raise UserError(f"{path}: entry {row}: expected micro or macro from 0 to 1, found "
                            f"{shown(entry['metric'])} {shown(entry['official'])}")
    return found


def _per_image(folder: Path) -> dict[str, list[Any]]:
    path = folder / "per_image.json"
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict) or not all(isinstance(v, list) for v in found.values()):
        raise UserError(f"{path}: expected files, each with a list of its images")
    return found
