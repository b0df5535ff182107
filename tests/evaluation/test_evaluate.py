"""Sampling and scoring the conditions of a file, and which evaluator scores them."""

import json

import pytest
import torch

from cddpm_core.config.errors import UserError
from cddpm_core.data.dataset import ConditionDataset, IclevrDataset
from cddpm_core.evaluation import evaluate
from cddpm_core.evaluation.evaluate import one_layout, sample_and_score, second_verdict
from cddpm_core.evaluation.evaluator import OFFICIAL_SHA256, Evaluator, ResNet18
from cddpm_core.evaluation.score import score, score_facts
from cddpm_core.evaluation.stand_in import WEIGHTS, load_evaluator, released, save_stand_in
from cddpm_core.sampling.pipeline import make_pipeline


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Evaluator(ResNet18(), "official", "0" * 64)


@pytest.fixture
def conditions(tmp_path) -> ConditionDataset:
    (tmp_path / "two.json").write_text(json.dumps([["red cube"], ["cyan sphere", "gray cube"]]))
    return ConditionDataset(tmp_path / "two.json")


@pytest.mark.parametrize("image_size", [64, 32])
def test_sampling_and_scoring_is_repeatable(tiny, rendered, evaluator, image_size):
    params = tiny.replace(image_size=image_size, guidance_scale=2, sample_batch_size=20)
    pipeline = make_pipeline(params, IclevrDataset(rendered, image_size))
    conditions = ConditionDataset("test")
    images, scored = sample_and_score(pipeline, evaluator, conditions, params)
    torch.manual_seed(5)
    again, rescored = sample_and_score(pipeline, evaluator, conditions, params)
    assert torch.equal(images, again)
    assert images.shape == (32, 3, image_size, image_size)
    assert scored.pop("images_per_second") > 0 and rescored.pop("images_per_second") > 0
    assert scored == rescored
    assert scored["objects"] == 72 and len(scored["conditions"]) == 32
    assert 0 <= scored["micro"] <= 1 and 0 <= scored["macro"] <= 1


def test_the_parameters_of_sampling_are_used(tiny, tiny_pipeline, evaluator, conditions):
    def images(**changes):
        return sample_and_score(tiny_pipeline, evaluator, conditions, tiny.replace(**changes))[0]

    plain = images()
    assert torch.allclose(plain, images(sample_batch_size=1), atol=1e-4)
    for changes in ({"seed": 1}, {"sampler": "ddim"}, {"num_inference_steps": 3},
                    {"guidance_scale": 9}, {"evaluator_guidance": 30}):
        assert not torch.allclose(plain, images(**changes), atol=1e-4), changes


def test_one_layout_is_compared_only_where_there_is_a_choice(tiny, tiny_pipeline, evaluator,
                                                            dataset, conditions):
    found = one_layout(tiny_pipeline, evaluator, conditions, tiny.replace(layout_choices=4))
    params = tiny.replace(layout_choices=1)
    assert found == score_facts(sample_and_score(tiny_pipeline, evaluator, conditions, params)[1])
    assert one_layout(tiny_pipeline, evaluator, conditions, params) is None
    without = make_pipeline(tiny.replace(layout=False), dataset)
    assert without.layout_prior is None
    assert one_layout(without, evaluator, conditions, tiny.replace(layout_choices=4)) is None


@pytest.mark.parametrize("sampler", ["dpm_solver++", "unipc"])
def test_the_progress_bar_counts_every_step(tiny, tiny_pipeline, evaluator, conditions, sampler,
                                            monkeypatch):
    bars = []
    monkeypatch.setattr(evaluate, "progress", lambda progress=evaluate.progress, **options: (
        bars.append(progress(**options)) or bars[-1]))
    params = tiny.replace(sampler=sampler, sample_batch_size=1)
    sample_and_score(tiny_pipeline, evaluator, conditions, params, "sampling")
    assert bars[0].n == bars[0].total > 0


def test_without_a_file_it_is_the_released_stand_in(tiny):
    found = load_evaluator(tiny.evaluator)
    assert (found.kind, found.known, found.sha256) == ("stand-in", True, released().sha256)


def test_a_users_stand_in_is_a_private_one(tiny, tmp_path):
    path = tmp_path / "mine.safetensors"
    save_stand_in(released(), path, {"recipe": {}})
    found = load_evaluator(path)
    assert (found.kind, found.known) == ("stand-in", False)
    assert load_evaluator(WEIGHTS).known
    path.write_bytes(b"hello")
    with pytest.raises(UserError, match="expected a stand-in that"):
        load_evaluator(path)


def test_the_released_one_gives_a_second_verdict_on_the_images_of_another(evaluator):
    images = {name: torch.rand(32, 3, 32, 32) * 2 - 1 for name in ("test", "new_test")}
    found = second_verdict(evaluator, images)
    assert found["evaluator"]["released"] and found["evaluator"]["sha256"] != evaluator.sha256
    judge = released()
    for name, x in images.items():
        expected = score(judge(judge.resized(x)), ConditionDataset(name).conditions)
        part = found[name]
        assert part["micro"] == expected["micro"] and part["images"] == 32
        assert sum(part["image_hits"]) == part["hits"] and len(part["image_hits"]) == 32
    assert second_verdict(judge, images) is None


def test_a_users_evaluator_is_the_official_one(tiny, evaluator, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": evaluator.model.state_dict()}, path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given_as in (str(path), "~/checkpoint.pth"):
        found = load_evaluator(given_as)
        assert found.kind == "official" and found.sha256 != OFFICIAL_SHA256 and not found.known
    images = torch.zeros(1, 3, 64, 64)
    assert torch.allclose(found(images), evaluator(images))
    with pytest.raises(UserError, match="nowhere.pth: no such file"):
        load_evaluator(tmp_path / "nowhere.pth")
