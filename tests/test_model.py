import json
import warnings

import pytest
import torch
from conftest import ROOT, awake
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cddpm_core.data import varying_rows
from cddpm_core.errors import UserError
from cddpm_core.labels import to_multi_hot
from cddpm_core.model import ClassConditionedUnet, load_model, make_model, model_for
from cddpm_core.params import Params, resolve
from cddpm_core.presets import read_yaml

SMALL = {"class_emb_size": 32, "layers_per_block": 1, "image_size": 32, "attention_head_dim": 8}
VARIANTS = {
    "plain": {"blocks": (0, 0), "channels": (1, 2)},
    "attention": {"blocks": (0, 1), "channels": (1, 2)},
    "patches": {"blocks": (0, 1), "channels": (1, 2), "patch_size": 4,
                "time_scale_shift": "scale_shift"},
    "one level": {"blocks": (1,), "channels": (2,), "layers_per_block": 2},
    "tokens": {"blocks": (0, 1), "channels": (1, 2), "patch_size": 2,
               "conditioning": "object_tokens"},
    "u_vit": {"blocks": (0, 0, 1), "channels": (1, 1, 2), "patch_size": 2, "backbone": "u_vit",
              "layers_per_block": 2, "time_scale_shift": "scale_shift"},
    "u_vit with tokens": {"blocks": (0, 1), "channels": (1, 2), "patch_size": 4,
                          "backbone": "u_vit", "conditioning": "object_tokens",
                          "transformer_blocks": 2},
    "transformer alone": {"blocks": (1,), "channels": (2,), "patch_size": 8, "backbone": "u_vit",
                          "conditioning": "object_tokens"},
}


def small(name: str, seed: int = 0, **changes) -> ClassConditionedUnet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return awake(ClassConditionedUnet(**{**SMALL, **VARIANTS[name], **changes}).eval())


def batch(count: int = 2, size: int = 32):
    generator = torch.Generator().manual_seed(7)
    labels = torch.stack([to_multi_hot(["red cube", "cyan sphere"]),
                          to_multi_hot(["gray cylinder"])])
    return (torch.randn(count, 3, size, size, generator=generator),
            torch.tensor([3, 900])[:count], labels[:count])


@pytest.mark.parametrize("name", VARIANTS)
def test_output_has_the_shape_of_the_image(name):
    x_t, timesteps, labels = batch()
    with torch.no_grad():
        model = small(name)
        assert model(x_t, timesteps, labels).shape == x_t.shape
        one = model(x_t, 3, labels)
        assert torch.allclose(one[0], model(x_t, timesteps, labels)[0], atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_saving_and_loading_is_exact(name, tmp_path):
    model = small(name, seed=1)
    model.pixel_mean.normal_(generator=torch.Generator().manual_seed(2))
    model.pixel_scale.fill_(0.3)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    for key, value in model.config.items():
        if not key.startswith("_"):
            assert loaded.config[key] == (list(value) if isinstance(value, tuple) else value), key
    assert not loaded.training
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert {"class_embedding.weight", "class_embedding.bias", "pixel_mean", "pixel_scale"} <= set(
        after)
    for key, tensor in before.items():
        assert torch.equal(tensor, after[key]) and tensor.dtype == after[key].dtype, key
    assert torch.equal(model(*batch()), loaded(*batch()))
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()


@torch.no_grad()
def test_from_pretrained_alone_is_exact_too(tmp_path):
    model = small("attention", seed=1)
    model.save_pretrained(tmp_path)
    loaded = ClassConditionedUnet.from_pretrained(tmp_path)
    assert torch.equal(model(*batch()), loaded(*batch()))


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_label_and_timestep_change_the_output(name):
    model = small(name)
    x_t, timesteps, labels = batch()
    plain = model(x_t, timesteps, labels)
    for other in (labels.flip(0), torch.zeros_like(labels)):
        assert (model(x_t, timesteps, other) - plain).abs().amax((1, 2, 3)).min() > 1e-4
    assert (model(x_t, timesteps.flip(0), labels) - plain).abs().amax((1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_an_output_is_that_of_its_own_image_and_label(name):
    model = small(name)
    x_t, timesteps, labels = batch()
    both = model(x_t, timesteps, labels)
    for i in range(2):
        alone = model(x_t[i:i + 1], timesteps[i:i + 1], labels[i:i + 1])
        assert torch.allclose(alone, both[i:i + 1], atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_gets_a_gradient(name):
    model = small(name).train()
    x_t, timesteps, labels = batch()
    model(x_t, timesteps, labels).square().mean().backward()
    without = [n for n, weight in model.named_parameters()
               if weight.grad is None or not weight.grad.any()]
    # A key's bias adds the same to all places, which the softmax ignores.
    assert all("to_k.bias" in n or "add_k_proj.bias" in n for n in without), without


@given(st.integers(0, 1000), st.floats(0.05, 3), st.booleans())
@settings(max_examples=25)
def test_standardise_and_denormalise_are_inverse(seed, scale, batched):
    model = STANDARDISING
    generator = torch.Generator().manual_seed(seed)
    model.pixel_mean.uniform_(-0.5, 0.5, generator=generator)
    model.pixel_scale.fill_(scale)
    images = torch.rand((2, 3, 32, 32) if batched else (3, 32, 32), generator=generator) * 2 - 1
    x_0 = model.standardise(images)
    assert torch.allclose(x_0 * scale + model.pixel_mean, images, atol=1e-5)
    assert torch.allclose(model.denormalise(x_0), images, atol=1e-5)


STANDARDISING = small("plain")


@pytest.mark.parametrize("name", ["patches", "tokens", "u_vit with tokens", "u_vit"])
@torch.no_grad()
def test_a_model_draws_its_rows_and_leaves_the_others_to_the_mean(name, tmp_path):
    model = small(name, rows=(8, 24))
    generator = torch.Generator().manual_seed(5)
    model.pixel_mean.uniform_(-0.5, 0.5, generator=generator)
    model.pixel_scale.fill_(0.2)
    images = torch.rand(2, 3, 32, 32, generator=generator) * 2 - 1
    x_0 = model.standardise(images)
    assert x_0.shape[1:] == model.x_shape == (3, 16, 32)
    _, timesteps, labels = batch()
    output = model(x_0, timesteps, labels)
    assert output.shape == x_0.shape
    back = model.denormalise(x_0)
    assert torch.allclose(back[:, :, 8:24], images[:, :, 8:24], atol=1e-5)
    for rows in (slice(0, 8), slice(24, 32)):
        assert torch.equal(back[:, :, rows], model.pixel_mean[:, rows].expand(2, -1, -1, -1))
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.x_shape == (3, 16, 32) and torch.equal(loaded(x_0, timesteps, labels), output)


@pytest.mark.parametrize("rows", [[0, 10**9], [24, 8], [8, 21], [-8, 8], [3]])
def test_rows_that_cannot_be_are_refused(rows, tmp_path):
    small("plain").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "rows": rows}))
    with pytest.raises(UserError, match="not a readable ClassConditionedUnet"):
        load_model(tmp_path)


def test_a_model_for_images_knows_their_mean_and_rows(tiny, dataset):
    mean, std = dataset.mean_and_std()
    model = model_for(tiny.replace(patch_size=4), dataset)
    assert torch.equal(model.pixel_mean, mean) and model.pixel_scale == tiny.data_scale
    assert tuple(model.config.rows) == varying_rows(std, 8) != (0, 64)
    assert model_for(tiny.replace(trim_rows=False), dataset).x_shape == (3, 64, 64)
    plain = model_for(tiny.replace(standardise=False), dataset)
    assert plain.x_shape == (3, 64, 64)
    assert not plain.pixel_mean.any() and plain.pixel_scale == 1


def test_denormalise_clips_to_the_range_of_images():
    model = small("plain")
    x_0 = torch.full((3, 32, 32), 7.0)
    assert model.denormalise(x_0).eq(1).all() and model.denormalise(-x_0).eq(-1).all()
    assert torch.equal(model.standardise(x_0), x_0)


def test_the_original_configuration_is_that_of_the_report():
    params = resolve(read_yaml(ROOT / "params/seed.yaml"))
    with torch.device("meta"):
        model = ClassConditionedUnet(
            class_emb_size=params.class_emb_size, blocks=params.blocks, channels=params.channels,
            layers_per_block=params.layers_per_block, attention_head_dim=params.attention_head_dim)
    config = model.unet.config
    assert tuple(config.block_out_channels) == (128, 128, 256, 256, 512, 512)
    assert list(config.down_block_types) == ["DownBlock2D"] * 6
    assert list(config.up_block_types) == ["UpBlock2D"] * 6
    assert tuple(config.sample_size) == (64, 64)
    assert (config.in_channels, config.out_channels) == (3, 3)
    assert config.layers_per_block == 2 and config.resnet_time_scale_shift == "default"
    assert model.class_embedding.weight.shape == (512, 24)
    assert model.unet.time_embedding.linear_2.out_features == 512


def test_the_up_side_mirrors_the_down_side():
    config = small("attention").unet.config
    assert list(config.down_block_types) == ["DownBlock2D", "AttnDownBlock2D"]
    assert list(config.up_block_types) == ["AttnUpBlock2D", "UpBlock2D"]
    assert tuple(config.block_out_channels) == (8, 16)
    patches = small("patches").unet.config
    assert tuple(patches.sample_size) == (8, 8)
    assert (patches.in_channels, patches.out_channels) == (48, 48)
    assert patches.resnet_time_scale_shift == "scale_shift"


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator(tiny):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    first = make_model(tiny).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, other = (make_model(tiny.replace(seed=s)).state_dict() for s in (0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["class_embedding.weight"], other["class_embedding.weight"])


def test_a_model_of_the_parameters_has_their_structure(tiny):
    config = make_model(tiny.replace(layers_per_block=2, conditioning="class_embedding",
                                     time_scale_shift="default")).config
    for key in ("class_emb_size", "layers_per_block", "image_size", "patch_size",
                "time_scale_shift", "attention_head_dim", "conditioning", "backbone",
                "transformer_blocks"):
        expected = {"layers_per_block": 2, "conditioning": "class_embedding",
                    "time_scale_shift": "default"}.get(key, getattr(tiny, key))
        assert config[key] == expected, key
    assert list(config["blocks"]) == tiny.blocks and list(config["channels"]) == tiny.channels


@given(st.sampled_from([8, 12, 32, 40, 64, 100]), st.integers(1, 40),
       st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3)), min_size=1, max_size=3),
       st.sampled_from(["class_embedding", "object_tokens"]), st.sampled_from(["unet", "u_vit"]))
@settings(max_examples=40)
def test_parameters_that_are_accepted_make_a_network_that_runs(size, head, levels, conditioning,
                                                               backbone):
    try:
        params = Params(class_emb_size=size, attention_head_dim=head, patch_size=8,
                        blocks=[b for b, _ in levels], channels=[c for _, c in levels],
                        conditioning=conditioning, backbone=backbone)
    except UserError:
        return
    with torch.no_grad():
        output = make_model(params)(*batch(size=64))
    assert output.shape == (2, 3, 64, 64) and output.isfinite().all()


@pytest.mark.parametrize("values", [
    {"class_emb_size": 32, "attention_head_dim": 64}, {"attention_head_dim": 96},
    {"backbone": "unet", "blocks": [1, 1], "attention_head_dim": 128}])
def test_heads_that_do_not_divide_their_level_are_one_sentence(values):
    with pytest.raises(UserError, match="attention_head_dim: expected a divisor of"):
        resolve(values)


@pytest.mark.parametrize("blocks", [[0, 0], [1, 1], [1, 0]])
def test_attention_elsewhere_than_in_the_transformer_is_one_sentence(blocks):
    with pytest.raises(UserError, match=r"blocks: u_vit has attention at the last level alone, "
                                        r"expected \[0, 1\]"):
        resolve({"blocks": blocks})


def test_labels_with_more_objects_than_tokens_are_one_sentence():
    labels = to_multi_hot(["red cube", "red sphere", "red cylinder", "blue cube"])[None]
    with pytest.raises(UserError, match="one names 4 objects, expected at most 3"):
        small("tokens").check_labels(labels)
    small("plain").check_labels(labels)
    small("tokens", max_objects=4).check_labels(labels)


@pytest.mark.parametrize("name", ["tokens", "u_vit with tokens", "transformer alone"])
@torch.no_grad()
def test_a_token_model_sees_every_object_of_a_label(name):
    model = small(name)
    # Left alone, the tokens must tell the labels apart.
    model.class_embedding.weight.zero_()
    x_t, timesteps, _ = batch(1)
    names = ["red cube", "blue sphere", "cyan cylinder"]
    outputs = [model(x_t, timesteps, to_multi_hot(chosen)[None])
               for chosen in (names, names[:2], names[1:], names[:1])]
    for i, first in enumerate(outputs):
        for second in outputs[i + 1:]:
            assert (first - second).abs().max() > 1e-5


@pytest.mark.parametrize("name", ["tokens", "u_vit with tokens", "transformer alone"])
@torch.no_grad()
def test_only_ordered_tokens_know_which_object_is_named_first(name):
    x_t, timesteps, _ = batch(1)
    for ordered in (False, True):
        model = small(name, ordered_tokens=ordered)
        one, other = (model(x_t, timesteps, to_multi_hot(names)[None])
                      for names in (["red cube", "blue sphere"], ["blue sphere", "red cube"]))
        plain = model(x_t, timesteps, (to_multi_hot(["blue sphere", "red cube"]) > 0).float()[None])
        assert (not torch.allclose(one, other, atol=1e-5)) == ordered
        # Where a label has no order, it is that of the indices.
        assert torch.allclose(one, plain, atol=1e-5)


@torch.no_grad()
def test_a_summed_embedding_knows_no_order():
    model, (x_t, timesteps, _) = small("plain"), batch(1)
    one, other = (model(x_t, timesteps, to_multi_hot(names)[None])
                  for names in (["red cube", "blue sphere"], ["blue sphere", "red cube"]))
    assert torch.equal(one, other)


@pytest.fixture
def saved(tmp_path):
    small("patches").save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


def rewrite(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


WEIGHTS = "diffusion_pytorch_model.safetensors"
DAMAGES = {
    "truncated weights": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-99]),
    "empty weights": lambda f: (f / WEIGHTS).write_bytes(b""),
    "no weights": lambda f: (f / WEIGHTS).unlink(),
    "text as weights": lambda f: (f / WEIGHTS).write_text("hello\n" * 50),
    "malformed config": lambda f: (f / "config.json").write_text("{"),
    "empty config": lambda f: (f / "config.json").write_text(""),
    "list as config": lambda f: (f / "config.json").write_text("[]"),
    "config of a wider network": lambda f: rewrite(f, class_emb_size=64),
    "config of a deeper network": lambda f: rewrite(f, blocks=[0, 0, 1], channels=[1, 2, 2]),
    "config of a shallower network": lambda f: rewrite(f, layers_per_block=0),
    "wrong type in config": lambda f: rewrite(f, class_emb_size="wide"),
    "a weight missing": lambda f: save_file(
        {k: v for k, v in load_file(f / WEIGHTS).items() if k != "class_embedding.weight"},
        f / WEIGHTS, metadata={"format": "pt"}),
    "a weight too many": lambda f: save_file(
        {**load_file(f / WEIGHTS), "other.weight": torch.zeros(3)}, f / WEIGHTS,
        metadata={"format": "pt"}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_model_is_one_sentence(saved, damage):
    DAMAGES[damage](saved)
    with warnings.catch_warnings(), pytest.raises(UserError) as error:
        warnings.simplefilter("ignore")
        load_model(saved)
    assert f"{saved}: not a readable ClassConditionedUnet" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["", "unet/unet"])
def test_no_model_names_the_stage_that_makes_it(saved, part):
    with pytest.raises(UserError, match="no trained model there, first run the 'train' stage"):
        load_model(saved.parent / part)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_a_network_is_told_where_objects_stand(name):
    model = small(name, num_layouts=2)
    model.placed_objects.mul_(10)
    x_t, timesteps, labels = batch()
    places = torch.full((2, 24, 2), torch.nan)
    unknown = model(x_t, timesteps, labels, places)
    assert torch.equal(unknown, model(x_t, timesteps, labels))
    places[labels > 0.5] = 0.3
    here = model(x_t, timesteps, labels, places)
    there = model(x_t, timesteps, labels, places + 0.4)
    assert (here - unknown).abs().max() > 1e-5 and (here - there).abs().max() > 1e-5
    # Without its label an object is nowhere.
    none = torch.zeros_like(labels)
    assert torch.equal(model(x_t, timesteps, none, places), model(x_t, timesteps, none))


@torch.no_grad()
def test_an_object_is_laid_on_the_cells_around_its_place():
    model = small("plain", num_layouts=1, rows=(8, 24))
    labels = to_multi_hot(["red cube"])[None]
    places = torch.full((1, 24, 2), torch.nan)
    index = labels[0].argmax()
    places[0, index] = torch.tensor([10.5, 13.25]) / 32  # column 10, row 12.75 - 8 = 4.75
    found = model._laid_out(labels, places, torch.zeros(1, 3, 16, 32))[0] / model.placed_objects[
        index][:, None, None]
    expected = torch.zeros(16, 32)
    expected[4, 10], expected[5, 10] = 0.25, 0.75
    assert torch.allclose(found, expected.expand_as(found), atol=1e-4)


def test_layouts_are_saved_with_the_weights(tmp_path):
    model = small("u_vit with tokens", num_layouts=2)
    model.layouts.uniform_()
    model.save_pretrained(tmp_path / "unet")
    assert torch.equal(load_model(tmp_path / "unet").layouts, model.layouts)


def test_a_new_model_knows_the_layouts_of_its_data_set(tiny, dataset):
    model = model_for(tiny, dataset)
    assert torch.equal(model.layouts, torch.from_numpy(dataset.layouts()))
    assert model_for(tiny.replace(layout=False), dataset).config.num_layouts == 0
