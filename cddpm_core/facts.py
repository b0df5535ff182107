"""What a run has written so far, as the report reads it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cddpm_core.markdown import code, share
from cddpm_core.params import FIELDS, Params
from cddpm_core.runs import Run, project_root

if TYPE_CHECKING:
    from cddpm_core.evaluator import Evaluator

__all__ = ["GUIDED", "Facts", "command", "evaluator_facts", "evaluator_phrase", "needs",
           "read_facts", "score_facts"]


# Said of every figure and table of a run whose images the evaluator has helped to draw.
GUIDED = "; images drawn with guidance by that evaluator, so that its scores say little"


@dataclass(frozen=True)
class Facts:
    """All that a run has written so far; a part whose stage has not run is empty."""

    run: Run
    params: Params
    metrics: dict[str, Any]
    scores: dict[str, Any]
    status: dict[str, Any]

    def origin(self) -> str:
        """Return the data and the evaluator in a phrase, said beside every figure and table."""
        kind = self.metrics.get("data", {}).get("kind")
        data = {"real": "real i-CLEVR images", "rendered": "rendered scenes"}.get(
            kind, "data not described yet")
        guided = GUIDED if self.params.evaluator_guidance else ""
        return f"{data}; {evaluator_phrase(self.metrics.get('evaluator', {}))}{guided}"

    def chosen(self) -> str:
        """Return how the images of the condition files were chosen, said where they count."""
        candidates, choices = self.params.candidates, self.params.layout_choices
        laid = self.params.layout and self.metrics.get("train", {}).get("layouts") != 0
        clearest = "" if not laid or choices == 1 else (
            f"; objects stand as in the clearest of {choices} training scenes")
        return clearest + ("" if candidates == 1 else (
            f"; of {candidates} images for each label set the one that the network itself takes "
            "for the best"))


def read_facts(run: Run, params: Params) -> Facts:
    """Return what the run has written so far."""
    return Facts(run, params, run.read("metrics.json"), run.read("scores.json"),
                 run.read("status.json"))


def evaluator_facts(evaluator: Evaluator) -> dict[str, Any]:
    """Return what ``metrics.json`` says of an evaluator; held-out values are None if official."""
    heldout = evaluator.heldout or {}
    return {"kind": evaluator.kind, "sha256": evaluator.sha256, "known": evaluator.known,
            **{f"heldout_{key}": heldout.get(key)
               for key in ("micro", "macro", "images", "augmented_micro", "crowded_micro")}}


def score_facts(scored: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``metrics.json`` says of a score of `evaluator.score`."""
    conditions = scored["conditions"]
    return {"micro": scored["micro"], "macro": scored["macro"],
            "hits": sum(sum(c["hits"]) for c in conditions), "objects": scored["objects"],
            "solved": sum(all(c["hits"]) for c in conditions), "images": len(conditions),
            **({"first": scored["first"]} if "first" in scored else {})}


def evaluator_phrase(evaluator: Mapping[str, Any]) -> str:
    """Return the kind of evaluator, the stand-in never without its held-out accuracy."""
    if not evaluator:
        return "no evaluator yet"
    if evaluator["kind"] == "official":
        return "official evaluator" + ("" if evaluator["known"]
                                       else " (weights of an unknown hash)")
    return f"stand-in evaluator, {share(evaluator['heldout_micro'])} micro on held-out scenes"


def command(run: Run, stage: str) -> str:
    """Return the command that runs a stage of this run; an experiment comes with its report."""
    params = f"params/{run.name}.yaml"
    if not (project_root() / params).exists():
        params = os.path.relpath(run / "params.yaml", project_root())
    if stage in FIELDS["experiments"].metadata["choices"]:
        return f"python -m cddpm_core report --params {params} -p experiments '[{stage}]'"
    return f"python -m cddpm_core stage {stage} --params {params}"


def needs(part: str, otherwise: str = "") -> Callable:
    """Make a function of `Facts` return text only if ``part`` of the metrics is there.

    ``otherwise`` names the stage that writes the part; the text is then a
    sentence with its command, and without it empty.
    """
    def wrap(write: Callable[..., str]) -> Callable[..., str]:
        @functools.wraps(write)
        def wrapped(facts: Facts, *args: Any, **options: Any) -> str:
            if part in facts.metrics and (part not in ("test", "new_test") or facts.scores):
                return write(facts, *args, **options)
            return (f"The stage *{otherwise}* has not been run yet: "
                    f"{code(command(facts.run, otherwise))}.\n" if otherwise else "")
        return wrapped
    return wrap
