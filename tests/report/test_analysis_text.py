import copy

import pytest
from report.example_metrics import ANALYSE, FIDELITY, VARIANTS

from cddpm_core.config.schema import Params
from cddpm_core.report import analysis_text
from cddpm_core.report.facts import Facts
from cddpm_core.runs.run import Run

EVALUATOR = {"kind": "stand-in", "heldout_micro": 0.99, "released": True, "sha256": "e" * 64}


@pytest.fixture
def facts(tmp_path):
    metrics = {"data": {"kind": "rendered"}, "evaluator": EVALUATOR,
               "test": {"micro": 0.8, "macro": 0.75}, "new_test": {"micro": 0.7, "macro": 0.65},
               "analyse": copy.deepcopy(ANALYSE), "fidelity": copy.deepcopy(FIDELITY),
               "sampling": {"objects": 156, "variants": VARIANTS}}
    return Facts(Run("tiny", tmp_path), Params(run="tiny"), metrics, {"test": {}}, {})


def test_sentences_say_what_was_counted(facts):
    text = analysis_text.analysis_text(facts)
    assert "5 objects were seen in another colour: 3 in the colour of another object" in text
    assert "2 in a colour that was not asked for. Another 2 were seen in another shape" in text
    assert "6 with both wrong" in text and "is 8.2 of 255 levels on average" in text
    assert "of the same labels it is 7.5. A model that copies" in text
    assert "have 0.945 of the sharpness of held-out images with the same labels" in text
    assert "tells the two apart with an accuracy of 0.875" in text
    assert "between 16 images generated for `blue cube` is 0.812 of that between training" in text


def test_what_is_found_after_noise_is_said(facts):
    text = analysis_text.analysis_text(facts)
    assert "The evaluator finds 0.990 of the objects in held-out images as they are" in text
    assert "0.900 from t = 249; 0.850 from t = 999" in text
    del facts.metrics["analyse"]["restored"]
    assert "as they are" not in analysis_text.analysis_text(facts)


def test_no_missed_object_is_one_sentence(facts):
    facts.metrics["analyse"]["confusion"].update(bound=0, alien=0, reshaped=0, other=0)
    text = analysis_text.analysis_text(facts)
    assert "In no image of either file was an object seen in another colour or shape." in text


def test_what_cannot_be_compared_is_said(facts):
    facts.metrics["analyse"]["nearest"]["heldout"] = None
    fidelity = facts.metrics["fidelity"]
    for name in ("sharpness", "kernel_distance", "two_sample", "diversity"):
        fidelity[name].update(value=None, baseline=None)
    text = analysis_text.analysis_text(facts)
    assert "no held-out images to compare with" in text and "Too few training images" in text
    assert "None" not in text and "sharpness" not in text
    assert "| kernel distance | – | – | 0 |" in analysis_text.fidelity_table(facts)
    facts.metrics["analyse"]["raw"] = {}
    assert analysis_text.weights_table(facts) == ""


def test_tables_have_the_numbers(facts):
    assert "| 250 to 499 | 0.00200 | 0.00400 | 0.10000 |" in analysis_text.quarter_table(facts)
    weights = analysis_text.weights_table(facts)
    assert "| moving average (EMA) | 0.800 | 0.750 | 0.700 | 0.650 |" in weights
    assert "| last step | 0.500 | 0.250 | 0.500 | 0.250 |" in weights
    fidelity = analysis_text.fidelity_table(facts)
    assert "| sharpness, ratio | 0.945 | 1.012 | 1 |" in fidelity
    assert "| kernel distance | 0.0075 | −0.0012 | 0 |" in fidelity
    assert "| two-sample test, accuracy | 0.875 | 0.499 | 0.5 |" in fidelity
    assert "| diversity, ratio | 0.812 | 1.062 | 1 |" in fidelity
    assert "1,000 generated images" in fidelity and "498 other" in fidelity
    sampling = analysis_text.sampling_table(facts)
    assert "| `ddim` | 10 | 10 | 0.400 in 0.10 s | 0.780 in 0.10 s |" in sampling
    assert "| `unipc` | 50 | 50 | – | 0.800 in 0.50 s |" in sampling


def test_what_was_not_measured_has_no_column(facts):
    for part in facts.metrics["analyse"]["quarters"]:
        del part["x_0_without_label"]
    assert "| 250 to 499 | 0.00200 | 0.10000 |" in analysis_text.quarter_table(facts)


def test_the_best_variant_and_the_fastest_close_to_it_are_named(facts):
    text = analysis_text.sampling_text(facts)
    assert "The best is `unipc` in 50 steps with guidance 4 (0.800" in text
    assert "within 0.03 of it is `ddim` in 10 steps with guidance 4 (0.780" in text


def test_nothing_is_said_before_the_stages_have_run(facts):
    del facts.metrics["analyse"], facts.metrics["fidelity"], facts.metrics["sampling"]
    for table in (analysis_text.analysis_text, analysis_text.sampling_text,
                  analysis_text.quarter_table, analysis_text.weights_table,
                  analysis_text.fidelity_table, analysis_text.sampling_table):
        assert table(facts) == ""


def test_all_tables_name_data_and_evaluator(facts):
    for table in (analysis_text.quarter_table, analysis_text.weights_table,
                  analysis_text.fidelity_table, analysis_text.sampling_table):
        assert "rendered scenes; released stand-in evaluator, 0.990 micro on" in table(facts)
