"""Scores: accuracies, what is predicted in place of a missed object, and facts for the metrics."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.data.labels import COLOURS, OBJECTS, SHAPES
from cddpm_core.evaluation.score import (
    confusion,
    evaluator_facts,
    missed_pairs,
    score,
    score_facts,
)

COLOUR_NAMES = list(COLOURS)


def probabilities(*rows: dict[str, float]) -> torch.Tensor:
    table = torch.zeros(len(rows), len(OBJECTS))
    for row, values in zip(table, rows, strict=True):
        for name, value in values.items():
            row[OBJECTS.index(name)] = value
    return table


def test_micro_counts_objects_and_macro_images() -> None:
    given = probabilities(
        {"red cube": 0.9, "blue cube": 0.8},
        {"red cube": 0.9, "gray sphere": 0.7, "cyan cylinder": 0.6, "blue cube": 0.1},
    )
    result = score(given, [("red cube",), ("red cube", "gray sphere", "blue cube")])
    assert result["objects"] == 4
    assert result["micro"] == pytest.approx(3 / 4)
    assert result["macro"] == pytest.approx((1 + 2 / 3) / 2)
    second = result["conditions"][1]
    assert second["predicted"] == ["red cube", "gray sphere", "cyan cylinder"]
    assert second["hits"] == [True, True, False]
    assert second["accuracy"] == pytest.approx(2 / 3)
    assert second["probabilities"] == pytest.approx([0.9, 0.7, 0.1])
    assert result["per_object"]["red cube"] == {"hits": 2, "total": 2}
    assert result["per_colour"]["blue"] == {"hits": 0, "total": 1}
    assert result["per_shape"]["cube"] == {"hits": 2, "total": 3}
    assert result["per_count"] == {"1": {"hits": 1, "total": 1}, "3": {"hits": 2, "total": 3}}
    assert json.loads(json.dumps(result)) == result


def test_perfect_and_hopeless_scores() -> None:
    sets = [(name,) for name in OBJECTS]
    assert score(torch.eye(24), sets)["micro"] == 1.0
    assert score(torch.eye(24).roll(1, 0).numpy(), sets)["macro"] == 0.0


@pytest.mark.parametrize(
    ("given", "sets", "found"),
    [
        (torch.zeros(2, 24), [("red cube",)], r"found \(2, 24\)"),
        (torch.zeros(1, 23), [("red cube",)], r"found \(1, 23\)"),
        (torch.zeros(0, 24), [], "at least one row"),
        (torch.full((1, 24), float("nan")), [("red cube",)], "NaN"),
        (torch.zeros(1, 24), [("red cuba",)], "did you mean 'red cube'"),
        (torch.zeros(1, 24), [()], "row 0"),
    ],
)
def test_wrong_input_is_refused(given, sets, found: str) -> None:
    with pytest.raises(UserError, match=found):
        score(given, sets)


def scored(*pairs) -> dict:
    """The score of pairs of a condition and of what the evaluator predicts for its image."""
    table = torch.zeros(len(pairs), len(OBJECTS))
    for row, (_, predicted) in enumerate(pairs):
        table[row, [OBJECTS.index(name) for name in predicted]] = 1.0
    return score(table, [condition for condition, _ in pairs])


def test_a_missed_object_is_paired_with_the_most_similar() -> None:
    found = scored((["red cube", "blue sphere"], ["blue cube", "red sphere"]),
                   (["gray cube", "red cylinder"], ["gray cube", "red sphere"]),
                   (["cyan cube"], ["yellow sphere"]))
    assert [pair[:2] for pair in missed_pairs(found)] == [
        ("red cube", "blue cube"), ("blue sphere", "red sphere"),
        ("red cylinder", "red sphere"), ("cyan cube", "yellow sphere")]


def test_confusion_separates_colours_of_another_label_from_colours_of_none() -> None:
    found = confusion([scored((["red cube", "blue sphere"], ["blue cube", "red sphere"]),
                              (["gray cube"], ["green cube"]),
                              (["gray cube", "red cylinder"], ["gray cube", "red sphere"])),
                       scored((["cyan cube"], ["yellow sphere"]))])
    assert (found["bound"], found["alien"], found["other"]) == (2, 1, 1)
    colour, shape = np.array(found["colour"]), np.array(found["shape"])
    assert colour[COLOUR_NAMES.index("red"), COLOUR_NAMES.index("blue")] == 1
    assert colour[COLOUR_NAMES.index("gray"), COLOUR_NAMES.index("green")] == 1
    assert colour.trace() == 2 and shape.trace() == 4 and found["reshaped"] == 1
    assert shape[SHAPES.index("cylinder"), SHAPES.index("sphere")] == 1


@given(st.lists(st.tuples(st.sets(st.sampled_from(OBJECTS), min_size=1, max_size=3),
                          st.randoms(use_true_random=False)), min_size=1, max_size=5))
def test_every_label_is_counted_once(asked) -> None:
    pairs = [(sorted(names), random.sample(OBJECTS, len(names))) for names, random in asked]
    found, total = confusion([scored(*pairs)]), sum(len(names) for names, _ in pairs)
    hits = sum(sum(condition["hits"]) for condition in scored(*pairs)["conditions"])
    colour, shape = np.array(found["colour"]), np.array(found["shape"])
    assert colour.sum() == shape.sum() == total
    recoloured = found["bound"] + found["alien"]
    assert hits + recoloured + found["reshaped"] + found["other"] == total
    assert total - colour.trace() == recoloured + found["other"]
    assert total - shape.trace() == found["reshaped"] + found["other"]


def test_facts_are_counts_of_a_score_and_the_evaluator() -> None:
    found = scored((["red cube", "blue sphere"], ["red cube", "red sphere"]),
                   (["gray cube"], ["gray cube"]))
    assert score_facts(found) == {"micro": 2 / 3, "macro": 0.75, "hits": 2, "objects": 3,
                                  "solved": 1, "images": 2}
    about = {"kind": "official", "sha256": "0" * 64, "known": True}
    facts = evaluator_facts(SimpleNamespace(**about, heldout=None))
    assert about.items() <= facts.items() and facts["heldout_micro"] is None
    facts = evaluator_facts(SimpleNamespace(**about, heldout={"micro": 0.5, "images": 20}))
    assert facts["heldout_micro"] == 0.5 and facts["heldout_images"] == 20


def test_scores_do_without_torch() -> None:
    script = "import sys, cddpm_core.evaluation.score; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
