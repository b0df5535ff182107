import copy

import pytest

from cddpm_core import analysis_text
from cddpm_core.facts import Facts
from cddpm_core.params import Params
from cddpm_core.runs import Run

EVALUATOR = {"kind": "stand-in", "heldout_micro": 0.99, "known": True}
ANALYSE = {
    "quartiles": [{"timesteps": [250 * i, 250 * i + 249], "x_0": 0.001 * (i + 1),
                   "x_0_without_label": 0.002 * (i + 1), "epsilon": 0.1} for i in range(4)],
    "images_asked": 256, "asked_of": "held-out images",
    "raw": {name: {"micro": 0.5, "macro": 0.25} for name in ("test", "new_test")},
    "confusion": {"colour": [[9, 4], [1, 9]], "shape": [[18, 2], [0, 3]], "bound": 3, "alien": 2,
                  "reshaped": 2, "other": 6},
    "restored": [{"timestep": 0, "micro": 0.99}, {"timestep": 249, "micro": 0.9},
                 {"timestep": 999, "micro": 0.85}],
    "nearest": {"images": 128, "drawn": 8.25, "heldout": 7.5},
    "diversity": {"labels": ["red cube"], "images": 16, "drawn": 5.0, "compared": 12,
                  "training": 6.0},
    "distances": {"images": 128, "compared_with": "held-out images",
                  "baseline_is": "other held-out images",
                  "drawn": {"frechet": 20.5, "kernel": 0.75},
                  "baseline": {"frechet": 4.25, "kernel": -0.0012}}}
ARMS = [{"sampler": sampler, "num_inference_steps": steps, "guidance_scale": scale,
         "seconds_per_image": steps / 100, "micro": micro, "network_calls": steps}
        for sampler, steps, scale, micro in (("ddim", 10, 1.0, 0.40), ("ddim", 10, 4.0, 0.78),
                                             ("heun", 50, 4.0, 0.80), ("unipc", 25, 4.0, 0.70))]


@pytest.fixture
def facts(tmp_path):
    metrics = {"data": {"kind": "rendered"}, "evaluator": EVALUATOR,
               "test": {"micro": 0.8, "macro": 0.75}, "new_test": {"micro": 0.7, "macro": 0.65},
               "analyse": copy.deepcopy(ANALYSE), "sampling": {"objects": 156, "arms": ARMS}}
    return Facts(Run("tiny", tmp_path), Params(run="tiny"), metrics, {"test": {}}, {})


def test_sentences_say_what_was_counted(facts):
    text = analysis_text.analysis_text(facts)
    assert "5 objects were seen in another colour, 3 of them" in text
    assert "2 in one that was not asked for at all; 2 in another shape; 6 in both" in text
    assert "8.2 levels of 255 on average, from a held-out image of the same labels 7.5: the " \
           "drawn ones are no nearer" in text
    assert "16 images drawn for `red cube` are 5.0 levels apart on average, 12 training images" \
           in text


def test_where_most_is_lost_is_said(facts):
    text = analysis_text.analysis_text(facts)
    assert "the evaluator finds 0.990 as they are" in text
    assert "0.900 from t = 249; 0.850 from t = 999" in text
    assert "Most is lost between 0 and 249, 0.090." in text
    facts.metrics["analyse"]["restored"] = [{"timestep": 0, "micro": 0.5},
                                            {"timestep": 999, "micro": 0.5}]
    assert "Most is lost" not in analysis_text.analysis_text(facts)
    del facts.metrics["analyse"]["restored"]
    assert "as they are" not in analysis_text.analysis_text(facts)


def test_a_model_that_copies_is_called_nearer(facts):
    facts.metrics["analyse"]["nearest"]["drawn"] = 2.0
    text = analysis_text.analysis_text(facts)
    assert "the drawn ones are nearer to what was trained on than those" in text


def test_what_cannot_be_compared_is_said(facts):
    facts.metrics["analyse"]["nearest"]["heldout"] = None
    facts.metrics["analyse"]["diversity"]["training"] = None
    text = analysis_text.analysis_text(facts)
    assert "no held-out images to set beside it" in text and "too few training images" in text
    facts.metrics["analyse"]["raw"] = {}
    assert "no other weights" in analysis_text.weights_table(facts)


def test_tables_have_the_numbers(facts):
    assert "| 250 to 499 | 0.00200 | 0.00400 | 0.10000 |" in analysis_text.quartile_table(facts)
    weights = analysis_text.weights_table(facts)
    assert "| moving average (EMA) | 0.800 | 0.750 | 0.700 | 0.650 |" in weights
    assert "| of the last step | 0.500 | 0.250 | 0.500 | 0.250 |" in weights
    distances = analysis_text.distance_table(facts)
    assert "| drawn images | 20.50 | 0.7500 |" in distances and "not FID and KID" in distances
    assert "| other held\\-out images | 4.25 | -0.0012 |" in distances
    sampling = analysis_text.sampling_table(facts)
    assert "| `ddim` | 10 | 10 | 0.400 in 0.10 s | 0.780 in 0.10 s |" in sampling
    assert "| `heun` | 50 | 50 | – | 0.800 in 0.50 s |" in sampling


def test_what_a_model_was_not_asked_has_no_column(facts):
    for part in facts.metrics["analyse"]["quartiles"]:
        del part["x_0_without_label"]
    assert "| 250 to 499 | 0.00200 | 0.10000 |" in analysis_text.quartile_table(facts)
    facts.metrics["analyse"]["distances"] = None
    assert "too few images" in analysis_text.distance_table(facts)


def test_the_best_arm_and_the_fastest_near_it_are_named(facts):
    text = analysis_text.sampling_text(facts)
    assert "The best is `heun` in 50 steps with guidance 4 (0.800" in text
    assert "within 0.03 of it is `ddim` in 10 steps with guidance 4 (0.780" in text


def test_nothing_is_said_before_the_stages_have_run(facts):
    del facts.metrics["analyse"], facts.metrics["sampling"]
    assert "*analyse* has not been run yet" in analysis_text.analysis_text(facts)
    assert "*sampling* has not been run yet" in analysis_text.sampling_text(facts)
    for table in (analysis_text.quartile_table, analysis_text.weights_table,
                  analysis_text.distance_table, analysis_text.sampling_table):
        assert table(facts) == ""


def test_all_tables_name_data_and_evaluator(facts):
    for table in (analysis_text.quartile_table, analysis_text.weights_table,
                  analysis_text.distance_table, analysis_text.sampling_table):
        assert "rendered scenes; stand-in evaluator, 0.990 micro on held-out" in table(facts)
