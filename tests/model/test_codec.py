import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cddpm_core.data.images import to_float
from cddpm_core.model.codec import PixelCodec, grain_of, make_codec


@given(st.integers(0, 1000), st.floats(0.05, 3), st.booleans())
def test_decode_is_the_inverse_of_encode(seed, scale, batched):
    codec, generator = PixelCodec(32), torch.Generator().manual_seed(seed)
    codec.mean.uniform_(-0.5, 0.5, generator=generator)
    codec.scale.fill_(scale)
    images = torch.rand((2, 3, 32, 32) if batched else (3, 32, 32), generator=generator) * 2 - 1
    x_0 = codec.encode(images)
    assert torch.allclose(x_0 * scale + codec.mean, images, atol=1e-5)
    assert torch.allclose(codec.decode(x_0), images, atol=1e-5)


def test_a_new_codec_only_clips():
    codec, x_0 = PixelCodec(8), torch.full((3, 8, 8), 7.0)
    assert torch.equal(codec.encode(x_0), x_0)
    assert codec.decode(x_0).eq(1).all() and codec.decode(-x_0).eq(-1).all()


def test_a_codec_fits_the_training_images(tiny, dataset):
    codec = make_codec(tiny, dataset)
    assert torch.equal(codec.mean, dataset.mean()) and codec.scale == torch.tensor(tiny.data_scale)
    images = to_float(dataset.pixels)
    assert torch.allclose(codec.decode(codec.encode(images)), images, atol=1e-6)
    plain = make_codec(tiny.replace(standardise=False), dataset)
    assert plain.mean.shape == (3, 64, 64) and not plain.mean.any() and plain.scale == 1


@given(st.integers(0, 1000), st.integers(0, 40))
@settings(max_examples=15)
def test_the_grain_of_images_is_measured_beside_rounding_light_and_edges(seed, tenths):
    generator = torch.Generator().manual_seed(seed)
    wanted = tenths / 10 * torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0.8, 0.2, 0.5]])
    light = torch.linspace(60, 190, 64).expand(24, 3, 64, 64).clone()
    light[:, :, 20:35, 20:31] = 20.0  # an object
    noise = torch.einsum("ij,bjhw->bihw", wanted, torch.randn(light.shape, generator=generator))
    found = 127.5 * grain_of((light + noise).round() / 127.5 - 1)
    assert torch.allclose(found @ found.T, wanted @ wanted.T, atol=0.04, rtol=0.12)


def test_images_without_noise_or_too_small_have_no_grain():
    assert not grain_of(torch.zeros(2, 3, 32, 32)).any()
    assert not grain_of(torch.randn(2, 3, 8, 8)).any()


def test_grain_is_normal_noise_of_the_covariance_and_kept_with_the_codec(tmp_path):
    PixelCodec(32, [[0.01, 0, 0], [0.02, 0.01, 0], [0, 0, 0]]).save_pretrained(tmp_path)
    codec = PixelCodec.from_pretrained(tmp_path)
    noise = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = codec.with_grain(torch.zeros(64, 3, 32, 32), noise).movedim(1, 0).flatten(1).cov()
    wanted = torch.tensor([[1.0, 2, 0], [2, 5, 0], [0, 0, 0]]) * 1e-4
    assert torch.allclose(found, wanted, atol=1.5e-5)  # five standard errors
    assert codec.with_grain(torch.ones(1, 3, 32, 32), noise[:1]).max() == 1
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(PixelCodec(32).with_grain(images, noise[:2]), images)


@pytest.mark.parametrize("grain", [[1.0], [[1, 2], [3, 4]], [[1, 2, 3]] * 4, [["a"] * 3] * 3])
def test_a_grain_that_cannot_be_is_refused(grain):
    with pytest.raises((ValueError, TypeError)):
        PixelCodec(32, grain)
