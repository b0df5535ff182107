"""The stand-in: its network, and its files, the released one, private ones, and what is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHARED
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cddpm_core.config.errors import UserError
from cddpm_core.data.images import to_float
from cddpm_core.data.labels import OBJECTS
from cddpm_core.evaluation import stand_in as module
from cddpm_core.evaluation.evaluator import Evaluator, ResNet18
from cddpm_core.evaluation.score import evaluator_facts, score
from cddpm_core.evaluation.stand_in import (
    CARD,
    WEIGHTS,
    Located,
    StandInNetwork,
    load_evaluator,
    load_stand_in,
    released,
    rounded_state,
    save_stand_in,
)

REAL = ["purple sphere", "brown cylinder", "red sphere", "brown cube", "blue cylinder"]
CYCLES_MICRO = 0.99  # at least, of the frames that Cycles rendered


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads(CARD.read_text())


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """The file of an untrained stand-in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        evaluator = Evaluator(StandInNetwork(), "stand-in", "", heldout={"micro": 0.5})
    save_stand_in(evaluator, tmp_path / "mine.safetensors", {"recipe": {"seed": 0}})
    return tmp_path / "mine.safetensors"


def test_shapes_and_that_probabilities_are_those_of_the_logits(images: torch.Tensor) -> None:
    network = StandInNetwork().eval()
    assert network.features(images).shape == (len(images), 512)
    middle, last = network.maps(images)
    assert middle.shape[1:] == (128, 8, 8) and last.shape[1:] == (256, 4, 4)
    logits = network.logits(images)
    assert logits.shape == (len(images), 24)
    torch.testing.assert_close(network(images), logits.sigmoid())


def test_the_heads_locate_and_share_the_network(images: torch.Tensor) -> None:
    located = Located().eval()
    objects, attributes, cells = located(images)
    assert attributes.shape[1:] == (11, 8, 8) and cells.shape[1:] == (24, 4, 4)
    torch.testing.assert_close(objects, located.network.logits(images))
    assert objects.sigmoid().mean() < 0.2  # most objects are absent


def test_an_object_counts_wherever_it_stands() -> None:
    last = torch.zeros(2, 256, 4, 4)
    last[0, 7, 0, 1] = last[1, 7, 3, 2] = 5.0
    pooled = StandInNetwork.pooled(last)
    assert torch.equal(pooled[0], pooled[1]) and pooled[0, 7] == 5 / 16 and pooled[0, 263] == 5


def test_rounding_keeps_the_statistics_of_normalisation() -> None:
    state = rounded_state(StandInNetwork())
    assert state["fc.weight"].dtype == torch.bfloat16
    assert state["stem.1.running_var"].dtype == torch.float32


def test_the_released_one_is_that_of_its_card(card: dict) -> None:
    evaluator = released()
    assert (evaluator.kind, evaluator.known, evaluator.sha256) == ("stand-in", True, card["sha256"])
    assert evaluator.heldout == card["heldout"] and evaluator_facts(evaluator)["released"]
    assert not evaluator.model.training
    assert not any(weight.requires_grad for weight in evaluator.model.parameters())


def test_it_is_small_and_its_card_says_how_it_was_made(card: dict) -> None:
    assert WEIGHTS.stat().st_size <= 9e6
    assert {weight.dtype for weight in load_file(WEIGHTS).values() if weight.ndim > 1} == {
        torch.bfloat16}
    assert card["command"].startswith("python -m cddpm_core evaluator train")
    assert "seed" in card["recipe"] and card["seconds"] > 0
    assert card["made_with"]["machine"] and card["made_with"]["commit"]
    assert (CARD.parent / "README.md").exists()


def test_its_held_out_figures(card: dict) -> None:
    assert card["heldout"]["micro"] >= 0.997 and card["heldout"]["crowded_micro"] >= 0.99


def test_it_names_the_objects_of_rendered_scenes() -> None:
    from cddpm_core.scenes.dataset import render_set

    images, labels, _ = render_set(60, 1, "test of the released stand-in", 3, progress=False)
    names = [[OBJECTS[i] for i in row.nonzero()[0]] for row in labels]
    assert score(released()(to_float(images)), names)["micro"] >= 0.98


def squashed(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB").resize((64, 64), Image.Resampling.BILINEAR))


@pytest.mark.skipif(not (SHARED / "clevr/scenes.json").exists(),
                    reason="no frames rendered by Cycles in ../shared/clevr")
def test_it_names_the_objects_that_cycles_rendered() -> None:
    scenes = json.loads((SHARED / "clevr/scenes.json").read_text())
    files = sorted((SHARED / "clevr/frames").glob("*.png"))
    names = [[name for name, *_ in scenes[int(file.stem[:6])]["objects"][: int(file.stem[7]) + 1]]
             for file in files]
    found = score(released()(to_float(np.stack([squashed(file) for file in files]))), names)
    assert found["objects"] == 192 and found["micro"] >= CYCLES_MICRO


@pytest.mark.skipif(not (SHARED / "real_scenes").is_dir(), reason="no ../shared/real_scenes")
def test_it_names_the_objects_of_real_frames() -> None:
    frames = {f"reference/real_seq_{k}_320x240.png": REAL[: k + 1] for k in range(5)} | {
        "real_scenes/scene_b_320x240.png": ["red sphere", "yellow cube", "gray cylinder"],
        "real_scenes/scene_c_320x240.jpg": ["purple cube", "brown cylinder", "gray cylinder"]}
    images = np.stack([squashed(SHARED / file) for file in frames])
    found = score(released()(to_float(images)), list(frames.values()))
    assert found["objects"] == 21 and found["micro"] == 1


def test_replaced_weights_are_refused(tmp_path: Path, private: Path, monkeypatch) -> None:
    shutil.copy(CARD, tmp_path / "card.json")
    monkeypatch.setattr(module, "CARD", tmp_path / "card.json")
    monkeypatch.setattr(module, "WEIGHTS", private)
    with pytest.raises(UserError, match="its SHA-256 is not the one in card.json"):
        released()


def test_a_private_one_is_as_it_was_saved(private: Path, images: torch.Tensor) -> None:
    evaluator = load_stand_in(private)
    assert (evaluator.kind, evaluator.known, evaluator.heldout) == (
        "stand-in", False, {"micro": 0.5})
    assert not evaluator_facts(evaluator)["released"]
    again = private.with_name("again.safetensors")
    assert save_stand_in(evaluator, again, {"recipe": {"seed": 0}}) == evaluator.sha256
    torch.testing.assert_close(load_stand_in(again)(images), evaluator(images))


def _foreign(path: Path) -> None:
    save_file({"a": torch.zeros(3)}, path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _without_accuracy(path: Path) -> None:
    save_file(load_file(path), path, {module.FORMAT: '{"heldout": {}}'})


def _smaller(path: Path) -> None:
    state = load_file(path)
    name = next(iter(state))
    save_file(state | {name: torch.zeros(2)}, path,
              {module.FORMAT: '{"heldout": {"micro": 0.5}}'})


def test_the_official_evaluator_may_be_a_safetensors_file(private: Path) -> None:
    assert load_evaluator(private).kind == "stand-in"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = ResNet18().state_dict()
    save_file({f"model.{name}": weight.half() if weight.is_floating_point() else weight
               for name, weight in state.items()}, private)
    assert load_evaluator(private).kind == "official"
    private.rename(private.with_suffix(".pth"))
    assert load_evaluator(private.with_suffix(".pth")).kind == "official"


def test_a_private_one_may_have_prefixes_and_another_suffix(private: Path, images) -> None:
    with safe_open(private, "pt") as file:
        facts = file.metadata()
    expected = load_evaluator(private)(images)
    save_file({f"_orig_mod.module.{name}": weight for name, weight in load_file(private).items()},
              private.with_suffix(".bin"), facts)
    torch.testing.assert_close(load_evaluator(private.with_suffix(".bin"))(images), expected)


@pytest.mark.parametrize(("change", "words"), [
    (Path.unlink, "no such file"), (_foreign, "found weights of something else"),
    (_cut, "found a damaged safetensors file"),
    (lambda path: path.write_bytes(b""), "found an empty file"),
    (_without_accuracy, "damaged or of another format"), (_smaller, "of shape (2,) for"),
    (lambda path: (path.unlink(), path.mkdir()), "cannot be read")])
def test_other_files_are_one_sentence(private: Path, change, words: str) -> None:
    change(private)
    with pytest.raises(UserError) as caught:
        load_stand_in(private)
    sentence = str(caught.value)
    assert sentence.startswith(f"{private}: ") and words in sentence and "\n" not in sentence
    assert "expected a stand-in that 'python -m cddpm_core evaluator train' wrote" in sentence
