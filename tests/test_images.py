import shutil
import warnings

import numpy as np
import pytest
import torch
from conftest import LABELS, picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import Resize
from torchvision.transforms.functional import normalize, to_tensor

from cddpm_core import images
from cddpm_core.data import IclevrDataset
from cddpm_core.errors import UserError
from cddpm_core.images import check_folder, folder_files, load_image


@pytest.mark.parametrize("place", ["iclevr", "images", "."])
def test_images_are_found_in_any_of_the_usual_places(folder, place):
    if place != "iclevr":
        shutil.copytree(folder / "iclevr", folder / place, dirs_exist_ok=True)
        shutil.rmtree(folder / "iclevr")
    (folder / "objects.json").unlink()
    assert len(IclevrDataset(folder)) == 3
    check_folder(folder)


@pytest.mark.parametrize("size", [(320, 240), (64, 64), (48, 50), (641, 480)])
def test_resize_is_torchvisions_on_the_pil_image(tmp_path, size):
    image = picture(1, size)
    image.save(tmp_path / "a.png")
    expected = normalize(to_tensor(Resize((64, 64))(image)), [0.5] * 3, [0.5] * 3)
    found = images.to_tensor(load_image(tmp_path / "a.png"))
    assert torch.allclose(found, expected, atol=1e-6)


def test_white_is_one_and_black_is_minus_one():
    assert images.to_tensor(np.full((4, 5, 3), 255, np.uint8)).eq(1).all()
    assert images.to_tensor(np.zeros((2, 4, 5, 3), np.uint8)).eq(-1).all()
    assert images.to_tensor(np.zeros((2, 4, 5, 3), np.uint8)).shape == (2, 3, 4, 5)


def grey_ramp(bits: int) -> np.ndarray:
    ramp = np.linspace(0, 2**bits - 1, 320).round()
    return np.broadcast_to(ramp, (240, 320)).astype(np.uint8 if bits == 8 else np.uint16)


def test_every_mode_of_png_shows_the_same_picture(tmp_path):
    plain = Image.fromarray(grey_ramp(8))
    opaque = plain.convert("RGBA")
    variants = {
        "RGB": plain.convert("RGB"), "RGBA": opaque, "L": plain, "LA": plain.convert("LA"),
        "P": plain.convert("P"), "I;16": Image.fromarray(grey_ramp(16)),
    }
    for mode, image in variants.items():
        assert image.mode == mode
        image.save(tmp_path / "a.png")
        found = load_image(tmp_path / "a.png")
        assert found.shape == (64, 64, 3) and found.dtype == np.uint8
        expected = np.asarray(Resize((64, 64))(plain.convert("RGB"))).astype(int)
        assert np.abs(found - expected).max() <= 1, mode


def test_palette_colours_are_mixed_as_colours_not_as_indices(tmp_path):
    image = picture(3).quantize(16)
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "P"
    expected = np.asarray(Resize((64, 64))(image.convert("RGB")))
    assert np.array_equal(load_image(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("mode", ["RGBA", "P", "RGB"])
def test_transparency_lies_over_black(tmp_path, mode):
    image = Image.new("RGBA", (320, 240), (250, 200, 100, 0))
    image.paste((10, 200, 30, 255), (0, 0, 160, 240))
    if mode == "P":
        image = image.convert("P")
        clear = image.getpixel((319, 0))
        image.save(tmp_path / "a.png", transparency=clear)
    elif mode == "RGB":
        image.convert("RGB").save(tmp_path / "a.png", transparency=(250, 200, 100))
    else:
        image.save(tmp_path / "a.png")
    found = load_image(tmp_path / "a.png")
    assert found[:, 40:].max() == 0
    assert np.abs(found[10, 10].astype(int) - [10, 200, 30]).max() < 40


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([8, 16, 64]))
def test_any_resolution_becomes_the_square(tmp_path_factory, width, height, side):
    path = tmp_path_factory.mktemp("any") / "a.png"
    Image.new("RGB", (width, height), (10, 120, 250)).save(path)
    assert (load_image(path, side) == [10, 120, 250]).all()
    assert load_image(path, side).shape == (side, side, 3)


def test_reading_a_file_warns_of_nothing(rendered):
    dataset = IclevrDataset(rendered, in_memory=False)
    # torch says only once a process that an array is read-only.
    assert load_image(dataset.files[0]).flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset[0]


def test_files_missing_and_surplus_are_told(folder):
    first, *others = LABELS
    (folder / "iclevr/extra.png").write_bytes((folder / "iclevr" / first).read_bytes())
    (folder / "iclevr/notes.txt").write_text("no picture")
    files = folder_files(folder)
    assert files.named == tuple(LABELS) and files.images == folder / "iclevr"
    assert (files.missing, files.surplus) == ((), ("extra.png",))
    assert len(IclevrDataset(folder)) == 3
    (folder / "iclevr" / first).unlink()
    assert folder_files(folder).missing == (first,)
    with pytest.raises(UserError, match="1 of the 3 images .* are missing, and 1 are there"):
        check_folder(folder)
