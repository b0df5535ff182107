import json

import pytest
import torch
from PIL import Image

from cddpm_core.evaluation.evaluator import Evaluator, ResNet18
from cddpm_core.evaluation.given_images import GivenImages
from cddpm_core.evaluation.given_score import score_given
from cddpm_core.report.given_scores import (
    score_figure,
    score_folder,
    score_lines,
    score_text,
    verdict_sentence,
    write_score,
)
from cddpm_core.runs.run import OUTPUTS


@pytest.fixture(scope="module")
def given(sampled):
    return GivenImages("made", sampled, tuple(map(str, range(32))), {
        "source": "made", "is": "folder", "images": 32, "width": 64, "height": 64,
        "lossy": ["JPEG"], "gray": False})


@pytest.fixture(scope="module")
def result(given):
    return score_given(given, "test")


@pytest.fixture(scope="module")
def two(given):
    torch.manual_seed(0)
    return score_given(given, "test", Evaluator(ResNet18(), "official", "0" * 64,
                                                known=False))


def with_hits(scored, hits):
    """A score with the given hits, a list for each image."""
    conditions = [{**c, "hits": h} for c, h in zip(scored["conditions"], hits, strict=True)]
    return {**scored, "conditions": conditions}


def test_the_terminal_says_what_was_found(result):
    lines = score_lines(result)
    assert lines[0] == "images: 32 images of 64 x 64 pixels, in made"
    assert lines[3].startswith(f"micro {result['micro']:.4f}, macro {result['macro']:.4f}; "
                               f"{result['hits']} of 72 objects found, all labels in ")
    assert any(line.startswith("found: gray ") and "yellow 6/6" in line for line in lines)
    assert any(line.startswith("found: 1 object ") and "3 objects " in line for line in lines)
    assert lines[-1].startswith("Warning: format: JPEG is lossy")


def test_markdown_has_warnings_and_tables(result, two):
    text = score_text(result)
    assert "- **Warning.** format\\: JPEG is lossy" in text
    assert text.count("\nTable: ") == 4 and "| 2 objects |" in text
    assert "released stand-in evaluator" in score_text(two)
    assert "checkpoint like the official evaluator's (unknown SHA-256)" in score_text(two)


def test_two_verdicts_stand_side_by_side(two):
    lines = score_lines(two)
    assert sum(line.startswith("scored by: ") for line in lines) == 2
    named = next(line for line in lines if line.startswith(
        "images with a different number of hits, official evaluator and released"))
    pairs = zip(two["conditions"], two["second"]["conditions"], strict=True)
    differ = [row for row, (a, b) in enumerate(pairs) if sum(a["hits"]) != sum(b["hits"])]
    assert all(f" {row} (" in named for row in differ) and named.count("(") == len(differ)


def test_what_a_difference_of_verdicts_means(result, two):
    assert verdict_sentence(result) == ""
    hits = [c["hits"] for c in two["second"]["conditions"]]
    assert "which is usual for images that were made" in verdict_sentence(
        with_hits(two, hits))
    none = [[False] * len(h) for h in hits]
    assert "differ from those that the stand-in" in verdict_sentence(with_hits(two, none))
    better = {**with_hits(two, hits), "second": with_hits(two["second"], none)}
    assert "guided by the official evaluator, their model was optimised for it" in (
        verdict_sentence(better))


def test_the_picture_marks_each_label_and_says_what_was_seen(given, result, two):
    figure = score_figure(given, result)
    texts = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    flat = [text for lines in texts for text in lines]
    assert sum(text.startswith("✓") for text in flat) == result["hits"]
    missed = [n for c in result["conditions"] for n in c["labels"] if n not in c["predicted"]]
    assert sorted(text[2:] for text in flat if text.startswith("✗")) == sorted(missed)
    assert sum(text.strip().startswith("saw ") for text in flat) == len(missed)
    assert [axis.get_title() for axis in figure.axes] == [str(row) for row in range(32)]
    heading = figure.get_suptitle()
    assert "micro" in heading and "Warning: format: JPEG is lossy" in heading
    marks = [t.get_text()[:2] for axis in score_figure(given, two).axes for t in axis.texts
             if t.get_text()[0] in "✓✗"]
    assert len(marks) == 72 and set(marks) <= {"✓✓", "✓✗", "✗✓", "✗✗"}


def test_files_are_written(tmp_path, given, two):
    paths = write_score(given, two, tmp_path / "out")
    assert [path.name for path in paths] == ["score.json", "score.png"]
    found = json.loads(paths[0].read_text())
    assert found["micro"] == two["micro"] and found["verdicts"] == verdict_sentence(two)
    with Image.open(paths[1]) as picture:
        assert picture.width > 1000


@pytest.mark.parametrize(("source", "conditions", "name"), [
    ("/a/b/grids/02_test.png", "test", "b_02_test"),
    ("/x/outputs/quick/images/test", "test", "quick_test"),
    ("/x/outputs/quick/images/new_test", "new_test", "quick_new_test"),
    ("/x/outputs/quick_test.png", "test", "quick_test"), ("/my photos/a", "test", "my-photos_a"),
    ("/a/b/c", "new_test", "b_c_new_test"), ("/a/b/c", "my/own.json", "b_c_own"),
    ("/a/測試", "test", "a_測試"), ("/", "test", "images")])
def test_the_folder_is_named_after_the_images(tmp_path, monkeypatch, source, conditions, name):
    monkeypatch.setenv(OUTPUTS, str(tmp_path))
    assert score_folder(source, conditions) == tmp_path / "scores" / name
