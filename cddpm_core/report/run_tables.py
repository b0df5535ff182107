"""The tables of the report about runs: side by side, and where one comes from."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from cddpm_core.report.compare import Group
from cddpm_core.report.facts import ACCURACIES, Facts, evaluator_phrase
from cddpm_core.report.language import say
from cddpm_core.report.markdown import code, duration, escape, table, with_interval

__all__ = ["provenance_table", "runs_table", "stage_table"]


def runs_table(facts: Facts, groups: Sequence[Group]) -> str:
    """Return a row for each group of runs: what differs from the first, and its accuracies."""
    rows, gains = [], [group.gain(groups[0]) for group in groups]
    for group, gain in zip(groups, gains, strict=True):
        changes = "; ".join(f"{code(key)} {code(here)}" for key, (_, here) in
                            group.changes(groups[0]).items())
        rows.append([code(group.name), changes or "–", str(len(group.runs)),
                     *(with_interval(*group.accuracy(*at)) for at in ACCURACIES),
                     *([with_interval(*gain, signed=True) if gain else "–"] if any(gains) else []),
                     duration(seconds) if (seconds := fmean(group.values("train", "seconds")))
                     else "–"])  # of a model that is imported
    header = ["run", "changes", "seeds", *map(" ".join, ACCURACIES),
              *(["gain"] if any(gains) else []), "training"]
    notes = [say("Runs side by side: means over seeds, with 95 % intervals where there are "
                 "several.")]
    if any(gains):
        notes.append(say("Gain: micro accuracy over both files, minus that of the first row, "
                         "with its 95 % interval over conditions."))
    if any(group.guided for group in groups):
        notes.append(say("With {name} the evaluator also guided the sampling.",
                         name=code("evaluator_guidance")))
    return table(header, rows, f"{say(' ').join(notes)} ({facts.origin()}{say('.')})",
                 name="runs")


def provenance_table(facts: Facts) -> str:
    """Return where data, evaluator and software of the run come from."""
    metrics = facts.metrics
    rows = [[say("run"), code(facts.run.name)], [say("seed"), code(facts.params.seed)]]
    for part in ("data", "evaluator"):
        if part in metrics:
            kind = facts.data_phrase() if part == "data" else evaluator_phrase(metrics[part])
            rows += [[say(part), kind], [say(f"SHA-256 of the {part}"),
                                         code(metrics[part]["sha256"])]]
    rows += [[escape(key), code(value)] for key, value in metrics.get("made_with", {}).items()]
    return table(["what", "value"], rows, say("Provenance of the run."), numbers=False,
                 name="provenance")


def stage_table(facts: Facts) -> str:
    """Return the state of each stage and the time it took."""
    rows = [[name, say(stage["state"]), duration(stage["seconds"]) if "seconds" in stage else "–"]
            for name, stage in facts.status.get("stages", {}).items() if name != "report"]
    return table(["stage", "state", "time"], rows, say("Stages of the run."),
                 name="stages") if rows else ""
