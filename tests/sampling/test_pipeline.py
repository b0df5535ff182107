import json
import shutil

import numpy as np
import pytest
import torch
from conftest import awake, same
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.data.labels import to_multi_hot
from cddpm_core.sampling.pipeline import (
    ClassConditionedPipeline,
    load_pipeline,
    make_pipeline,
    save_pipeline,
)
from cddpm_core.sampling.sample import sample, sampling_options

PARTS = ("unet", "codec", "layout_prior")


def sampled(pipeline, conditions=("red sphere", "cyan cube"), seed=3, **options):
    options = {"num_inference_steps": 4, "guidance_scale": 3, **options}
    return pipeline(conditions, generator=torch.Generator().manual_seed(seed), **options).images


def states(pipeline) -> dict:
    return {part: dict(getattr(pipeline, part).state_dict()) for part in PARTS}


@pytest.fixture(scope="module")
def saved(tiny_pipeline, tmp_path_factory):
    """The folder of a pipeline."""
    folder = tmp_path_factory.mktemp("pipeline") / "model"
    save_pipeline(tiny_pipeline, folder)
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of that folder, to be changed."""
    return shutil.copytree(saved, tmp_path / "model")


def test_from_pretrained_samples_what_the_saved_pipeline_does(tiny_pipeline, saved):
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == "ClassConditionedPipeline"
    assert index["unet"] == ["cddpm_core.model.network", "ClassConditionedUnet"]
    assert {path.name for path in saved.iterdir()} == {*PARTS, "scheduler", "model_index.json"}
    loaded = ClassConditionedPipeline.from_pretrained(saved)
    assert same(states(loaded), states(tiny_pipeline))
    assert torch.equal(loaded.scheduler.betas, tiny_pipeline.scheduler.betas)
    images = sampled(loaded)
    assert len(images) == 1 and isinstance(images[0], Image.Image) and images[0].size == (64, 64)
    assert np.array_equal(images[0], sampled(tiny_pipeline)[0])


def test_load_pipeline_is_from_pretrained(saved):
    one, other = load_pipeline(saved), ClassConditionedPipeline.from_pretrained(saved)
    assert same(states(one), states(other)) and not one.unet.training
    assert torch.equal(one.scheduler.betas, other.scheduler.betas)
    assert torch.equal(sampled(one, output_type="pt"), sampled(other, output_type="pt"))


def test_a_pipeline_samples_as_its_run_does_unless_told_otherwise(tiny, dataset, tmp_path):
    chosen = tiny.replace(sampler="ddim", num_inference_steps=3, guidance_scale=2.5,
                          guidance_interval=[0.1, 0.9], layout_choices=2, grain=False)
    pipeline = awake(make_pipeline(chosen, dataset))
    save_pipeline(pipeline, tmp_path / "model")
    labels = to_multi_hot(["red sphere", "cyan cube"])[None]
    seeds = torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(3)).tolist()
    expected = sample(pipeline, labels, seeds, **sampling_options(pipeline, chosen))
    for loaded in (pipeline, load_pipeline(tmp_path / "model"),
                   ClassConditionedPipeline.from_pretrained(tmp_path / "model")):
        generator = torch.Generator().manual_seed(3)
        found = loaded(["red sphere", "cyan cube"], generator=generator, output_type="pt").images
        assert torch.equal(found, expected)
    assert not torch.equal(sampled(pipeline, output_type="pt"), expected)


@pytest.mark.parametrize(("index", "words"), [
    ("[]", "expected the index of a pipeline"), ('{"sampling": 3}', "expected the index of a"),
    ('{"sampling": {"sampler": "ddin"}}', "did you mean 'ddim'"), ("{", "malformed JSON")])
def test_a_damaged_index_is_one_sentence(copied, index, words):
    (copied / "model_index.json").write_text(index)
    with pytest.raises(UserError, match=words) as error:
        load_pipeline(copied)
    assert "model_index.json: " in str(error.value)


def test_the_generator_makes_the_images(tiny_pipeline):
    conditions = [["red sphere", "cyan cube"], ["gray cylinder"], ["red sphere", "cyan cube"]]
    first, again, other = (sampled(tiny_pipeline, conditions, seed, output_type="pt", batch_size=2)
                           for seed in (3, 3, 4))
    assert first.shape == (3, 3, 64, 64) and first.min() >= -1 and first.max() <= 1
    assert torch.equal(first, again)
    assert ((first - other).abs().amax((1, 2, 3)) > 1e-3).all()
    assert (first[0] - first[2]).abs().max() > 1e-3  # each image has a seed of its own
    pictures = sampled(tiny_pipeline, conditions)
    assert len(pictures) == 3
    levels = ((first + 1) * 127.5).round().movedim(1, -1).numpy()
    assert np.abs(np.stack(pictures) - levels).max() <= 1
    ungiven = tiny_pipeline(["red cube"], num_inference_steps=1, output_type="pt").images
    assert not torch.equal(ungiven, tiny_pipeline(["red cube"], num_inference_steps=1,
                                                  output_type="pt").images)


@pytest.mark.parametrize(("conditions", "options", "words"), [
    (["red spere"], {}, "unknown label 'red spere' (did you mean 'red sphere'"),
    ([["red cube"], ["blue"]], {}, "unknown label 'blue'"),
    ([], {}, "the label list is empty"),
    ([[]], {}, "the label list is empty"),
    (["red cube", "gray cube", "blue cube", "cyan cube"], {}, "one names 4 objects"),
    (["red cube"], {"sampler": "ddin"}, "did you mean 'ddim'"),
    (["red cube"], {"num_inference_steps": 21}, "expected 1 to num_train_timesteps (20), found 21"),
    (["red cube"], {"num_inference_steps": 0}, "expected 1 to num_train_timesteps (20), found 0"),
    (["red cube"], {"output_type": "np"}, "output_type: expected 'pil' or 'pt', found 'np'"),
])
def test_what_cannot_be_sampled_is_one_sentence(tiny_pipeline, conditions, options, words):
    with pytest.raises(UserError) as error:
        sampled(tiny_pipeline, conditions, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_new_pipeline_is_fitted_to_the_training_images(tiny, dataset):
    pipeline = make_pipeline(tiny, dataset)
    assert torch.equal(pipeline.codec.mean, dataset.mean())
    assert torch.equal(pipeline.layout_prior.layouts, torch.from_numpy(dataset.layouts()))
    assert pipeline.unet.config.layout
    assert pipeline.scheduler.config.num_train_timesteps == tiny.num_train_timesteps


def test_images_of_more_objects_than_tokens_are_one_sentence(tiny, dataset, monkeypatch):
    labels = dataset.labels.clone()
    labels[0] = to_multi_hot(["gray cube", "cyan cube", "red cube", "blue cube"])
    monkeypatch.setattr(dataset, "labels", labels)
    with pytest.raises(UserError, match="one names 4 objects, expected at most 3"):
        make_pipeline(tiny.replace(layout=False), dataset)


def test_a_pipeline_without_layout_prior_round_trips(tiny, dataset, tmp_path):
    pipeline = awake(make_pipeline(tiny.replace(layout=False), dataset))
    assert pipeline.layout_prior is None and not pipeline.unet.config.layout
    save_pipeline(pipeline, tmp_path / "model")
    assert not (tmp_path / "model/layout_prior").exists()
    expected = sampled(pipeline, output_type="pt")
    for loaded in (load_pipeline(tmp_path / "model"),
                   ClassConditionedPipeline.from_pretrained(tmp_path / "model")):
        assert loaded.layout_prior is None
        assert torch.equal(sampled(loaded, output_type="pt"), expected)


def test_saving_again_replaces_the_weights(tiny_pipeline, tiny, dataset, copied):
    other = make_pipeline(tiny.replace(seed=1), dataset)
    save_pipeline(other, copied)
    assert same(states(load_pipeline(copied)), states(other))
    assert not same(states(other), states(tiny_pipeline))
    assert not [path for path in copied.parent.iterdir() if path.suffix == ".tmp"]


@pytest.mark.parametrize(("part", "words"), [
    ("unet", "no trained model there"), ("codec", "no trained model there"),
    ("layout_prior", "no trained model there"), ("scheduler", "not a readable scheduler"),
])
@pytest.mark.parametrize("how", ["missing", "malformed"])
def test_a_part_that_is_missing_or_damaged_is_one_sentence(copied, part, words, how):
    config, = copied.glob(f"{part}/*config.json")
    config.unlink() if how == "missing" else config.write_text("{")
    if how == "malformed":
        words = "not a readable"
    with pytest.raises(UserError) as error:
        load_pipeline(copied)
    assert f"{copied / part}: {words}" in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_one_sentence(tiny_pipeline, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tiny_pipeline), "save_pretrained", full)
    with pytest.raises(UserError, match="model: cannot be written .No space left"):
        save_pipeline(tiny_pipeline, tmp_path / "model")
