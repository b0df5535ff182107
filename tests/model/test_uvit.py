import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from cddpm_core.model.uvit import DiTBlock, UViT, _attention


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def block_of(width: int = 16) -> DiTBlock:
    block = DiTBlock(width, 12, 8)
    with torch.no_grad():
        block.modulation.weight.copy_(normal(6 * width, 12))
    return block


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.sampled_from([4, 8]))
def test_attention_is_torchs(batch, heads, length, size):
    q, k, v = normal(3, batch, heads, length, size)
    expected = F.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(_attention(q, k, v), expected, atol=1e-5)


@torch.no_grad()
def test_a_new_block_passes_its_input_through():
    x, emb = normal(2, 5, 16), normal(2, 12)
    assert torch.equal(DiTBlock(16, 12, 8)(x, emb), x)
    assert not torch.allclose(block_of()(x, emb), x, atol=0.1)


@torch.no_grad()
def test_a_block_treats_all_elements_of_its_sequence_alike():
    x, emb, order = normal(2, 5, 16), normal(2, 12), [3, 0, 4, 1, 2]
    block = block_of()
    assert torch.allclose(block(x[:, order], emb), block(x, emb)[:, order], atol=1e-5)
    # Each one depends on all others.
    moved = block(torch.cat([x[:, :4], -x[:, 4:]], 1), emb)
    assert ((moved - block(x, emb)).abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize("widths", [(16,), (8, 16), (8, 8, 16)])
@torch.no_grad()
def test_tokens_are_part_of_the_sequence_but_not_of_the_output(widths):
    network = UViT(3, 5, 8, widths, layers=1, blocks=2, emb_size=12, head_dim=8, groups=4,
                   time_scale_shift="scale_shift")
    x, emb, tokens = normal(2, 5, 8, 8), normal(2, 12), normal(2, 4, 16)
    assert not network(x, 3, emb, tokens).any()  # a new network predicts zero
    network.conv_out.weight.copy_(normal(3, widths[0], 3, 3))
    for block in network.blocks:
        block.modulation.weight.copy_(normal(*block.modulation.weight.shape))
    output = network(x, 3, emb, tokens)
    assert output.shape == (2, 3, 8, 8)
    # The order of the tokens is not known, their content is.
    assert torch.allclose(network(x, 3, emb, tokens.flip(1)), output, atol=1e-3)
    assert (network(x, 3, emb, -tokens) - output).abs().max() > 1e-3
    assert (network(x, 3, emb) - output).abs().max() > 1e-3
