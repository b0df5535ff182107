"""Pictures of sampled images: pixels, files and grids."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cddpm_core.data.images import load_image, to_float
from cddpm_core.evaluation.images import grid_image, rescale, save_images, to_uint8


def test_pixels_are_unchanged_after_a_round_trip_to_floats():
    pixels = np.arange(256 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)
    assert np.array_equal(to_uint8(to_float(pixels)).numpy(), pixels)


@given(st.floats(-3, 3))
def test_pixels_are_rounded_to_the_nearest(value):
    found = to_uint8(torch.full((3, 2, 2), value))
    exact = (min(max(value, -1), 1) + 1) * 127.5
    assert found.dtype == torch.uint8 and found.shape == (2, 2, 3)
    assert (found.float() - exact).abs().max() <= 0.5 + 1e-4


def test_images_are_saved_under_their_index(tmp_path):
    images = torch.linspace(-1, 1, 12).view(12, 1, 1, 1).expand(12, 3, 64, 64)
    save_images(images, tmp_path / "images/test")
    found = sorted(path.name for path in (tmp_path / "images/test").iterdir())
    assert found == sorted(f"{i}.png" for i in range(12))
    for index in range(12):
        with Image.open(tmp_path / f"images/test/{index}.png") as image:
            assert image.mode == "RGB" and image.size == (64, 64) and image.format == "PNG"
        pixels = load_image(tmp_path / f"images/test/{index}.png")
        assert np.array_equal(pixels, to_uint8(images[index]).numpy())


def test_channels_and_rows_keep_their_order(tmp_path):
    image = torch.full((1, 3, 64, 64), -1.0)
    image[0, 0, 5, 9] = 1
    save_images(image, tmp_path)
    pixels = load_image(tmp_path / "0.png")
    assert pixels[5, 9].tolist() == [255, 0, 0] and pixels.sum() == 255


def test_images_replace_earlier_ones(tmp_path):
    save_images(torch.zeros(2, 3, 8, 8), tmp_path)
    save_images(torch.ones(2, 3, 8, 8), tmp_path)
    assert load_image(tmp_path / "1.png", 8).min() == 255



def test_a_grid_shows_every_pixel_unchanged():
    images = torch.rand(32, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = np.asarray(grid_image(images, per_row=8, scale=3))
    assert picture.shape == ((4 * 66 + 2) * 3, (8 * 66 + 2) * 3, 3)
    # Image 9 is the second of the second row; each pixel is a block of 3 x 3.
    top, left = (66 + 2) * 3, (66 + 2) * 3
    block = picture[top:top + 64 * 3, left:left + 64 * 3]
    expected = ((images[9] + 1) / 2 * 255).round().byte().movedim(0, -1).numpy()
    assert np.array_equal(block[1::3, 1::3], expected)
    assert np.array_equal(block[::3, ::3], block[2::3, 2::3])


def test_rescaling_uses_each_images_own_extremes(images):
    found = rescale(torch.stack([images[0] * 0.1, images[1] * 50, torch.ones(3, 64, 64)]))
    assert torch.allclose(found[:2].flatten(1).amin(1), torch.zeros(2))
    assert torch.allclose(found[:2].flatten(1).amax(1), torch.ones(2))
    assert torch.isfinite(found).all()
