import pytest
import torch
from conftest import ROOT

from cddpm_core.diagram import network_diagram
from cddpm_core.model import ClassConditionedUnet
from cddpm_core.params import resolve
from cddpm_core.presets import read_yaml


def words(name, rows=(), num_layouts=0):
    """What stands in the diagram of a preset's network."""
    p = resolve(read_yaml(ROOT / f"params/{name}.yaml"))
    with torch.device("meta"):
        model = ClassConditionedUnet(
            class_emb_size=p.class_emb_size, blocks=p.blocks, channels=p.channels,
            layers_per_block=p.layers_per_block, patch_size=p.patch_size, rows=rows,
            attention_head_dim=p.attention_head_dim, backbone=p.backbone,
            conditioning=p.conditioning, transformer_blocks=p.transformer_blocks,
            num_layouts=num_layouts)
    return [text.get_text() for text in network_diagram(model.config).axes[0].texts]


def test_quick_goes_down_one_level_to_its_transformer():
    found = words("quick", rows=[12, 60])
    assert "$x_t$: 48 × 64 × 3" in found and "unshuffle by 4: 12 × 16 × 48" in found
    assert found.count("12 × 16 × 64\n2 residual") == 2
    assert "6 × 8 × 128\n2 transformer blocks" in found
    assert "128 numbers for each\nobject asked for" in found
    assert not any("places" in text for text in found)
    assert "objects at\ntheir places:\n12 × 16 × 64" in words("quick", [12, 60], num_layouts=5)


def test_the_original_has_six_levels_and_no_tokens():
    found = words("seed")
    assert "2 × 2 × 512\n2 residual" in found and "64 × 64 × 128\n3 residual" in found
    assert len([text for text in found if "residual" in text]) == 13
    assert not any("asked for" in text or "shuffle" in text for text in found)


@pytest.mark.parametrize("name", ["tutorial", "full", "smoke"])
def test_every_preset_has_a_diagram(name):
    assert any("enters every level" in text for text in words(name))
