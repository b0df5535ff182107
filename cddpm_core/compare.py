"""Runs side by side: what differs between them, and means with intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from cddpm_core.errors import UserError, did_you_mean
from cddpm_core.facts import Facts, read_facts
from cddpm_core.labels import CONDITION_FILES
from cddpm_core.params import Params
from cddpm_core.runs import Run

__all__ = ["Group", "check_runs", "group_runs", "interval"]

# What two runs may differ in and still be repetitions of one another.
REPEATED = {"run", "runs", "seed", "title", "author", "student_id", "language", "font_paths",
            "device", "num_processes", "gradient_accumulation_steps", "compile", "in_memory",
            "reference", "checkpoint_minutes", "evaluate_every", "denoise_steps", "analysis_images",
            "experiments", "experiment_timesteps", "experiment_epochs", "sweep_samplers",
            "sweep_steps", "sweep_guidance"}


@dataclass(frozen=True)
class Group:
    """Runs of the same parameters but for their seed, the first one first."""

    runs: tuple[Facts, ...]

    @property
    def name(self) -> str:
        """The name of its first run."""
        return self.runs[0].run.name

    @property
    def guided(self) -> bool:
        """Whether the evaluator has helped to draw what it scores."""
        return any(facts.params.evaluator_guidance for facts in self.runs)

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs."""
        return [facts.params.seed for facts in self.runs]

    def values(self, *path: str) -> list[float]:
        """What each run's ``metrics.json`` holds under ``path``."""
        found: list[Any] = [facts.metrics for facts in self.runs]
        for part in path:
            found = [value[part] for value in found]
        return found

    def history(self) -> list[dict[str, Any]]:
        """The history of its first run, with the accuracy of the final images at the end."""
        facts = self.runs[0]
        lines = facts.run.history()
        return [*lines, {"epoch": max((line["epoch"] for line in lines), default=0),
                         "test": facts.metrics["test"]}]

    def micro(self, file: str) -> tuple[float, float | None]:
        """Return the mean micro accuracy on a condition file and its `interval`."""
        return interval(self.values(file, "micro"))

    def macro(self, file: str) -> tuple[float, float | None]:
        """Return the same of the macro accuracy."""
        return interval(self.values(file, "macro"))

    def gain(self, base: Group) -> tuple[float, float] | None:
        """Return how many more objects of both files it finds than ``base``, as a share of them.

        With it comes the half width of a 95 % interval over the label sets, each with the mean of
        the seeds that both groups have. It is of these trainings: how far those of other seeds
        would differ is not in it. To the differences of single images one gain and one loss are
        added for the interval (Bonett & Price 2012), so that few differences prove nothing.
        None for ``base`` itself and for a group that has no seed in common with it.
        """
        before, here = ({facts.params.seed: facts.scores for facts in group.runs}
                        for group in (base, self))
        seeds = sorted(before.keys() & here.keys())
        if self == base or not seeds:
            return None
        more, objects = [], 0
        for file in CONDITION_FILES:
            for place, image in enumerate(here[seeds[0]][file]["conditions"]):
                objects += len(image["hits"])
                hits = [[sum(scores[seed][file]["conditions"][place]["hits"]) for seed in seeds]
                        for scores in (here, before)]
                more.append(fmean(hits[0]) - fmean(hits[1]))
        _, half = interval([*more, 1, -1])
        return sum(more) / objects, half * len(more) / objects

    def changes(self, base: Group) -> dict[str, tuple[Any, Any]]:
        """Return the parameters that differ from those of ``base``, as (there, here)."""
        there, here = (_kept(group.runs[0].params) for group in (base, self))
        return {key: (there[key], here[key]) for key in here if there[key] != here[key]}


def _kept(params: Params) -> dict[str, Any]:
    return {key: value for key, value in params.to_dict().items() if key not in REPEATED}


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the half width of its 95 % interval by Student's t; None for one value.

    Of values of several seeds it holds what varies between trainings and samples, not the
    choice of the 64 label sets.
    """
    if len(values) < 2:
        return fmean(values), None
    from scipy.stats import t as student  # which takes a second to import

    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return fmean(values), float(half)


def check_runs(names: Sequence[str], run: Run) -> None:
    """Raise `UserError` unless all ``names`` but that of ``run`` are evaluated runs beside it."""
    there = [path.parent.name for path in run.outputs.glob("*/metrics.json")]
    for name in (name for name in names if name != run.name):
        if name not in there:
            raise UserError(f"runs: found {name!r}{did_you_mean(name, there)}, expected a run "
                            f"with metrics.json in {run.outputs}")
        other = Run(name, run.outputs)
        missing = [file for file in CONDITION_FILES
                   if not all(file in other.read(f"{kind}.json") for kind in ("metrics", "scores"))]
        if missing:
            raise UserError(f"runs: {name!r} has no score on {missing[0]} yet, run its evaluate "
                            "stage first")


def group_runs(facts: Facts, names: Sequence[str]) -> list[Group]:
    """Return the runs of ``names`` in groups of equal parameters, that of ``facts`` first.

    Only runs with the same kind of data and the same evaluator are compared: a
    `UserError` names one that was scored otherwise.
    """
    found: list[list[Facts]] = [[facts]]
    for name in dict.fromkeys(names):
        if name == facts.run.name:
            continue
        other = Run(name, facts.run.outputs)
        about = read_facts(other, other.params())
        for part, key in (("data", "kind"), ("evaluator", "sha256")):
            if about.metrics[part][key] != facts.metrics[part][key]:
                raise UserError(
                    f"runs: {name!r} has another {part} than {facts.run.name!r}, "
                    f"{about.metrics[part][key]} where that has {facts.metrics[part][key]}; "
                    "their scores cannot stand side by side")
        for group in found:
            if _kept(group[0].params) == _kept(about.params):
                group.append(about)
                break
        else:
            found.append([about])
    for group in found:
        group.sort(key=lambda about: (about is not facts, about.params.seed))
    return [Group(tuple(group)) for group in found]
