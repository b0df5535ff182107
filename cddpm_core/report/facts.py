"""What a run has written so far, as the report reads it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cddpm_core.config.schema import Params
from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.report.language import say
from cddpm_core.report.markdown import decimals
from cddpm_core.runs.run import Run

__all__ = ["ACCURACIES", "DATA_KINDS", "GUIDED", "Facts", "accuracies", "evaluator_phrase",
           "if_present", "read_facts"]

# Added to every figure and table of a run whose sampling used the evaluator.
GUIDED = "sampling was guided by this evaluator, so its scores are biased"
DATA_KINDS = {"real": "real i-CLEVR images", "given": "images of a given folder",
              "rendered": "rendered scenes", "cycles": "scenes rendered by Cycles"}
ACCURACIES = [(name, metric) for name in CONDITION_FILES for metric in ("micro", "macro")]


@dataclass(frozen=True)
class Facts:
    """All that a run has written so far; a part whose stage has not run is empty."""

    run: Run
    params: Params
    metrics: dict[str, Any]
    scores: dict[str, Any]
    status: dict[str, Any]

    def data_phrase(self) -> str:
        """Return where the images come from."""
        kind = self.metrics.get("data", {}).get("kind")
        return say(DATA_KINDS.get(kind, "data not described yet"))

    def origin(self) -> str:
        """Return the data and the evaluator in a phrase, for every figure and table."""
        parts = [self.data_phrase(), evaluator_phrase(self.metrics.get("evaluator", {}))]
        if self.params.evaluator_guidance:
            parts.append(say(GUIDED))
        return say("; ").join(parts)

    def uses_layouts(self) -> bool:
        """Whether the network is conditioned on positions and the data has some."""
        return self.params.layout and self.metrics.get("train", {}).get("layouts") != 0

    def layout_note(self) -> str:
        """Return how positions were chosen, as the end of a caption; empty if at random."""
        choices = self.params.layout_choices
        if not self.uses_layouts() or choices == 1:
            return ""
        return say("; each layout is the least crowded of {choices} training layouts",
                   choices=choices)


def read_facts(run: Run, params: Params) -> Facts:
    """Return what the run has written so far."""
    return Facts(run, params, run.read("metrics.json"), run.read("scores.json"),
                 run.read("status.json"))


def accuracies(found: Mapping[str, Any]) -> list[str]:
    """Return micro and macro accuracy of both condition files as cells of a table."""
    return [decimals(found[name][metric]) for name, metric in ACCURACIES]


def evaluator_phrase(evaluator: Mapping[str, Any]) -> str:
    """Return which evaluator it is; a stand-in never without its held-out accuracy.

    ``evaluator`` is the part of ``metrics.json`` that `evaluator_facts` returns. A private
    stand-in has the first digits of its hash.
    """
    if not evaluator:
        return say("no evaluator yet")
    if evaluator["kind"] == "official":
        return say("official evaluator" if evaluator["known"] else
                   "checkpoint like the official evaluator's (unknown SHA-256)")
    return say("released stand-in evaluator, {micro} micro on held-out scenes"
               if evaluator.get("released") else
               "private stand-in evaluator {hash}, {micro} micro on held-out scenes",
               hash=evaluator["sha256"][:8], micro=decimals(evaluator["heldout_micro"]))


def if_present(part: str) -> Callable:
    """Make a function of `Facts` return nothing unless ``part`` of ``metrics.json`` is there."""
    def wrap(write: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(write)
        def wrapped(facts: Facts, *args: Any, **options: Any) -> str:
            there = part in facts.metrics and (part not in CONDITION_FILES or facts.scores)
            return write(facts, *args, **options) if there else ""
        return wrapped
    return wrap
