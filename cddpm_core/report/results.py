"""``outputs/README.md``: what a folder of outputs holds, and the results of the runs in it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import project_root, write_png, write_text
from cddpm_core.config.presets import read_yaml
from cddpm_core.config.schema import resolve
from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.report.bench_tables import (
    arithmetic_text,
    bench_origin,
    bench_table,
    gpu_table,
    race_tables,
    races,
)
from cddpm_core.report.compare import REPEATED, Group, grouped, interval
from cddpm_core.report.facts import ACCURACIES, DATA_KINDS, Facts, evaluator_phrase, read_facts
from cddpm_core.report.markdown import code, decimals, duration, escape, table, with_interval
from cddpm_core.report.result_grids import grids_text
from cddpm_core.runs.modules import PACKAGE
from cddpm_core.runs.pretrained import NAME as SHIPPED
from cddpm_core.runs.pretrained import pretrained_run
from cddpm_core.runs.run import Run

__all__ = ["write_results"]

SHIPPED_FROM = "best_cpu"  # the preset of the run in the package
BASE = "recipe"  # of the ablations: nothing changed
# Columns of results: where ``metrics.json`` has them, and the number of decimals.
FIDELITY = {"sharpness": (("fidelity", "sharpness", "value"), 3),
            "kernel distance": (("fidelity", "kernel_distance", "value"), 4),
            "two-sample": (("fidelity", "two_sample", "value"), 2)}
MEASURES = {
    **{" ".join(at): (at, 3) for at in ACCURACIES},
    **{f"{name} micro, one layout": ((name, "one_layout", "micro"), 3) for name in CONDITION_FILES},
    **FIDELITY}
NONE = "–"


def write_results(outputs: Path | None = None) -> Path:
    """Write ``README.md`` to ``outputs`` from the runs in it, and return its path.

    A run without scores is left out, and one that cannot be read is named. If ``best_cpu`` is
    not there, its row is that of the weights in the package.
    """
    bench = Run("bench", outputs)
    runs, unreadable = _evaluated(bench.outputs)
    ablations = [facts for facts in runs if _is_ablation(facts)]
    if BASE not in [_stem(facts.run.name) for facts in ablations]:
        ablations = []
    plain = [facts for facts in runs if facts not in ablations]
    shipped = pretrained_run()
    if SHIPPED_FROM not in [facts.run.name for facts in runs] and (
            shipped / "metrics.json").exists():
        plain.append(read_facts(shipped, shipped.params()))
    sections = [(PACKAGE / "report/assets/outputs.md").read_text(encoding="utf-8"),
                _results(grouped(plain)), grids_text(bench.outputs), _ablations(grouped(ablations))]
    measured, on_gpu = bench.read("bench.json"), bench.read("gpu.json")
    if measured:
        sections.append("## Speed\n\n" + "\n".join(
            [bench_table(measured), arithmetic_text(measured), race_tables(measured),
             _race_picture(measured, bench.outputs)]))
    if on_gpu:
        sections.append("## On a GPU\n\n" + gpu_table(on_gpu))
    if unreadable:
        sections.append("## Not readable\n\n" + "\n".join(
            f"- {escape(sentence)}" for sentence in unreadable) + "\n")
    # The report's convention for captions means nothing here.
    text = re.sub(r"\n\nTable: (.*?)(\[\]\(#tbl:[^)]*\))?\n", r"\n\n\1\n",
                  "\n".join(filter(None, sections)))
    path = bench.outputs / "README.md"
    write_text(path, text)
    return path


def _race_picture(measured: Mapping[str, Any], outputs: Path) -> str:
    """Write ``race.png``, if recipes were compared, and return it as Markdown."""
    raced = races(measured)
    if not raced:
        return ""
    # matplotlib loads slowly.
    from cddpm_core.report.bench_charts import race_figure
    from cddpm_core.report.captions import CAPTIONS

    write_png(outputs / "race.png", race_figure([*raced.values()]))
    caption = CAPTIONS["race"]
    return (f"![{caption.alt}](race.png)\n\n{caption.text} "
            f"({bench_origin(measured)}.)\n")


def _evaluated(outputs: Path) -> tuple[list[Facts], list[str]]:
    """The runs with scores on both files, by name, and a sentence for each unreadable one."""
    found, unreadable = [], []
    for path in sorted(outputs.glob("*/metrics.json")):
        try:
            run = Run(path.parent.name, outputs)
            facts = read_facts(run, run.params())
        except UserError as error:
            unreadable.append(str(error))
            continue
        if all(file in facts.metrics for file in CONDITION_FILES):
            found.append(facts)
    return found, unreadable


def _stem(name: str) -> str:
    """The name of a run without the suffix that a sweep adds for a seed."""
    return name.rpartition("_seed")[0] or name if name.rpartition("_seed")[2].isdigit() else name


def _shown(facts: Facts) -> str:
    """The name of a run, as Markdown."""
    if facts.run.name == SHIPPED:
        return f"{code(SHIPPED_FROM)}, weights in the package"
    return code(facts.run.name)


def _is_ablation(facts: Facts) -> bool:
    return (project_root() / f"params/ablations/{_stem(facts.run.name)}.yaml").exists()


def _results(groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        rows += [_row(_shown(facts), Group((facts,)), _command(facts)) for facts in group.runs]
        if len(group.runs) > 1:
            rows.append(_row(f"mean of {len(group.runs)} seeds", group, _sweep_command(group)))
    if not rows:
        return "## Results\n\nNo run has been evaluated yet: `make report`.\n"
    header = [key for key in rows[0] if any(row[key] != NONE for row in rows)]
    return ("## Results\n\n"
            + table(header, [[row[key] for key in header] for row in rows], "", numbers=False)
            + "\nMicro accuracy is the fraction of all objects found, macro accuracy the mean over "
              "images. The columns \"one layout\" are with `layout_choices: 1`. Sharpness, kernel "
              "distance and two-sample test compare sampled with held-out images (training images, "
              "if none are held out) of the same labels and positions. Sharpness is a ratio, "
              "ideally 1. The kernel distance is on the evaluator's features, ideally "
              f"0{_baseline(groups)}. Two-sample is the accuracy of a small network that tells "
              "both apart, ideally 0.5. Means over seeds have 95 % intervals by Student's t, "
              "unless all agree. Compare only scores on the same data by the same evaluator.\n\n"
            + _machines(groups))


def _row(name: str, group: Group, command: str) -> dict[str, str]:
    facts = group.runs[0]
    sampled, p = facts.metrics.get("sample", {}), facts.params
    kind = facts.metrics.get("data", {}).get("kind") or (
        "real" if p.data else "cycles" if p.renderer == "cycles" else "rendered")
    guided = "; guided by the evaluator, scores biased" if p.evaluator_guidance else ""
    seconds = [about.metrics["train"]["seconds"] for about in group.runs
               if "train" in about.metrics]
    imported = facts.metrics.get("train", {}).get("imported")
    took = f" in {duration(fmean(seconds))}" if seconds else ""
    return {
        "run": name,
        "data": DATA_KINDS[kind] + (", held-out conditions" if p.holdout != "none" else ""),
        "evaluator": evaluator_phrase(facts.metrics.get("evaluator", {})) + guided,
        "training": f"imported from {code(imported['file'])}" if imported else
                    f"{p.epochs} epoch{'s' * (p.epochs > 1)}{took}",
        **{measure: _mean(group, *where) for measure, where in MEASURES.items()},
        "sampling": f"{sampled.get('sampler', p.sampler)}, "
                    f"{sampled.get('num_inference_steps', p.num_inference_steps)} steps, "
                    f"guidance {sampled.get('guidance_scale', p.guidance_scale):g}",
        "command": code(command)}


def _baseline(groups: Sequence[Group]) -> str:
    """What the kernel distance is between held-out images, over all runs."""
    found = [value for group in groups for facts in group.runs if (value := facts.metrics.get(
        "fidelity", {}).get("kernel_distance", {}).get("baseline")) is not None]
    ends = " to ".join(decimals(end(found), 4) for end in (min, max) if found)
    return f" (two sets of held-out images give {ends})" if found else ""


def _mean(group: Group, path: Sequence[str], digits: int) -> str:
    try:
        return with_interval(*interval(group.values(*path)), digits=digits)
    except (KeyError, TypeError):  # not measured, or None: there was nothing to measure
        return NONE


def _ablations(groups: Sequence[Group]) -> str:
    if not groups:
        return ""
    base = next(group for group in groups if _stem(group.name) == BASE)
    rows = []
    for group in [base, *(group for group in groups if group is not base)]:
        gain = group.gain(base)
        changes = "; ".join(f"{code(key)} {code(here)}"
                            for key, (_, here) in group.changes(base).items())
        rows.append([code(_stem(group.name)), changes or "nothing", str(len(group.runs)),
                     *(with_interval(*group.accuracy(file)) for file in CONDITION_FILES),
                     with_interval(*gain, signed=True) if gain else NONE,
                     *(_mean(group, *where) for where in FIDELITY.values())])
    return ("## Ablations\n\n"
            + table(["run", "changes", "seeds", *(f"{file} micro" for file in CONDITION_FILES),
                     "gain", *FIDELITY], rows, "", numbers=False)
            + "\nGain: micro accuracy over both files, minus that of the first row, with its 95 % "
              "interval over conditions. "
              f"Data and evaluator: {base.runs[0].origin()}. "
              f"Command: {code(_sweep_command(base))}.\n\n"
            + _machines(groups))


def _command(facts: Facts) -> str:
    """The command that makes a run: its preset, and the parameters that differ from it."""
    name = SHIPPED_FROM if facts.run.name == SHIPPED else facts.run.name
    folder = "params/ablations" if _is_ablation(facts) else "params"
    file = f"{folder}/{_stem(name)}.yaml"
    if not (project_root() / file).exists():
        file = "params/quick.yaml"
    preset = resolve(read_yaml(project_root() / file), file).to_dict()
    values = facts.params.to_dict()
    changed = {key: value for key, value in values.items()
               if value != preset[key] and (key == "seed" or key not in REPEATED)}
    own_name = Path(file).stem == name
    if not changed and own_name:
        return f"make report PARAMS={file}"
    named = "" if own_name else f" --run {name}"
    return f"python -m cddpm_core report --params {file}{named}" + "".join(
        f" -p {key} {shlex.quote(value if isinstance(value, str) else json.dumps(value))}"
        for key, value in changed.items())


def _sweep_command(group: Group) -> str:
    seeds = " ".join(map(str, group.seeds))
    facts = group.runs[0]
    if _is_ablation(facts):
        return f'make ablations SEEDS="{seeds}" EPOCHS={facts.params.epochs}'
    return f'make seeds PARAMS=params/{_stem(facts.run.name)}.yaml SEEDS="{seeds}"'


def _machines(groups: Sequence[Group]) -> str:
    """A line for each machine and commit, with the runs made there."""
    found: dict[str, list[str]] = {}
    for facts in (facts for group in groups for facts in group.runs):
        made = facts.metrics.get("made_with", {})
        where = f"{made.get('machine', 'unknown machine')}, commit {made.get('commit', 'unknown')}"
        found.setdefault(where, []).append(_shown(facts))
    return "".join(f"- {where}: {', '.join(names)}\n" for where, names in found.items())
