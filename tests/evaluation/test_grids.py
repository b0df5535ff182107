import io

import numpy as np
import pytest
import torch
from conftest import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.utils import make_grid

from cddpm_core.config.errors import UserError
from cddpm_core.evaluation.grids import cut_grid, reduced
from cddpm_core.evaluation.images import grid_image


def noise(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def grid_of(images, columns=8, padding=2, pad=0, factor=1):
    x = torch.from_numpy(images).movedim(-1, 1).float() / 255
    grid = make_grid(x, nrow=columns, padding=padding, pad_value=pad / 255)
    pixels = (grid * 255).round().byte().movedim(0, -1).numpy()
    return pixels.repeat(factor, 0).repeat(factor, 1)


def lossy(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", **options)
    return np.asarray(Image.open(file))


@pytest.fixture(scope="module")
def pictures():
    """32 smooth images (32, 64, 64, 3), none of them black or white at an edge."""
    return np.stack([np.asarray(picture(seed, (64, 64))) for seed in range(32)]) // 2 + 64


@settings(max_examples=150)
@given(height=st.integers(8, 40), width=st.integers(8, 40), padding=st.integers(1, 4),
       columns=st.integers(1, 9), count=st.integers(2, 20), pad=st.sampled_from([0, 255]),
       factor=st.integers(1, 3), seed=st.integers(0, 99))
def test_any_grid_with_padding_is_cut_back_into_its_images(height, width, padding, columns, count,
                                                           pad, factor, seed):
    images = noise(count, height, width, seed)
    cells, grid = cut_grid(grid_of(images, columns, padding, pad, factor))
    assert (grid.height, grid.width, grid.padding, grid.columns) == (
        factor * height, factor * width, factor * padding, min(columns, count))
    found, enlarged = reduced(cells)
    assert enlarged == factor and np.array_equal(found, images)


@settings(max_examples=100)
@given(side=st.integers(8, 40), columns=st.integers(1, 9), count=st.integers(2, 20),
       factor=st.integers(1, 3), known=st.sampled_from(["cell", "columns"]))
def test_without_padding_the_cell_or_the_columns_help(side, columns, count, factor, known):
    images = noise(count, side, side)
    options = {"cell": factor * side} if known == "cell" else {"columns": min(columns, count)}
    cells, _ = cut_grid(grid_of(images, columns, 0, 0, factor), padding=0, expected=count,
                        **options)
    assert np.array_equal(reduced(cells)[0], images)


@pytest.mark.parametrize("factor", [1, 2])
def test_without_padding_the_edges_of_smooth_images_are_found(pictures, factor):
    cells, grid = cut_grid(grid_of(pictures, padding=0, factor=factor))
    assert (grid.columns, grid.rows, grid.padding) == (8, 4, 0)
    assert np.array_equal(reduced(cells)[0], pictures)


@pytest.mark.parametrize("quality", [60, 75, 95])
@pytest.mark.parametrize("pad", [0, 255])
@pytest.mark.parametrize("count", [32, 29])
def test_the_lines_of_a_jpeg_need_not_be_of_one_colour(pictures, quality, pad, count):
    picture = lossy(grid_of(pictures[:count], pad=pad), quality=quality)
    cells, grid = cut_grid(picture)
    assert str(grid) == "8 x 4 cells of 64 x 64 pixels with 2 between"
    assert cells.shape == (count, 64, 64, 3)
    assert np.abs(cells.astype(int) - pictures[:count]).mean() < 12


def test_a_picture_of_this_package_is_cut(pictures):
    x = torch.from_numpy(pictures).movedim(-1, 1).float() / 127.5 - 1
    cells, _ = cut_grid(np.asarray(grid_image(x, scale=3)))
    assert np.array_equal(reduced(cells)[0], pictures)


def test_cells_without_an_image_are_none_even_if_more_are_expected(pictures):
    assert len(cut_grid(grid_of(pictures[:30]), expected=32)[0]) == 30
    images = pictures.copy()
    images[20:] = 0  # black images: a row without any image would not be there
    assert len(cut_grid(grid_of(images))[0]) == 25


def test_content_of_the_pads_colour_needs_help_at_most(pictures):
    images = pictures.copy()
    images[:, :, 20:24] = 0  # a black stripe through all images
    cells, grid = cut_grid(grid_of(images))
    assert np.array_equal(cells, images) and grid.columns == 8


@pytest.mark.parametrize(("options", "words"), [
    ({"cell": 60}, "with cell 60; found 530 x 266 pixels and 8 x 4 cells of 64 x 64 pixels"),
    ({"padding": 3}, "with padding 3; found"),
    ({"padding": 0, "cell": 64}, "with cell 64, padding 0; found"),
    ({"columns": 7}, "with columns 7; found"),
    ({"columns": 1000}, "with columns 1000; found"),
])
def test_options_that_do_not_fit_are_refused_with_what_was_found(pictures, options, words):
    with pytest.raises(UserError, match=f"^a.png: cannot be cut into images as a grid {words}"):
        cut_grid(grid_of(pictures), where="a.png", **options)


@pytest.mark.parametrize("pixels", [np.zeros((64, 128, 3), np.uint8), noise(1, 50, 70)[0],
                                    np.asarray(picture())])
def test_a_picture_that_is_no_grid_is_refused(pixels):
    height, width = pixels.shape[:2]
    with pytest.raises(UserError, match=f"found {width} x {height} pixels and no lines of one col"):
        cut_grid(pixels)


def test_images_of_one_colour_are_not_taken_for_enlarged_ones():
    assert reduced(np.full((3, 64, 64, 3), 7, np.uint8))[1] == 1
