"""Runs side by side: what differs between them, and means with intervals over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import FIELDS, Params
from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.report.facts import Facts, read_facts
from cddpm_core.runs.run import Run

__all__ = ["Group", "group_runs", "grouped", "interval", "is_usual", "paired"]

# By how much the stand-in and the official evaluator differ on most grids of 32 images that know
# neither of them; see `evaluator agreement`.
USUAL_GAP = 0.08

# Two runs may differ in these and still be repetitions of one another.
REPEATED = {key for key, about in FIELDS.items() if about.affects in ("report", "nothing")
            } | {"seed"}
# Where ``metrics.json`` has what must be the same for runs to be compared.
ORIGIN = (("data", "kind"), ("evaluator", "sha256"))


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed and in what changes no result."""

    runs: tuple[Facts, ...]

    @property
    def name(self) -> str:
        return self.runs[0].run.name

    @property
    def guided(self) -> bool:
        """Whether the evaluator guided the sampling that it then scores."""
        return any(facts.params.evaluator_guidance for facts in self.runs)

    @property
    def seeds(self) -> list[int]:
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

    def accuracy(self, file: str, metric: str = "micro") -> tuple[float, float | None]:
        """Return the mean accuracy on a condition file and its `interval`."""
        return interval(self.values(file, metric))

    def gain(self, base: Group) -> tuple[float, float] | None:
        """Return how many more objects it finds than ``base``, as a fraction of all objects.

        The runs are compared condition by condition over both files, each with the mean of
        the seeds that both groups have; see `paired`. The interval covers the conditions, not
        the training seeds. None for ``base`` itself and for a group that has no seed with scores
        in common with it.
        """
        before, here = ({facts.params.seed: facts.scores for facts in group.runs if facts.scores}
                        for group in (base, self))
        seeds = sorted(before.keys() & here.keys())
        if self == base or not seeds:
            return None
        more, objects = [], 0
        for file in CONDITION_FILES:
            for row, condition in enumerate(here[seeds[0]][file]["conditions"]):
                objects += len(condition["hits"])
                hits = [fmean(sum(scores[seed][file]["conditions"][row]["hits"])
                              for seed in seeds) for scores in (here, before)]
                more.append(hits[0] - hits[1])
        return paired(more, objects)

    def changes(self, base: Group) -> dict[str, tuple[Any, Any]]:
        """Return the parameters that differ from those of ``base``, as (there, here)."""
        there, here = (_compared(group.runs[0].params) for group in (base, self))
        return {key: (there[key], here[key]) for key in here if there[key] != here[key]}


def _compared(params: Params) -> dict[str, Any]:
    return {key: value for key, value in params.to_dict().items() if key not in REPEATED}


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean and the half width of its 95 % interval by Student's t.

    Over seeds it covers what varies between trainings and samples, not the choice of the
    64 conditions. It is None for one value, and for equal ones, which do not show how values vary.
    """
    if min(values) == max(values):
        return fmean(values), None
    from scipy.stats import t as student  # which takes a second to import

    half = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return fmean(values), float(half)


def paired(more: Sequence[float], objects: int) -> tuple[float, float]:
    """Return a difference of two accuracies on the same conditions, and its 95 % interval.

    ``more`` are the objects found in addition in each of the images, of ``objects`` in all. The
    second number is the half width of the interval over conditions. One gain and one loss are
    added for it (after Bonett & Price 2012), so that a few differences are not significant.
    """
    _, half = interval([*more, 1, -1])
    return sum(more) / objects, half * len(more) / objects


def is_usual(gap: float, half: float) -> bool:
    """Return whether two evaluators differ by no more than usual, or than chance explains.

    ``gap`` is the difference of their micro accuracies on the same images and ``half`` the half
    width of its interval, as `paired` returns them.
    """
    return abs(gap) <= max(half, USUAL_GAP)


def grouped(runs: Iterable[Facts]) -> list[Group]:
    """Return runs in groups of equal parameters, data and evaluator, in the order given."""
    found: dict[str, list[Facts]] = {}
    for facts in runs:
        origin = [facts.metrics.get(part, {}).get(key) for part, key in ORIGIN]
        found.setdefault(str((_compared(facts.params), origin)), []).append(facts)
    return [Group(tuple(group)) for group in found.values()]


def group_runs(facts: Facts, names: Sequence[str]) -> list[Group]:
    """Return the runs of ``names`` in groups of equal parameters, that of ``facts`` first.

    Only runs with the same kind of data and the same evaluator are compared: a
    `UserError` names one that differs.
    """
    others = []
    for name in dict.fromkeys(names):
        if name == facts.run.name:
            continue
        other = Run(name, facts.run.outputs)
        about = read_facts(other, other.params())
        for part, key in ORIGIN:
            found, expected = about.metrics[part][key], facts.metrics[part][key]
            if found != expected:
                raise UserError(f"runs: {name!r} has another {part} than {facts.run.name!r}: "
                                f"found {found}, expected {expected}; their scores cannot be "
                                "compared")
        others.append(about)
    return grouped([facts, *sorted(others, key=lambda about: about.params.seed)])
