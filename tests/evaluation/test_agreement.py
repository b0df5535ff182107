import json

import numpy as np
import pytest
import torch
from conftest import SHARED
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.evaluation.agreement import agreement
from cddpm_core.evaluation.given_score import score_images
from cddpm_core.evaluation.images import grid_image

# What must hold of the released stand-in on ../shared/peers: mean absolute gaps at most, the rest
# at least.
PEERS = {
    "lossless": 0.045,
    "all but guided or trained against": 0.035,
    "rank correlation": 0.70,
    "same hits": 0.87,
    # Images trained against the official evaluator must not satisfy this one as well.
    "gap of those trained against": -0.05,
}


@pytest.fixture
def folder(tmp_path, sampled):
    """Three invented grids, one of another kind; the first two have official hits per image."""
    x = torch.from_numpy(sampled).movedim(-1, 1).float() / 127.5 - 1
    found = score_images(x, "test")
    entries = []
    for index, (official, metric, kind) in enumerate((
            (found["micro"], "micro", "diffusion"), (found["macro"] - 0.1, "macro", "gan"),
            (1.0, "micro", "classifier guidance"))):
        grid_image(x, scale=1).save(tmp_path / f"{index}.png")
        entries.append({"file": f"{index}.png", "source": "nobody", "conditions": "test",
                        "official": official, "metric": metric, "quality": "lossless",
                        "kind": kind})
    hits = [{"labels": c["labels"], "hits": sum(c["hits"])} for c in found["conditions"]]
    hits[3] = {"labels": hits[3]["labels"], "hits": 0}
    write(tmp_path, entries, {"0.png": hits})
    return tmp_path


def write(folder, entries, per_image=None):
    (folder / "manifest.json").write_text(json.dumps(entries))
    if per_image is not None:
        (folder / "per_image.json").write_text(json.dumps(per_image))


def group(found, name):
    return next(g for g in found["groups"] if g["name"] == name)


def test_gaps_by_quality_and_kind_of_invented_grids(folder):
    found = agreement(folder)
    assert [round(grid["gap"], 9) for grid in found["grids"][:2]] == [0, 0.1]
    fair = group(found, "all but guided or trained against")
    assert fair["grids"] == 2 and fair["mean_absolute_gap"] == pytest.approx(0.05)
    assert fair["largest_gap"] == pytest.approx(0.1) and fair["rank_correlation"] is None
    assert group(found, "lossless")["grids"] == 2  # without the guided one
    guided = group(found, "classifier guidance")
    assert guided["mean_gap"] == found["grids"][2]["score"] - 1 < 0
    json.dumps(found)


def test_images_with_other_hits_are_named(folder):
    images = agreement(folder)["images"]
    assert (images["compared"], images["same"]) == (32, 31)
    other, = images["differ"]
    assert (other["row"], other["official"]) == (3, 0) and other["hits"] > 0
    (folder / "per_image.json").unlink()
    assert agreement(folder)["images"] == {"compared": 0, "same": 0, "differ": []}


def test_ranks(folder):
    entries = json.loads((folder / "manifest.json").read_text())[:1] * 3
    pixels = np.asarray(Image.open(folder / "0.png")).copy()
    for index, rows in enumerate((1, 2)):  # an ever larger part of the images repeats the first
        for y in range(rows * 66 + 66):
            pixels[y] = pixels[y % 66]
        Image.fromarray(pixels).save(folder / f"copy{index}.png")
        entries[index + 1] = {**entries[0], "file": f"copy{index}.png",
                              "official": 0.5 - index / 4}
    write(folder, entries, {})
    assert group(agreement(folder), "lossless")["rank_correlation"] == pytest.approx(1)


@pytest.mark.parametrize(("change", "words"), [
    ({"official": "0.9"}, "entry 0: official: expected float, found '0.9'"),
    ({"official": 90}, "entry 0: expected micro or macro from 0 to 1, found 'micro' 90"),
    ({"metric": "mikro"}, "expected micro or macro from 0 to 1, found 'mikro'"),
    ({"kind": None}, "entry 0: kind: expected str, found None"),
    ({"file": "9.png"}, "9.png: no such file or folder"),
    ({"conditions": "tset"}, "conditions: found "),
])
def test_a_bad_manifest_is_one_sentence(folder, change, words):
    entries = json.loads((folder / "manifest.json").read_text())
    write(folder, [{**entries[0], **change}])
    with pytest.raises(UserError) as found:
        agreement(folder)
    assert words in str(found.value) and "\n" not in str(found.value)


def test_what_is_no_such_folder_is_one_sentence(folder, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder, expected one with manifest"):
        agreement(tmp_path / "nowhere")
    for text, words in (("[]", "expected a list of grids"), ("[1]", "entry 0: expected keys"),
                        ('[{"fil": "a"}]', r"found nothing \(did you mean 'fil'")):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=words):
            agreement(folder)


@pytest.mark.parametrize(("official", "words"), [
    ([], "0.png: found 0 images, expected 32"), ([1] * 32, "image 0: expected the number of"),
    ([{"labels": ["red cube"], "hits": 1}] * 32, "image 0: found the labels"),
    (3, "expected files, each with a list")])
def test_bad_hits_per_image_are_one_sentence(folder, official, words):
    (folder / "per_image.json").write_text(json.dumps({"0.png": official}))
    with pytest.raises(UserError, match=words):
        agreement(folder)


def test_the_released_stand_in_agrees_with_the_official_evaluator():
    folder = SHARED / "peers"
    if not folder.is_dir():
        pytest.skip("grids with official scores are not at ../shared/peers")
    found = agreement(folder)
    fair = group(found, "all but guided or trained against")
    for name in ("lossless", "all but guided or trained against"):
        assert group(found, name)["mean_absolute_gap"] <= PEERS[name]
    assert fair["rank_correlation"] >= PEERS["rank correlation"]
    assert found["images"]["same"] >= PEERS["same hits"] * found["images"]["compared"]
    against = group(found, "trained against the official evaluator")
    assert against["mean_gap"] <= PEERS["gap of those trained against"]
