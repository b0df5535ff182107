"""The sentences and tables of the report, on made-up results."""

import subprocess
import sys

import pytest
from report.example_metrics import (
    BENCH,
    DATA,
    EVALUATOR,
    OFFICIAL,
    second_verdict,
    write_example,
)

from cddpm_core.config.schema import FIELDS, Params
from cddpm_core.report import (
    bench_tables,
    captions,
    findings,
    methods,
    network_text,
    run_tables,
    tables,
)
from cddpm_core.report.compare import Group
from cddpm_core.report.facts import Facts, read_facts
from cddpm_core.report.markdown import code, duration, escape, listed
from cddpm_core.runs.run import Run
from cddpm_core.scheduler.samplers import SAMPLERS


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return write_example(Run("tiny", outputs=tmp_path_factory.mktemp("outputs")))


@pytest.fixture
def facts(example):
    return read_facts(example, example.params())


def test_sentences_and_tables_need_no_torch():
    modules = ("facts", "methods", "network_text", "findings", "analysis_text", "tables",
               "captions", "bench_tables", "results", "fixed_text", "run_tables", "title_page")
    names = ", ".join(f"cddpm_core.report.{name}" for name in modules)
    found = subprocess.run(
        [sys.executable, "-c", f"import sys, {names}; print('torch' in sys.modules, "
         "'matplotlib' in sys.modules)"], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_text_is_escaped_and_code_cannot_end_its_cell():
    assert escape("a*b |c|\n<d>") == r"a\*b \|c\| \<d\>"
    assert code("a`b|c") == "`a'b/c`" and code("") == "(empty)"
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"
    assert [duration(s) for s in (5.25, 61, 3725)] == ["5.2 s", "1 min 1 s", "1 h 2 min"]


def test_results_are_those_of_the_metrics(facts):
    said, table = findings.result_text(facts), tables.accuracy_table(facts)
    for name in ("test", "new_test"):
        part = facts.metrics[name]
        for text in (said, table):
            assert f"{part['hits']} of {part['objects']}" in text
            assert f"{part['micro']:.3f}" in text and f"{part['macro']:.3f}" in text
    assert "in 25 steps with guidance 3, at 3.21 images per second" in said
    assert "by 0.250 (18 of 72 objects)" in findings.experiment_text(facts)
    assert "does not change the micro accuracy" in findings.experiment_text(facts)
    assert "39,488 images counting repetitions, in 12 min 34 s" in findings.training_text(facts)
    facts.metrics["train"]["finished"] = False
    assert "**The training is not finished.**" in findings.training_text(facts)


def test_the_accuracy_with_one_layout_stands_beside_that_of_the_run(facts):
    assert "one layout" not in tables.accuracy_table(facts) + findings.summary_text(facts)
    facts.metrics["test"]["one_layout"] = {"micro": 0.1234, "macro": 0.2345}
    facts.metrics["new_test"]["one_layout"] = {"micro": 0.3456, "macro": 0.4567}
    table = tables.accuracy_table(facts)
    assert "| images fully correct | micro, one layout | macro, one layout |" in table
    assert "| 0.123 | 0.234 |" in table and "| 0.346 | 0.457 |" in table
    assert "One layout: sampled again with `layout_choices: 1`." in table
    assert "on `test.json` (0.123 with one layout)" in findings.summary_text(facts)


def test_data_and_comparison_say_what_was_counted(facts):
    said = methods.data_text(facts)
    assert "7 images whose condition is in `test.json` or `new_test.json`" in said
    assert "5 of the images that `train.json` names are **missing** and are left out." in said
    assert "No training image shows exactly" in said and "3 of the 32 conditions" in said
    compared = methods.comparison_text(facts)
    assert "3 objects were found by fitting" in compared and "at most 1.74 of 255" in compared
    assert "at most 3.26" in compared and "`real_<0>.png`" in compared
    table = tables.label_table(facts)
    assert "2,188" in table and "31 of 32" in table


def test_nothing_is_said_of_a_stage_that_has_not_run(facts):
    facts.metrics.clear()
    for text in (findings.summary_text, findings.training_text, findings.denoise_text,
                 findings.experiment_text, methods.data_text, tables.accuracy_table,
                 tables.label_table, tables.timesteps_table):
        assert text(facts) == ""


def test_every_figure_and_table_names_data_and_evaluator(facts):
    origin = "rendered scenes; released stand-in evaluator, 0.988 micro on held-out scenes"
    for text in (tables.accuracy_table(facts), tables.object_table(facts),
                 tables.condition_table(facts, "test"), tables.timesteps_table(facts)):
        assert origin in text
    (facts.run / "figures").mkdir(exist_ok=True)
    (facts.run / "figures/test_grid.png").write_bytes(b"png")
    shown = captions.figure(facts, "test_grid", file="a_b.json")
    assert shown.count(r"0\.988 micro") == 2 and shown.count(r"for a\_b\.json, eight") == 2
    assert ' "fig:test-grid pixels")' in shown and "data:image/png;base64,cG5n" in shown
    assert captions.figure(facts, "new_test_grid", file="") == ""


def test_guidance_by_the_evaluator_is_stated_everywhere(facts, example):
    guided = read_facts(example, facts.params.replace(evaluator_guidance=2.0))
    for text in (guided.origin(), tables.accuracy_table(guided)):
        assert "sampling was guided by this evaluator, so its scores are biased" in text
    assert "also guides their sampling" in methods.sampling_text(guided.params)
    assert "takes no part in sampling" in methods.sampling_text(facts.params)
    guided.metrics["sample"]["evaluator_guidance"] = 2.0
    assert "The evaluator guided the sampling" in findings.result_text(guided)
    assert "The evaluator guided the sampling" not in findings.result_text(facts)
    table = run_tables.runs_table(facts, [Group((guided,))])
    assert "With `evaluator_guidance` the evaluator also guided the sampling." in table


def test_an_official_evaluator_and_real_data_are_named_so(facts):
    assert "cannot be compared" in findings.published_text(facts)
    facts.metrics["evaluator"] = dict(OFFICIAL)
    facts.metrics["data"] = {**DATA, "kind": "real"}
    assert facts.origin() == "real i-CLEVR images; official evaluator"
    assert "comparable with published" in findings.published_text(facts)
    facts.metrics["evaluator"]["known"] = False
    assert "unknown SHA-256" in facts.origin()


def test_each_evaluator_is_named_by_its_kind(facts):
    assert "a **released stand-in**, which comes with" in methods.evaluator_text(facts)
    assert "second verdict" not in methods.evaluator_text(facts)
    facts.metrics["evaluator"] = {**EVALUATOR, "released": False}
    assert "; private stand-in evaluator eeeeeeee, 0.988 micro on held-out" in facts.origin()
    assert "private stand-in evaluator eeeeeeee" in run_tables.provenance_table(facts)
    facts.metrics["second"] = second_verdict(facts.scores)
    said = methods.evaluator_text(facts)
    assert "a **private stand-in**:" in said and "released stand-in scores the same images" in said
    facts.metrics["evaluator"] = OFFICIAL
    assert "**official evaluator**" in methods.evaluator_text(facts)
    assert "| evaluator | official evaluator |" in run_tables.provenance_table(facts)


def test_two_verdicts_stand_side_by_side_and_an_unusual_difference_is_named(facts, example,
                                                                           monkeypatch):
    assert findings.verdict_text(facts) == tables.verdict_table(facts) == ""
    facts.metrics.update(evaluator=OFFICIAL, second=second_verdict(facts.scores))
    assert "which is usual for images" in findings.verdict_text(facts)
    table = tables.verdict_table(facts)
    assert "| official evaluator |" in table and "| 0.123 |" in table
    assert "| released stand-in evaluator, 0.988 micro" in table
    assert "scored by two evaluators (rendered scenes)." in table
    facts.metrics["second"] = second_verdict(facts.scores, fewer=2)
    said = findings.verdict_text(facts)
    assert "official evaluator differs from the released stand-in by +0." in said
    assert "more than is usual" in said and "optimised for the evaluator" in said
    facts.metrics["second"] = second_verdict(facts.scores, fewer=-1)
    said = findings.verdict_text(facts)
    assert "by −0." in said and "optimised for" not in said
    # On most grids that know neither they differ by up to 0.08.
    for change, honest in ((0.07, True), (0.09, False)):
        monkeypatch.setattr(findings, "paired", lambda *given, change=change: (change, 0.01))
        assert ("which is usual" in findings.verdict_text(facts)) == honest
    monkeypatch.undo()
    guided = read_facts(example, facts.params.replace(evaluator_guidance=2.0))
    guided.metrics.update(facts.metrics)
    assert "and the released stand-in took no part in it" in findings.verdict_text(guided)
    assert "| official evaluator; sampling was guided by this" in tables.verdict_table(guided)


def test_layouts_are_described_if_the_network_has_any(facts, example):
    assert "conditioned on the position of each object" in network_text.network_text(facts)
    assert "of 4 scenes chosen by the seed" in network_text.network_text(facts)
    assert "the least crowded of 4 training layouts" in tables.accuracy_table(facts)
    first = read_facts(example, facts.params.replace(layout_choices=1))
    assert "scenes chosen by the seed" not in network_text.network_text(first)
    assert first.layout_note() == ""
    facts.metrics["train"] = {**facts.metrics["train"], "layouts": 0}
    assert "No positions are known, and none are used." in network_text.network_text(facts)
    assert facts.layout_note() == ""
    without = read_facts(example, facts.params.replace(layout=False))
    assert "position of each" not in network_text.network_text(without)


def test_the_objective_is_that_of_the_run():
    assert r"f_\theta(x_t, t, y) - x_0" in methods.objective_text(Params())
    assert "running mean" in methods.objective_text(Params())
    text = methods.objective_text(Params(prediction_type="epsilon", loss_weighting="min_snr"))
    assert r"f_\theta(x_t, t, y) - \epsilon" in text and r"\min(\bar\alpha_t" in text
    plain = methods.objective_text(Params(loss_weighting="uniform", label_drop=0.0,
                                          guidance_scale=1.0))
    assert "w_t" not in plain and "weighted" not in plain and "probability" not in plain


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_has_its_sentence(sampler):
    steps = 1000 if sampler == "ddpm" else 20
    text = methods.sampling_text(Params(sampler=sampler, num_inference_steps=steps,
                                        guidance_interval=[0.1, 0.8]))
    assert str(steps) in text and "$t / T$ from 0.1 to 0.8, and no guidance elsewhere" in text


def test_the_training_table_has_the_parameters_that_apply():
    keys = {row.split("`")[1] for row in tables.training_table(Params()).splitlines()
            if row.startswith("| `")}
    assert {"epochs", "muon_learning_rate", "data_scale", "beta_schedule", "seed"} <= keys
    assert "loss_weight_max" not in keys and "checkpoint_minutes" not in keys
    assert keys <= set(FIELDS)
    adam = tables.training_table(Params(optimizer="adamw", standardise=False))
    assert "`muon_learning_rate`" not in adam and "`data_scale`" not in adam


def test_missed_objects_are_counted_by_what_was_seen(facts):
    entries = [
        {"labels": ["red cube", "blue sphere"], "predicted": ["blue cube", "red sphere"]},
        {"labels": ["red cube"], "predicted": ["red cylinder"]},
        {"labels": ["red cube", "gray sphere"], "predicted": ["gray sphere", "blue cylinder"]},
    ]
    facts.scores["test"]["conditions"] = entries
    assert ("4 objects were missed: 2 were seen with the right shape in another colour, 1 with the "
            "right colour in another shape, and 1 with both wrong") in findings.discussion(facts)


def test_the_hardest_conditions_come_first(facts):
    rows = tables.condition_table(facts, "test", max_rows=32).splitlines()[2:]
    accuracies = [float(row.split("|")[2]) for row in rows if row.startswith("|")]
    assert accuracies == sorted(accuracies) and accuracies[-1] < 1
    shown = tables.condition_table(facts, "test", max_rows=2)
    assert f"The 2 lowest-scoring of {len(accuracies)} conditions with a missed object" in shown
    assert "objects were missed:" in findings.discussion(facts)


def test_bench_tables_have_ratios_recipes_and_evaluator():
    speed = bench_tables.bench_table(BENCH).replace("\\,", ",")
    assert "12.5 (11.8 to 13.2)" in speed and "1,234 and 678" in speed
    assert "a processor, 2 cores, 24 GiB" in speed and "ours 0.812" in speed
    assert "runs at 50% of that rate" in bench_tables.arithmetic_text(BENCH)
    text = bench_tables.race_tables(BENCH)
    assert "| `ours` | a \\| b | 100 | 1,600 | 2.5 M | 0.500 | 0.750 | 700 |" in text
    assert "| `seed_recipe` | a \\| b | 100 | 1,600 | 2.5 M | 0.062 | 0.750 | 700 |" in text
    assert text.count("with run `quick` (rendered scenes;") == 2
    assert text.count("trained for 3 minutes each") == 2
    assert text.count("A random guess scores 0.100.") == 1
    assert "the peer is not installed" in text
    assert bench_tables.bench_table({}) == bench_tables.race_tables({}) == ""


def test_published_scores_are_comparable_only_with_the_same_data_and_evaluator(facts):
    facts.metrics.update(data={"kind": "real"}, evaluator={**OFFICIAL, "known": True})
    assert "comparable with published scores" in findings.published_text(facts)
    facts.metrics["evaluator"] = {**OFFICIAL, "known": False}
    assert "cannot be compared" in findings.published_text(facts)
    assert "checkpoint with the architecture of the official" in methods.evaluator_text(facts)
    guided = Facts(facts.run, facts.params.replace(evaluator_guidance=2.0), {
        **facts.metrics, "evaluator": {**OFFICIAL, "known": True}}, facts.scores, facts.status)
    assert "cannot be compared" in findings.published_text(guided)


def test_an_unfinished_experiment_is_named(facts):
    assert "not finished" not in findings.experiment_text(facts)
    facts.metrics["timesteps"]["variants"][1]["finished"] = False
    assert "One of the trainings is not finished" in findings.experiment_text(facts)
