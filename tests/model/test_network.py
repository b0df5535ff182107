import pytest
import torch
from conftest import ROOT, awake
from hypothesis import given, settings
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.config.presets import read_yaml
from cddpm_core.config.schema import Params, resolve
from cddpm_core.data.labels import to_multi_hot
from cddpm_core.model.network import ClassConditionedUnet, make_network

SMALL = {"class_emb_size": 32, "layers_per_block": 1, "image_size": 32,
         "attention_head_dim": 8}
VARIANTS = {
    "plain": {"blocks": (0, 0), "channels": (1, 2)},
    "attention": {"blocks": (0, 1), "channels": (1, 2)},
    "patches": {"blocks": (0, 1), "channels": (1, 2), "patch_size": 4,
                "time_scale_shift": "scale_shift"},
    "one level": {"blocks": (1,), "channels": (2,), "layers_per_block": 2},
    "u_vit": {"blocks": (0, 0, 1), "channels": (1, 1, 2), "patch_size": 2, "backbone": "u_vit",
              "layers_per_block": 2, "time_scale_shift": "scale_shift"},
    "u_vit with tokens": {"blocks": (0, 1), "channels": (1, 2), "patch_size": 4,
                          "backbone": "u_vit", "conditioning": "object_tokens",
                          "transformer_blocks": 2},
    "refined": {"blocks": (0, 1), "channels": (1, 2), "patch_size": 2, "backbone": "u_vit",
                "refine_channels": 4},
    "transformer alone": {"blocks": (1,), "channels": (2,), "patch_size": 8, "backbone": "u_vit",
                          "conditioning": "object_tokens"},
}
TOKENS = [name for name, options in VARIANTS.items() if "conditioning" in options]


def small(name: str, seed: int = 0, **changes) -> ClassConditionedUnet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return awake(ClassConditionedUnet(**{**SMALL, **VARIANTS[name], **changes}).eval())


def label(*names: str) -> torch.Tensor:
    return to_multi_hot(names)[None]


def batch(count: int = 2, height: int = 32, width: int = 32):
    labels = torch.cat([label("red cube", "cyan sphere"), label("gray cylinder")])
    x_t = torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(7))
    return x_t, torch.tensor([3, 900])[:count], labels[:count]


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """The greatest difference of a pixel, in the image where that is least."""
    return float((a - b).abs().amax((1, 2, 3)).min())


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_an_output_depends_on_its_own_image_timestep_and_label_alone(name):
    network = small(name)
    x_t, t, labels = batch()
    output = network(x_t, t, labels)
    assert output.shape == x_t.shape
    for i in range(2):
        alone = network(x_t[i:i + 1], int(t[i]), labels[i:i + 1])
        assert torch.allclose(alone, output[i:i + 1], atol=1e-5)
    for other in ((x_t.flip(0), t, labels), (x_t, t.flip(0), labels), (x_t, t, labels.flip(0)),
                  (x_t, t, torch.zeros_like(labels))):
        assert difference(network(*other), output) > 1e-4


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_from_pretrained_is_the_network_that_was_saved(name, tmp_path):
    network = small(name, seed=1, layout=True)
    network.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    loaded = ClassConditionedUnet.from_pretrained(tmp_path)
    for key, value in network.config.items():
        if not key.startswith("_"):
            assert loaded.config[key] == (list(value) if isinstance(value, tuple) else value), key
    before, after = network.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() >= {"class_embedding.weight", "class_embedding.bias"}
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    assert torch.equal(network(*batch()), loaded(*batch()))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_weight_gets_a_gradient(name):
    network = small(name, layout=True).train()
    x_t, t, labels = batch()
    network(x_t, t, labels, torch.full((2, 24, 2), 0.4)).square().mean().backward()
    without = [n for n, weight in network.named_parameters()
               if weight.grad is None or not weight.grad.any()]
    # A key's bias adds the same to all cells, which the softmax ignores.
    assert all("to_k.bias" in n for n in without), without


def test_a_size_that_the_levels_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="image_size: expected a multiple of 8, found 20"):
        small("patches", image_size=20)


def test_the_up_side_mirrors_the_down_side():
    config = small("attention").unet.config
    assert list(config.down_block_types) == ["DownBlock2D", "AttnDownBlock2D"]
    assert list(config.up_block_types) == ["AttnUpBlock2D", "UpBlock2D"]
    assert tuple(config.block_out_channels) == (8, 16)
    patches = small("patches").unet.config
    assert patches.sample_size == 8
    assert (patches.in_channels, patches.out_channels) == (48, 48)
    assert patches.resnet_time_scale_shift == "scale_shift"


def test_the_original_network_is_that_of_the_tutorial():
    params = resolve(read_yaml(ROOT / "params/seed.yaml"))
    with torch.device("meta"):
        network = make_network(params, layout=params.layout)
    config = network.unet.config
    assert tuple(config.block_out_channels) == (128, 128, 256, 256, 512, 512)
    assert list(config.down_block_types) == ["DownBlock2D"] * 6
    assert list(config.up_block_types) == ["UpBlock2D"] * 6
    assert config.sample_size == 64
    assert (config.in_channels, config.out_channels) == (3, 3)
    assert config.layers_per_block == 2 and config.resnet_time_scale_shift == "default"
    assert network.class_embedding.weight.shape == (512, 24)
    assert network.unet.time_embedding.linear_2.out_features == 512


@pytest.mark.parametrize(("preset", "millions"), [
    ("seed", 108), ("tutorial", 1), ("best_cpu", 1), ("full", 142), ("colab", 16)])
def test_networks_of_the_presets_have_their_number_of_weights(preset, millions):
    params = resolve(read_yaml(ROOT / f"params/{preset}.yaml"))
    with torch.device("meta"):
        network = make_network(params, layout=params.layout)
    assert sum(weight.numel() for weight in network.parameters()) // 10**6 == millions


def test_the_seed_gives_the_weights_and_leaves_the_global_generator(tiny):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    first = make_network(tiny, layout=True).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, other = (make_network(tiny.replace(seed=seed), layout=True).state_dict()
                    for seed in (0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["class_embedding.weight"], other["class_embedding.weight"])


def test_a_network_has_the_structure_of_the_parameters(tiny):
    params = tiny.replace(layers_per_block=1, conditioning="class_embedding", image_size=128,
                          time_scale_shift="default", ordered_tokens=False, transformer_blocks=3)
    config = make_network(params, layout=True).config
    assert config.layout
    for key in config.keys() & params.to_dict().keys() - {"layout"}:
        assert config[key] == getattr(params, key), key


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
        output = make_network(params, layout=True)(*batch(height=64, width=64))
    assert output.shape == (2, 3, 64, 64) and output.isfinite().all()


def test_labels_of_more_objects_than_tokens_are_one_sentence():
    four = label("red cube", "red sphere", "red cylinder", "blue cube")
    with pytest.raises(UserError, match="one names 4 objects, expected at most 3"):
        small("transformer alone").check_labels(four)
    small("plain").check_labels(four)
    small("transformer alone", max_objects=4).check_labels(four)


@pytest.mark.parametrize("name", TOKENS)
@torch.no_grad()
def test_tokens_hold_every_object_of_a_label(name):
    network = small(name)
    network.class_embedding.weight.zero_()  # so that the tokens alone tell labels apart
    x_t, t, _ = batch(1)
    names = ["red cube", "blue sphere", "cyan cylinder"]
    outputs = [network(x_t, t, label(*chosen))
               for chosen in (names, names[:2], names[1:], names[:1])]
    for i, first in enumerate(outputs):
        assert all((first - second).abs().max() > 1e-5 for second in outputs[i + 1:])


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("name", [*TOKENS, "plain"])
@torch.no_grad()
def test_only_ordered_tokens_hold_the_order_of_a_label(name, ordered):
    x_t, t, _ = batch(1)
    network = small(name, ordered_tokens=ordered)
    one, other = (network(x_t, t, label(*names))
                  for names in (["red cube", "blue sphere"], ["blue sphere", "red cube"]))
    assert torch.allclose(one, other, atol=1e-5) == (name == "plain" or not ordered)
    # Without an order it is that of the indices.
    plain = network(x_t, t, (label("blue sphere", "red cube") > 0).float())
    assert torch.allclose(one, plain, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_positions_condition_the_network(name):
    network = small(name, layout=True)
    network.object_embeddings.mul_(10)
    x_t, t, labels = batch()
    positions = torch.full((2, 24, 2), torch.nan)
    unknown = network(x_t, t, labels, positions)
    assert torch.equal(unknown, network(x_t, t, labels))
    positions[labels > 0.5] = 0.3
    here = network(x_t, t, labels, positions)
    assert difference(here, unknown) > 1e-5
    assert difference(here, network(x_t, t, labels, positions + 0.4)) > 1e-5
    none = torch.zeros_like(labels)  # without its label an object has no position
    assert torch.equal(network(x_t, t, none, positions), network(x_t, t, none))


@torch.no_grad()
def test_an_embedding_is_spread_over_the_cells_around_its_position():
    network = small("plain", layout=True)
    labels = label("red cube")
    index = labels[0].argmax()
    positions = torch.full((1, 24, 2), torch.nan)
    positions[0, index] = torch.tensor([10.5, 13.25]) / 32  # column 10, row 12.75
    found = network._splat(labels, positions, torch.zeros(1, 3, 32, 32))[0]
    expected = torch.zeros(32, 32)
    expected[12, 10], expected[13, 10] = 0.25, 0.75
    assert torch.allclose(found, expected * network.object_embeddings[index][:, None, None],
                          atol=1e-4)
