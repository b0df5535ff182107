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

from cddpm_core.config.errors import UserError
from cddpm_core.data.images import (
    IMAGE_FOLDERS,
    check_folder,
    find_image,
    folder_files,
    image_paths,
    load_image,
    to_float,
)


@pytest.mark.parametrize("part", IMAGE_FOLDERS)
def test_images_are_found_in_any_of_the_usual_folders(folder, part):
    if part != "iclevr":
        shutil.copytree(folder / "iclevr", folder / part, dirs_exist_ok=True)
        shutil.rmtree(folder / "iclevr")
    check_folder(folder)
    assert image_paths(folder, list(LABELS)) == [folder / part / name for name in LABELS]
    assert find_image(folder, next(iter(LABELS))) == folder / part / next(iter(LABELS))


@pytest.mark.parametrize("size", [(320, 240), (64, 64), (48, 50), (641, 480)])
def test_resizing_is_torchvisions_of_the_pil_image(tmp_path, size):
    image = picture(1, size)
    image.save(tmp_path / "a.png")
    expected = normalize(to_tensor(Resize((64, 64))(image)), [0.5] * 3, [0.5] * 3)
    assert torch.allclose(to_float(load_image(tmp_path / "a.png")), expected, atol=1e-6)


def test_white_is_one_and_black_is_minus_one():
    assert to_float(np.full((4, 5, 3), 255, np.uint8)).eq(1).all()
    black = to_float(torch.zeros(2, 4, 5, 3, dtype=torch.uint8))
    assert black.eq(-1).all() and black.shape == (2, 3, 4, 5)


def grey_ramp(bits: int) -> np.ndarray:
    ramp = np.linspace(0, 2**bits - 1, 320).round()
    return np.broadcast_to(ramp, (240, 320)).astype(np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "I;16"])
def test_every_mode_of_png_gives_the_same_pixels(tmp_path, mode):
    plain = Image.fromarray(grey_ramp(8))
    image = Image.fromarray(grey_ramp(16)) if mode == "I;16" else plain.convert(mode)
    assert image.mode == mode
    image.save(tmp_path / "a.png")
    found = load_image(tmp_path / "a.png")
    assert found.shape == (64, 64, 3) and found.dtype == np.uint8
    expected = np.asarray(Resize((64, 64))(plain.convert("RGB"))).astype(int)
    assert np.abs(found - expected).max() <= 1


def test_palettes_are_mixed_as_colours_not_as_indices(tmp_path):
    image = picture(3).quantize(16)
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == "P"
    expected = np.asarray(Resize((64, 64))(image.convert("RGB")))
    assert np.array_equal(load_image(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("mode", ["RGBA", "P", "RGB"])
def test_transparency_is_over_black(tmp_path, mode):
    image = Image.new("RGBA", (320, 240), (250, 200, 100, 0))
    image.paste((10, 200, 30, 255), (0, 0, 160, 240))
    if mode == "P":
        image = image.convert("P")
        image.save(tmp_path / "a.png", transparency=image.getpixel((319, 0)))
    elif mode == "RGB":
        image.convert("RGB").save(tmp_path / "a.png", transparency=(250, 200, 100))
    else:
        image.save(tmp_path / "a.png")
    found = load_image(tmp_path / "a.png")
    assert found[:, 40:].max() == 0
    assert np.abs(found[10, 10].astype(int) - [10, 200, 30]).max() < 40


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([8, 16, 64]))
def test_any_resolution_becomes_the_square(tmp_path_factory, width, height, side):
    path = tmp_path_factory.getbasetemp() / "any.png"
    Image.new("RGB", (width, height), (10, 120, 250)).save(path)
    found = load_image(path, side)
    assert found.shape == (side, side, 3) and (found == [10, 120, 250]).all()


def test_reading_a_file_raises_no_warning(folder):
    pixels = load_image(folder / "iclevr" / next(iter(LABELS)))
    assert pixels.flags.writeable  # torch warns only once a process of an array that is not
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_float(pixels)


DAMAGES = {
    "truncated": lambda whole: whole[: len(whole) // 2],
    "header alone": lambda whole: whole[:20],
    "empty": lambda whole: b"",
    "text": lambda whole: b"not an image\n" * 10,
    "wrong checksum": lambda whole: whole[:60] + b"????" + whole[64:],
    "folder": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unreadable_image_is_one_sentence(tmp_path, damage):
    path = tmp_path / "a.png"
    if damage == "folder":
        path.mkdir()
    else:
        picture().save(path)
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with pytest.raises(UserError) as error:
        load_image(path)
    assert f"{path}: not a readable image" in str(error.value) and "\n" not in str(error.value)


def test_an_image_too_large_for_memory_is_refused_by_its_header(tmp_path):
    Image.new("1", (8000, 4000)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="8000 x 4000 pixels, expected at most 30,000,000"):
        load_image(tmp_path / "a.png")


def test_missing_and_surplus_files_are_named(folder):
    first, *others = LABELS
    (folder / "iclevr/extra.png").write_bytes((folder / "iclevr" / first).read_bytes())
    (folder / "iclevr/notes.txt").write_text("no image")
    files = folder_files(folder)
    assert files.named == tuple(LABELS) and files.images == folder / "iclevr"
    assert (files.missing, files.surplus) == ((), ("extra.png",))
    (folder / "iclevr" / first).unlink()
    assert folder_files(folder).missing == (first,)
    with pytest.raises(UserError, match="1 of the 3 images .* are missing, and 1 are there"):
        check_folder(folder)


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="is not a folder, expected one with train.json"):
        check_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match="train.json: no such file"):
        check_folder(tmp_path)
