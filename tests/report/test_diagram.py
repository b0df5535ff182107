import pytest
import torch
from conftest import ROOT

from cddpm_core.config.presets import read_yaml
from cddpm_core.config.schema import resolve
from cddpm_core.model.network import ClassConditionedUnet
from cddpm_core.report.diagram import network_diagram


def words(name, layout=False):
    """The words in the diagram of a preset's network."""
    p = resolve(read_yaml(ROOT / f"params/{name}.yaml"))
    with torch.device("meta"):
        model = ClassConditionedUnet(
            class_emb_size=p.class_emb_size, blocks=p.blocks, channels=p.channels,
            layers_per_block=p.layers_per_block, patch_size=p.patch_size,
            attention_head_dim=p.attention_head_dim, backbone=p.backbone,
            conditioning=p.conditioning, transformer_blocks=p.transformer_blocks,
            layout=layout, refine_channels=p.refine_channels)
    return [text.get_text() for text in network_diagram(model.config).axes[0].texts]


def test_quick_goes_down_two_levels_to_its_transformer():
    found = words("quick")
    assert "$x_t$: 64 × 64 × 3" in found and "unshuffle by 2: 32 × 32 × 12" in found
    for level in ("32 × 32 × 32", "16 × 16 × 64"):
        assert sum(text.startswith(f"{level}\n1 residual") for text in found) == 2
    assert "8 × 8 × 128\n2 transformer blocks" in found
    assert "128 channels for each\nobject of the label" in found
    assert "refined with $x_t$: 64 × 64 × 3" in found
    assert not any("positions" in text for text in found)
    assert "objects at\ntheir positions:\n32 × 32 × 32" in words("quick", layout=True)


def test_the_original_has_six_levels_and_no_tokens():
    found = words("seed")
    assert "2 × 2 × 512\n2 residual" in found and "64 × 64 × 128\n3 residual" in found
    assert len([text for text in found if "residual" in text]) == 13
    assert not any("of the label" in text or "shuffle" in text for text in found)


@pytest.mark.parametrize("name", ["tutorial", "full", "smoke"])
def test_every_preset_has_a_diagram(name):
    assert any("enters every level" in text for text in words(name))
