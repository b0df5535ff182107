import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from cddpm_core.config.errors import UserError
from cddpm_core.model.codec import PixelCodec
from cddpm_core.model.loading import load_component
from cddpm_core.model.network import ClassConditionedUnet

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def network() -> ClassConditionedUnet:
    return ClassConditionedUnet(class_emb_size=32, blocks=(0, 1), channels=(1, 2),
                                layers_per_block=1, image_size=32, patch_size=4)


@pytest.fixture
def saved(network, tmp_path):
    """The folder of a network."""
    network.save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


def configure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def rewrite(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


DAMAGES = {
    "truncated weights": lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-99]),
    "empty weights": lambda f: (f / WEIGHTS).write_bytes(b""),
    "no weights": lambda f: (f / WEIGHTS).unlink(),
    "text as weights": lambda f: (f / WEIGHTS).write_text("hello\n" * 50),
    "malformed config": lambda f: (f / "config.json").write_text("{"),
    "empty config": lambda f: (f / "config.json").write_text(""),
    "list as config": lambda f: (f / "config.json").write_text("[]"),
    "config of a wider network": lambda f: configure(f, class_emb_size=64),
    "config of a deeper network": lambda f: configure(f, blocks=[0, 0, 1], channels=[1, 2, 2]),
    "config of a huge network": lambda f: configure(f, class_emb_size=2**20),
    "config of a shallower network": lambda f: configure(f, layers_per_block=0),
    "wrong type in config": lambda f: configure(f, class_emb_size="wide"),
    "wrong size in config": lambda f: configure(f, image_size=21),
    "a weight missing": lambda f: rewrite(f, lambda w: w.pop("class_embedding.weight")),
    "a weight too many": lambda f: rewrite(f, lambda w: w.update(other=torch.zeros(3))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_network_is_one_sentence(saved, damage):
    DAMAGES[damage](saved)
    with warnings.catch_warnings(), pytest.raises(UserError) as error:
        warnings.simplefilter("ignore")
        load_component(ClassConditionedUnet, saved)
    assert f"{saved}: not a readable ClassConditionedUnet" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes", [{"image_size": 30}, {"image_size": 10**9}, {"grain": [1.0]}])
def test_a_codec_that_cannot_be_is_one_sentence(tmp_path, changes):
    PixelCodec(32).save_pretrained(tmp_path)
    configure(tmp_path, **changes)
    with pytest.raises(UserError, match="not a readable PixelCodec"):
        load_component(PixelCodec, tmp_path)


@pytest.mark.parametrize("part", ["", "unet/unet"])
def test_no_network_names_the_stage_that_makes_it(saved, part):
    with pytest.raises(UserError, match="no trained model there, first run the 'train' stage"):
        load_component(ClassConditionedUnet, saved.parent / part)
