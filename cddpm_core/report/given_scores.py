"""The score of images made elsewhere: in the terminal, as Markdown, as a picture and as files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cddpm_core.config.files import typed_path, write_json, write_png
from cddpm_core.data.images import to_float
from cddpm_core.data.labels import COLOURS, SHAPES
from cddpm_core.evaluation.given_images import GivenImages
from cddpm_core.evaluation.score import missed_pairs
from cddpm_core.report.compare import is_usual, paired
from cddpm_core.report.facts import evaluator_phrase
from cddpm_core.report.figures import labelled_grid
from cddpm_core.report.markdown import code, decimals, escape, prose, table, with_interval
from cddpm_core.runs.run import Run

__all__ = ["score_figure", "score_folder", "score_lines", "score_text", "verdict_sentence",
           "write_score"]

MAX_SHOWN = 320  # images of a picture
PARTS = (("per_colour", "colour"), ("per_shape", "shape"), ("per_count", "number of objects"))


def score_folder(source: str | Path, conditions: str = "test") -> Path:
    """Return the folder for the score of images, below ``outputs/scores/``.

    Its name is the end of their path and, unless these are ``test``, that of the conditions.
    """
    path = Path(source).absolute()
    parts = [part for part in (*path.parts[-3:-1], path.stem)
             if part not in ("images", "grids", "figures")]
    if "outputs" in parts:
        parts = parts[parts.index("outputs") + 1:]
    parts = parts[-2:]
    if Path(conditions).stem not in ("test", *parts):
        parts.append(Path(conditions).stem)
    name = re.sub(r"[^\w.-]+", "-", "_".join(parts)).strip("-.")
    return Run("scores") / (name or "images")


def score_lines(result: Mapping[str, Any]) -> list[str]:
    """Return a result of `score_given` as lines for the terminal."""
    lines = [f"images: {_images(result)}", f"conditions: {result['condition_file']}"]
    for scored in _verdicts(result):
        lines += [f"scored by: {evaluator_phrase(scored['evaluator'])}",
                  f"micro {scored['micro']:.4f}, macro {scored['macro']:.4f}; "
                  f"{scored['hits']} of {scored['objects']} objects found, all labels in "
                  f"{scored['solved']} of {scored['images']} images",
                  *("found: " + ", ".join(map(" ".join, _tallies(scored, part)))
                    for part, _ in PARTS)]
    if "second" in result:
        differ = [f"{row} ({sum(here['hits'])} and {sum(there['hits'])} of {len(here['hits'])})"
                  for row, (here, there) in enumerate(_paired(result))
                  if sum(here["hits"]) != sum(there["hits"])]
        lines += [verdict_sentence(result),
                  f"images with a different number of hits, {_short(result['evaluator'])} and "
                  f"released stand-in: {', '.join(differ) or 'none'}"]
    return lines + [f"Warning: {sentence}" for sentence in result["warnings"]]


def score_text(result: Mapping[str, Any]) -> str:
    """Return a result of `score_given` as Markdown: warnings and tables."""
    rows = [[evaluator_phrase(scored["evaluator"]), decimals(scored["micro"]),
             decimals(scored["macro"]), f"{scored['hits']} of {scored['objects']}",
             f"{scored['solved']} of {scored['images']}"] for scored in _verdicts(result)]
    conditions = code(result["condition_file"])
    return "\n".join([
        *(f"- **Warning.** {escape(sentence)}" for sentence in result["warnings"]), "",
        table(["evaluator", "micro", "macro", "objects found", "images fully correct"], rows,
              f"{escape(_images(result))}, scored for {conditions}."),
        prose(verdict_sentence(result)),
        *(table([what, "found"], _tallies(result, part),
                f"Objects found, of those asked for in {conditions}, by {what}.")
          for part, what in PARTS)])


def verdict_sentence(result: Mapping[str, Any]) -> str:
    """Return how far both evaluators differ, and what that usually means; empty if there is one."""
    if "second" not in result:
        return ""
    more = [sum(here["hits"]) - sum(there["hits"]) for here, there in _paired(result)]
    mean, half = paired(more, result["objects"])
    first = _short(result["evaluator"])
    differ = (f"The {first} differs from the released stand-in by "
              f"{with_interval(mean, half, signed=True)} in micro accuracy")
    if is_usual(mean, half):
        return (f"{differ}, which is usual for images that were made without either evaluator.")
    return f"{differ}, more than is usual. Possible reasons: " + (
        f"the images were guided by the {first}, their model was optimised for it, or they are "
        "unlike the rendered scenes that the stand-in was trained on."
        if mean > 0 else "the images differ from those that the stand-in was trained on in "
        "contrast, sharpness or size, or the stand-in took part in making them.")


def score_figure(given: GivenImages, result: Mapping[str, Any]) -> Figure:
    """Return the images with each label marked right or wrong, and what was seen instead.

    With two verdicts a label has two marks, that of the given evaluator first.
    """
    shown = min(len(given), MAX_SHOWN)
    heading = [f"{_images(result)}; {result['condition_file']}" + (
        f"; the first {shown}" if shown < len(given) else ""),
        *(f"micro {scored['micro']:.3f}, macro {scored['macro']:.3f}, all labels in "
          f"{scored['solved']} of {scored['images']} images: "
          f"{evaluator_phrase(scored['evaluator'])}" for scored in _verdicts(result)),
        *(f"Warning: {sentence}" for sentence in result["warnings"])]
    per_row = min(result["given"].get("columns", 8), 8)
    return labelled_grid(
        to_float(given.pixels[:shown]), [str(row) for row in range(shown)],
        [list(_labels([scored["conditions"][row] for scored in _verdicts(result)]))
         for row in range(shown)], max(per_row, 4), width=9.6,
        heading="\n".join(line for text in heading for line in textwrap.wrap(text, 165)))


def write_score(given: GivenImages, result: Mapping[str, Any],
                folder: str | Path) -> list[Path]:
    """Write ``score.json`` and ``score.png`` to a folder and return their paths."""
    paths = [typed_path(folder) / name for name in ("score.json", "score.png")]
    sentence = verdict_sentence(result)
    write_json(paths[0], {**result, **({"verdicts": sentence} if sentence else {})})
    write_png(paths[1], score_figure(given, result))
    return paths


def _verdicts(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [result, *([result["second"]] if "second" in result else [])]


def _paired(result: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return zip(result["conditions"], result["second"]["conditions"], strict=True)


def _short(evaluator: Mapping[str, Any]) -> str:
    return "official evaluator" if evaluator["kind"] == "official" else "private stand-in"


def _images(result: Mapping[str, Any]) -> str:
    given = result["given"]
    how = {"grid": "cells of the grid {source}", "folder": "in {source}",
           "files": "files, {source}", "list": "listed in {source}",
           "tensor": "of a tensor"}[given["is"]]
    grid = (f" ({given['columns']} x {given['rows']}, {given['padding']} pixels between)"
            if given["is"] == "grid" else "")
    images = f"{result['images']} image{'s' * (result['images'] != 1)}"
    return (f"{images} of {given['width']} x {given['height']} pixels, "
            f"{how.format(**given)}{grid}")


def _tallies(result: Mapping[str, Any], part: str) -> list[tuple[str, str]]:
    known = [*COLOURS, *SHAPES]
    names = sorted(result[part], key=lambda n: known.index(n) if n in known else int(n))
    return [(f"{name} object{'s' * (name != '1')}" if part == "per_count" else name,
             f"{result[part][name]['hits']}/{result[part][name]['total']}") for name in names]


def _labels(conditions: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, bool | None]]:
    """The labels of an image with a mark for each verdict, and what the first saw instead."""
    instead = {name: seen for name, seen, _ in missed_pairs({"conditions": conditions[:1]})}
    for index, name in enumerate(conditions[0]["labels"]):
        hits = [condition["hits"][index] for condition in conditions]
        yield f"{''.join('✓' if hit else '✗' for hit in hits)} {name}", all(hits)
        if name in instead:
            yield f"     saw {instead[name]}", None
