import json
import math
from statistics import stdev

import matplotlib.pyplot as plt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params
from cddpm_core.report.compare import group_runs, interval
from cddpm_core.report.facts import read_facts
from cddpm_core.report.findings import runs_text
from cddpm_core.report.run_tables import runs_table
from cddpm_core.report.training_charts import runs_figure
from cddpm_core.runs.run import Run

METRICS = {"data": {"kind": "rendered"}, "train": {"seconds": 60.0},
           "evaluator": {"kind": "stand-in", "sha256": "e" * 64, "released": True,
                         "heldout_micro": 0.99}}


def scores(missed):
    """Scores of 32 images a file, of one and two objects in turn; the first ones miss theirs."""
    return {file: {"conditions": [{"hits": [i >= missed, True][: 1 + i % 2]} for i in range(32)]}
            for file in ("test", "new_test")}


@pytest.fixture
def runs(tmp_path):
    """Three seeds of one configuration and one run without guidance."""
    made = {"base": (0.8, 2, {}), "base_seed1": (0.9, 1, {"seed": 1}),
            "base_seed2": (0.7, 3, {"seed": 2}),
            "plain": (0.5, 12, {"guidance_scale": 1.0, "title": "another"})}
    for name, (micro, missed, changes) in made.items():
        run = Run(name, outputs=tmp_path)
        run.write_params(Params(run=name, **changes))
        both = {"micro": micro, "macro": micro / 2}
        run.update_metrics({**METRICS, "test": both, "new_test": both})
        (run / "scores.json").write_text(json.dumps(scores(missed)))
    return list(made)


def facts(tmp_path, name="base"):
    run = Run(name, outputs=tmp_path)
    return read_facts(run, run.params())


def test_seeds_of_a_configuration_are_one_group(runs, tmp_path):
    first, second = group_runs(facts(tmp_path), runs[::-1])
    assert (first.name, first.seeds) == ("base", [0, 1, 2])
    assert (second.name, second.seeds) == ("plain", [0])
    assert second.changes(first) == {"guidance_scale": (1.25, 1.0)} and not first.changes(first)
    mean, half = first.accuracy("test")
    # Student's t with two degrees of freedom: 4.303 standard errors.
    assert mean == pytest.approx(0.8) and half == pytest.approx(4.3027 * 0.1 / math.sqrt(3), 1e-4)
    assert second.accuracy("test") == (0.5, None)


def test_table_and_sentence_say_the_same(runs, tmp_path):
    groups = group_runs(facts(tmp_path), runs)
    table, said = runs_table(facts(tmp_path), groups), runs_text(groups)
    assert "0.800 ± 0.248" in table and "0.800 ± 0.248" in said
    assert ("| `plain` | `guidance_scale` `1.0` | 1 | 0.500 | 0.250 | 0.500 | 0.250 "
            "| −0.208 ± 0.081 |") in table
    assert "rendered scenes; released stand-in evaluator, 0.990 micro" in table
    assert "Fewer objects are found with `plain` than with `base` over both files." in said
    assert "The intervals cover the conditions, not the training seeds: " in said
    alone = group_runs(facts(tmp_path), ["base"])
    assert runs_text(alone) == ""


def test_a_gain_compares_images_of_the_same_condition(runs, tmp_path):
    base, plain = group_runs(facts(tmp_path), runs)
    # Ten of 32 images of each file miss an object more, of 48 objects a file.
    error = stdev([-1] * 20 + [0] * 44 + [1, -1]) / 66**0.5
    gain = pytest.approx((-20 / 96, 1.99714 * error * 64 / 96), rel=1e-4)
    assert plain.gain(base) == gain
    back, half = base.gain(plain)
    assert (-back, half) == gain
    assert base.gain(base) is None and plain.gain(plain) is None


@pytest.mark.parametrize(("lost", "significant"), [(4, False), (5, False), (6, True)])
def test_few_differences_are_as_significant_as_in_a_sign_test(runs, tmp_path, lost, significant):
    worse = scores(2)
    for image in worse["test"]["conditions"][10:10 + lost]:
        image["hits"] = [False, *image["hits"][1:]]
    (tmp_path / "plain/scores.json").write_text(json.dumps(worse))
    groups = group_runs(facts(tmp_path), runs)
    mean, half = groups[1].gain(groups[0])
    assert (mean < -half) == significant == (2 * 0.5**lost < 0.05)
    said = runs_text(groups)
    assert ("`base` over both files is not significant" in said) != significant


def test_a_gain_is_the_mean_of_the_seeds_both_groups_have(runs, tmp_path):
    twin = Run("plain_seed1", outputs=tmp_path)
    twin.write_params(Params(run="plain_seed1", guidance_scale=1.0, seed=1))
    twin.update_metrics(Run("plain", tmp_path).read("metrics.json"))
    (twin / "scores.json").write_text(json.dumps(scores(5)))
    base, plain = group_runs(facts(tmp_path), [*runs, "plain_seed1"])
    assert plain.seeds == [0, 1] and base.seeds == [0, 1, 2]
    # Ten images of each file lose an object with seed 0, four with seed 1.
    mean, half = plain.gain(base)
    assert mean == pytest.approx(-2 * (10 + 4) / 2 / 96)
    assert 0 < half < 0.1


def test_a_run_the_evaluator_guided_is_named_in_the_sentence(runs, tmp_path):
    run = Run("plain", outputs=tmp_path)
    run.write_params(run.params().replace(evaluator_guidance=2.0))
    said = runs_text(group_runs(facts(tmp_path), runs))
    assert "with `plain` (sampling guided by the evaluator) than" in said


def test_groups_without_a_seed_in_common_are_not_paired(runs, tmp_path):
    run = Run("plain", outputs=tmp_path)
    run.write_params(run.params().replace(seed=7))
    groups = group_runs(facts(tmp_path), runs)
    assert groups[1].gain(groups[0]) is None
    table, said = runs_table(facts(tmp_path), groups), runs_text(groups)
    assert "gain" not in table and "No seed is shared between `base` and `plain`." in said
    figure = runs_figure(groups)
    assert len(figure.axes) == 1
    plt.close(figure)


def test_the_history_of_a_group_ends_with_the_accuracy_of_the_final_images(runs, tmp_path):
    lines = [{"step": 1, "epoch": 0.5, "loss": 1.0},
             {"step": 2, "epoch": 1.0, "test": {"micro": 0.2, "macro": 0.2}},
             {"step": 4, "epoch": 2.0, "loss": 0.5}]
    (tmp_path / "base/history.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    group = group_runs(facts(tmp_path), runs)[0]
    assert group.history() == [*lines, {"epoch": 2.0, "test": {"micro": 0.8, "macro": 0.4}}]


@pytest.mark.parametrize(("part", "value"), [("data", {"kind": "real"}),
                                             ("evaluator", {"kind": "official", "sha256": "0"})])
def test_scores_of_different_kinds_do_not_stand_side_by_side(runs, tmp_path, part, value):
    Run("plain", outputs=tmp_path).update_metrics({part: value})
    with pytest.raises(UserError, match=f"'plain' has another {part} than 'base'"):
        group_runs(facts(tmp_path), runs)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_equal_values_have_no_interval(values):
    mean, half = interval(values)
    assert min(values) - 1e-9 <= mean <= max(values) + 1e-9
    assert half >= 0 if len(set(values)) > 1 else half is None


def test_a_run_the_evaluator_guided_is_named_in_the_figure(runs, tmp_path):
    run = Run("plain", outputs=tmp_path)
    run.write_params(run.params().replace(evaluator_guidance=2.0))
    figure = runs_figure(group_runs(facts(tmp_path), runs))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "base", "plain\nguided by the evaluator"]
    plt.close(figure)
