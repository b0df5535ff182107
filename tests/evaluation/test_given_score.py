import json
import re

import numpy as np
import pytest
import torch
from conftest import normalised
from PIL import Image

from cddpm_core import score_images
from cddpm_core.config.errors import UserError
from cddpm_core.data.labels import condition_file, read_conditions
from cddpm_core.evaluation.evaluator import Evaluator, ResNet18
from cddpm_core.evaluation.given_images import GivenImages
from cddpm_core.evaluation.given_score import given_conditions, score_given
from cddpm_core.evaluation.score import score
from cddpm_core.evaluation.stand_in import released


@pytest.fixture(scope="module")
def evaluator():
    return released()


def given(pixels, **facts):
    return GivenImages("made", pixels, tuple(map(str, range(len(pixels)))), {
        "source": "made", "is": "folder", "images": len(pixels), "width": pixels.shape[2],
        "height": pixels.shape[1], "lossy": [], "gray": False, **facts})


def tensor(pixels):
    return torch.from_numpy(pixels).movedim(-1, 1).float() / 127.5 - 1


def warned(pixels, evaluator, conditions="test", **facts):
    return score_given(given(pixels, **facts), conditions, evaluator)["warnings"]


def test_it_is_the_score_of_the_evaluator_with_facts(sampled, evaluator):
    found = score_images(tensor(sampled), "test", evaluator)
    conditions = read_conditions(condition_file("test"))
    expected = score(evaluator(tensor(sampled).contiguous()), conditions)
    assert {key: found[key] for key in expected} == expected
    assert found["micro"] > 0.8 and found["warnings"] == [] and "second" not in found
    assert found["solved"] == sum(all(c["hits"]) for c in expected["conditions"])
    assert found["condition_file"] == "test" and found["evaluator"]["kind"] == "stand-in"
    json.dumps(found)


def test_paths_files_of_conditions_and_the_default_evaluator(tmp_path, sampled):
    for index, pixels in enumerate(sampled[:2]):
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    (tmp_path / "mine.json").write_text('[["gray cube"], ["red cube"]]')
    found = score_images(tmp_path, tmp_path / "mine.json")
    assert found["images"] == 2 and found["given"]["names"] == ["0.png", "1.png"]
    assert found["evaluator"]["sha256"] == released().sha256
    assert score_images(tensor(sampled[:2]), [["gray cube"], ["red cube"]])["micro"] == (
        found["micro"])


def test_a_stretched_tone_is_set_back_and_warned_of(sampled, evaluator):
    plain = score_given(given(sampled), "test", evaluator)
    found = score_given(given(normalised(sampled)), "test", evaluator)
    sentence, = found["warnings"]
    assert sentence.startswith("tone: stretched by min-max normalisation, as make_grid(normalize")
    assert f"as they are: micro {found['otherwise']['micro']:.3f}" in sentence
    assert abs(found["micro"] - plain["micro"]) <= 0.05
    kept = score_given(given(normalised(sampled)), "test", evaluator, tone="keep")
    assert kept["micro"] == found["otherwise"]["micro"]
    assert kept["otherwise"]["micro"] == found["micro"]


def test_images_stretched_each_are_scored_as_they_are_unless_asked(sampled, evaluator):
    stretched = given(normalised(sampled, scale_each=True))
    found = score_given(stretched, "test", evaluator)
    sentence, = found["warnings"]
    assert "each image by itself" in sentence and "scored as they are; with the tone" in sentence
    undone = score_given(stretched, "test", evaluator, tone="undo")
    assert undone["micro"] == found["otherwise"]["micro"]
    assert undone["given"]["tone"]["set_back"]


def test_each_reason_is_one_sentence(sampled, evaluator):
    assert warned(sampled, evaluator, lossy=["JPEG"]) == [
        "format: JPEG is lossy, so these are not exactly the pixels that were generated"]
    assert warned(sampled.repeat(2, 1).repeat(2, 2), evaluator) == [
        "size: found 128 x 128 pixels, resized to 64 x 64, the size at which the official "
        "evaluator scores"]
    gray = sampled.mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1)
    assert "colour: all images are gray, so no colour can be told" in warned(
        gray, evaluator, gray=True)
    other, = warned((127.5 + sampled / 2).astype(np.uint8), evaluator)
    assert "times the contrast, so the images were probably saved from another range" in other
    assert 180 < int(re.search(r"the ground is at (\d+)", other)[1]) < 200
    noise = np.random.default_rng(0).integers(0, 256, sampled.shape, np.uint8)
    assert warned(noise, evaluator) == [
        "tone: the gray ground of i-CLEVR is not seen, so these may be other images"]


def test_another_order_is_noticed_and_named(sampled, evaluator):
    text = sorted(range(32), key=str)
    for pixels, conditions, words in (
            (sampled, "new_test", "of test (--conditions test) clearly better"),
            (sampled[::-1], "test", "of test in reverse order clearly better"),
            (sampled[text], "test", "in which names are sorted as text clearly better"),
            (sampled[np.argsort(text)], "test", "that sorting the names 0, 1, 10, 11, 2, ..."),
            (np.roll(sampled, 9, 0), "test", "of test in some other order clearly better")):
        sentence, = warned(np.ascontiguousarray(pixels), evaluator, conditions)
        assert sentence.startswith("order: the images fit the labels ") and words in sentence
    across = sampled.reshape(4, 8, 64, 64, 3).swapaxes(0, 1).reshape(sampled.shape)
    sentence, = warned(across, evaluator, columns=4)
    assert "column by column" in sentence
    assert warned(sampled[:1], evaluator, [["gray cube"]]) == []


def test_another_evaluator_comes_with_the_verdict_of_the_stand_in(sampled, evaluator):
    torch.manual_seed(0)
    other = Evaluator(ResNet18(), "official", "0" * 64, known=False)
    found = score_given(given(sampled), "test", other)
    alone = score_given(given(sampled), "test", evaluator)
    assert found["evaluator"]["kind"] == "official"
    assert found["second"]["evaluator"] == alone["evaluator"]
    for key in ("micro", "macro", "conditions", "per_colour", "solved"):
        assert found["second"][key] == alone[key]
    assert found["micro"] < found["second"]["micro"]


def test_a_gap_in_the_numbers_is_named(sampled, evaluator):
    numbers = [*range(5), *range(6, 32), 99]
    gap = GivenImages("made", sampled, tuple(f"{n}.png" for n in numbers),
                      given(sampled).facts)
    sentence, = score_given(gap, "test", evaluator)["warnings"]
    assert sentence.startswith("order: the names are numbered without 5, so images may be scored")
    fewer = GivenImages("made", sampled[:31], gap.names[:31], gap.facts)
    with pytest.raises(UserError, match="found 31 images, 0.png to 31.png without 5, expected 32"):
        score_given(fewer, "test", evaluator)


def test_mistakes_are_one_sentence(sampled, evaluator, tmp_path):
    with pytest.raises(UserError, match="^made: found 31 images, 0 to 30, expected 32, one for "
                                        "each row of test$"):
        score_given(given(sampled[:31]), "test", evaluator)
    with pytest.raises(UserError, match="^made: the gray ground of i-CLEVR is not seen"):
        score_given(given(np.zeros_like(sampled)), "test", evaluator, tone="undo")
    with pytest.raises(UserError, match="^tensor: found images of 64 x 7 pixels, expected at least "
                                        "8 x 8$"):
        score_images(torch.zeros(32, 3, 7, 64), "test", evaluator)
    with pytest.raises(UserError, match=r"^images: expected finite values of shape .*\(32, 64"):
        score_images(torch.zeros(32, 64, 64), "test", evaluator)
    (tmp_path / "two.json").write_text('[["gray cube"], ["red cube"]]')
    with pytest.raises(UserError, match="expected 2, one for each row of .*two.json "
                                        r"\(--conditions test has 32\)"):
        score_given(given(sampled), tmp_path / "two.json", evaluator)
    with pytest.raises(UserError, match=r"found 'tset' \(did you mean 'test'\?\), expected test "
                                        "or new_test or a JSON file"):
        given_conditions("tset")
    with pytest.raises(UserError, match=r"did you mean 'two.json'\?"):
        given_conditions(tmp_path / "tow.json")
    with pytest.raises(UserError, match="conditions: row 1: unknown label 'red cub'"):
        given_conditions([["red cube"], ["red cub"]])
    with pytest.raises(UserError, match="no such file, expected the lab's evaluator checkpoint"):
        score_given(given(sampled), "test", tmp_path / "checkpoint.pth")
