"""The chapters of the report as data: a title, and the parts under it that have something to say.

The report notebook calls one function for each chapter. It computes and saves nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from cddpm_core.config.schema import FIELDS
from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.report import (  # the charts bring their captions
    analysis_charts,  # noqa: F401
    analysis_text,
    bench_tables,
    charts,  # noqa: F401
    diagram,  # noqa: F401
    findings,
    fixed_text,
    methods,
    network_text,
    run_tables,
    tables,
)
from cddpm_core.report.author import author_words
from cddpm_core.report.bench_charts import bench_figure, race_figure, scale_figure
from cddpm_core.report.captions import drawn, figure, figures, see
from cddpm_core.report.compare import group_runs
from cddpm_core.report.facts import Facts
from cddpm_core.report.figures import run_rows
from cddpm_core.report.language import say, speaking
from cddpm_core.report.training_charts import experiment_curves, runs_figure
from cddpm_core.runs.run import Run
from cddpm_core.runs.stages import check_runs

__all__ = ["appendix", "closer_look", "conclusion", "denoising", "discussion",
           "experiments", "implementation", "introduction", "published_scores", "results",
           "speed", "training", "with_other_runs"]

MOST_RUNS = 16  # in a figure of runs


@dataclass(frozen=True, repr=False)
class Section:
    """A heading with the parts below it: Markdown, or sections one level deeper."""

    title: str
    parts: tuple[str | Section, ...]

    def markdown(self, level: int = 1) -> str:
        """Return the section as Markdown, its heading at a level; empty without any content."""
        found = [part.markdown(level + 1) if isinstance(part, Section) else part.strip()
                 for part in self.parts]
        filled = [part for part in found if part]
        return "\n\n".join([f"{'#' * level} {self.title}", *filled]) if filled else ""

    def _repr_markdown_(self) -> str:
        return self.markdown()


def _chapter(write: Callable[[Facts], Section]) -> Callable[[Facts], Section]:
    """Make a chapter speak the language of the report."""
    @functools.wraps(write)
    def wrapped(facts: Facts) -> Section:
        with speaking(facts.params.language):
            return write(facts)
    return wrapped


def _section(title: str, *parts: str | Section) -> Section:
    return Section(say(title), parts)


@_chapter
def introduction(facts: Facts) -> Section:
    """Return the task and the result in short, after the author's own words."""
    own = author_words(facts, "introduction")
    return _section("Introduction", own.text, *(
        [fixed_text.task_text(), findings.summary_text(facts)] if own.with_computed else []))


@_chapter
def implementation(facts: Facts) -> Section:
    """Return how data, network, noise, training, sampling and scoring are done."""
    p = facts.params
    return _section(
        "Implementation details",
        _section("Data and label encoding",
                 *figures(facts, methods.data_text(facts), "data_examples"),
                 *figures(facts, fixed_text.encoding_text(), "data_labels", "data_pixels"),
                 tables.label_table(facts), methods.comparison_text(facts),
                 tables.comparison_table(facts), figure(facts, "data_reference")),
        _section("Model", see(facts, network_text.network_text(facts), "tbl:levels", "network"),
                 tables.unet_table(p), figure(facts, "network")),
        _section("Noise schedule", fixed_text.forward_text(),
                 *figures(facts, methods.schedule_text(p), "schedule", "forward")),
        _section("Training objective", *figures(facts, methods.objective_text(p), "step")),
        _section("Sampling", methods.sampling_text(p)),
        _section("Evaluation", methods.evaluator_text(facts), fixed_text.scoring_text()))


@_chapter
def training(facts: Facts) -> Section:
    said = findings.training_text(facts)
    here = said and "imported" not in facts.metrics["train"]
    if said:
        said = see(facts, said, *(["tbl:training"] if here else []), "training_curves", "progress")
    return _section("Training", said, tables.training_table(facts.params) if here else "",
                    figure(facts, "training_curves"), figure(facts, "progress"))


@_chapter
def results(facts: Facts) -> Section:
    return _section(
        "Results",
        _section("Accuracy", findings.result_text(facts), tables.accuracy_table(facts),
                 see(facts, findings.verdict_text(facts), "accuracy_bars"),
                 tables.verdict_table(facts), figure(facts, "accuracy_bars"),
                 tables.object_table(facts)),
        *(Section(say("Images for {file}", file=f"{name}.json"), (
            see(facts, "", f"{name}_grid", f"{name}_marked"),
            figure(facts, f"{name}_grid", file=f"{name}.json"),
            figure(facts, f"{name}_marked", "marked", file=f"{name}.json")))
          for name in CONDITION_FILES))


@_chapter
def denoising(facts: Facts) -> Section:
    """Return how images emerge from noise: each trajectory normalised and denormalised."""
    shown, names = [], []
    for file, about in facts.metrics.get("denoise", {}).items():
        condition = say("{labels} ({file}, row {row})", labels=", ".join(about["labels"]),
                        file=f"{file}.json", row=about["row"])
        for kind in ("normalised", "denormalised"):
            names.append(f"denoise_{file}_{kind}")
            shown.append(figure(facts, names[-1], kind, condition=condition,
                                moments=len(about["timesteps"])))
    return _section("Denoising process", see(facts, findings.denoise_text(facts), *names), *shown)


@_chapter
def closer_look(facts: Facts) -> Section:
    """Return the analysis: where errors arise, copies and diversity."""
    return _section(
        "A closer look", analysis_text.analysis_text(facts),
        _section("Errors by noise level",
                 see(facts, "", "analyse_quarters", "analyse_restored", "analyse_confusion"),
                 figure(facts, "analyse_quarters"),
                 analysis_text.quarter_table(facts), figure(facts, "analyse_restored"),
                 figure(facts, "analyse_confusion")),
        _section("Averaged and raw weights", analysis_text.weights_table(facts)),
        _section("Fidelity", figure(facts, "analyse_pairs"), analysis_text.fidelity_table(facts)),
        _section("Copies and diversity",
                 *figures(facts, "", "analyse_nearest", "analyse_diversity")))


@_chapter
def experiments(facts: Facts) -> Section:
    grids = [figure(facts, f"timesteps_{index}_{name}_grid", "timesteps_grid",
                    file=f"{name}.json", T=variant["num_train_timesteps"])
             for name in CONDITION_FILES for index, variant in
             enumerate(facts.metrics.get("timesteps", {}).get("variants", ()))]
    return _section(
        "Experiments",
        _section("Number of timesteps", findings.experiment_text(facts),
                 tables.timesteps_table(facts), *figures(facts, "", "timesteps_curves"), *grids),
        _section("Samplers", *figures(facts, analysis_text.sampling_text(facts),
                                      "sampling_curves"), analysis_text.sampling_table(facts)))


@_chapter
def with_other_runs(facts: Facts) -> Section:
    """Return the comparison with the runs that the parameter ``runs`` names."""
    names = [name for name in facts.params.runs if name != facts.run.name]
    if not names or "test" not in facts.metrics:
        return _section("Runs side by side")
    check_runs(facts.params.runs, facts.run)
    groups = group_runs(facts, names)
    shown = groups[:MOST_RUNS]
    rows = say("the first {number} rows of the table" if len(groups) > MOST_RUNS else
               "{number} rows of the table", number=len(shown))
    return _section(
        "Runs side by side", findings.runs_text(groups), run_tables.runs_table(facts, groups),
        drawn(facts, "runs", runs_figure(groups)),
        drawn(facts, "runs_curves", experiment_curves(
            {group.name: group.history() for group in shown}), rows=rows),
        drawn(facts, "runs_images", run_rows(
            {group.name: group.runs[0].run / "images/test" for group in shown}), rows=rows))


@_chapter
def speed(facts: Facts) -> Section:
    """Return what ``make bench`` measured, if it has been run."""
    bench = Run("bench", outputs=facts.run.outputs).read("bench.json")
    if not bench:
        return _section("Speed")
    raced, origin = bench_tables.races(bench), bench_tables.bench_origin(bench)
    return _section(
        "Speed", bench_tables.bench_table(bench), bench_tables.arithmetic_text(bench),
        bench_tables.race_tables(bench),
        drawn(facts, "race", race_figure([*raced.values()]), origin) if raced else "",
        drawn(facts, "bench", bench_figure(bench), origin),
        drawn(facts, "scale", scale_figure(bench["scale"]), origin) if "scale" in bench else "")


@_chapter
def discussion(facts: Facts) -> Section:
    """Return the author's discussion, and what the scores say."""
    own = author_words(facts, "discussion")
    computed = [findings.discussion(facts),
                *(tables.condition_table(facts, name) for name in CONDITION_FILES)]
    return _section("Discussion", own.text, *(computed if own.with_computed else []))


@_chapter
def conclusion(facts: Facts) -> Section:
    return _section("Conclusion", author_words(facts, "conclusion").text)


@_chapter
def published_scores(facts: Facts) -> Section:
    """Return what others have reported for this task."""
    return _section("Published scores", fixed_text.published_tables(),
                    findings.published_text(facts))


@_chapter
def appendix(facts: Facts) -> Section:
    """Return where the run comes from, and its parameters."""
    p = facts.params
    keys = [key for key, value in p.to_dict().items()
            if p.all_parameters or (key != "run" and value != FIELDS[key].default)]
    caption = say("All parameters of the run." if p.all_parameters else
                  "The parameters that differ from their defaults; all others are those of the "
                  "package.")
    return _section("Appendix: provenance", run_tables.provenance_table(facts),
                    run_tables.stage_table(facts),
                    tables.configuration_table(p, keys, caption, "parameters") if keys else "")
