import json
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
from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.data.images import (
    IMAGE_FOLDERS,
    check_folder,
    find_images,
    folder_files,
    load_image,
    to_float,
)
from cddpm_core.data.labels import OBJECTS


@pytest.mark.parametrize("part", IMAGE_FOLDERS)
def test_images_are_found_in_any_of_the_usual_folders(folder, part):
    if part != "iclevr":
        shutil.copytree(folder / "iclevr", folder / part, dirs_exist_ok=True)
        shutil.rmtree(folder / "iclevr")
    check_folder(folder)
    assert find_images(folder, list(LABELS)) == {name: folder / part / name for name in LABELS}


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


def _renamed(change):
    def rename(folder):
        for path in list((folder / "iclevr").iterdir()):
            path.rename(path.with_name(change(path.name)))
    return rename


def _moved(*parts):
    def move(folder):
        (folder / "iclevr").rename(folder / "aside")
        at = folder.joinpath(*parts)
        at.parent.mkdir(parents=True, exist_ok=True)
        (folder / "aside").rename(at)
    return move


def _written(change):
    def write(folder):
        path = folder / "train.json"
        path.write_bytes(change(path.read_text()))
    return write


def _named(change):
    return _written(lambda text: json.dumps(
        {change(name): names for name, names in json.loads(text).items()}).encode())


def _backslashes_in_names(folder):
    for path in list((folder / "iclevr").iterdir()):
        path.rename(folder / f"iclevr\\{path.name}")
    (folder / "iclevr").rmdir()


def _with_what_systems_add(folder):
    for name in ("._train.json", ".DS_Store", "__MACOSX/._a.png", "iclevr/Thumbs.db",
                 *(f"iclevr/._{name}" for name in LABELS),
                 *(f"iclevr/.ipynb_checkpoints/{name}" for name in LABELS),
                 *(f"__MACOSX/iclevr/{name}" for name in LABELS)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"no image")


def _links(folder):
    for path in list((folder / "iclevr").iterdir()):
        path.rename(folder.parent / path.name)
        path.symlink_to(folder.parent / path.name)
    (folder / "iclevr").rename(folder.parent / "elsewhere")
    (folder / "images").symlink_to(folder.parent / "elsewhere")


def _mixed(folder):
    first, second, third = (folder / "iclevr" / name for name in LABELS)
    second.rename(second.with_suffix(".PNG"))
    (folder / "images").mkdir()
    third.rename(folder / "images" / third.name)


CHANGES = {
    "byte order mark": _written(lambda text: text.encode("utf-8-sig")),
    "UTF-16": _written(lambda text: text.encode("utf-16")),
    "Windows line ends": _written(lambda text: json.dumps(json.loads(text), indent=1).replace(
        "\n", "\r\n").encode()),
    "one key twice": _written(lambda text: (
        text[:-1] + f', "{next(iter(LABELS))}": ["red cube"]}}').encode()),
    "objects.json with a byte order mark": lambda folder: (folder / "objects.json").write_bytes(
        (folder / "objects.json").read_text().encode("utf-8-sig")),
    "another order in objects.json": lambda folder: (folder / "objects.json").write_text(json.dumps(
        {name: i for i, name in enumerate(reversed(OBJECTS))})),
    ".PNG": _renamed(lambda name: name.replace(".png", ".PNG")),
    ".Png": _renamed(lambda name: name.replace(".png", ".Png")),
    "lower case": _renamed(str.lower),
    "as JPEG by its ending": _renamed(lambda name: name.replace(".png", ".jpg")),
    "iclevr/iclevr": _moved("iclevr", "iclevr"),
    "iclevr/images": _moved("iclevr", "images"),
    "another folder": _moved("lab 4", "i-CLEVR", "train"),
    "ICLEVR": _moved("ICLEVR"),
    "names with a folder": _named(lambda name: f"iclevr/{name}"),
    "names with another folder": _named(lambda name: f"/home/someone/data/{name}"),
    "names with back slashes": _named(lambda name: f"iclevr\\{name}"),
    "names of Windows": _named(lambda name: f"C:\\lab\\images\\{name}"),
    "names in capitals": _named(str.upper),
    "names without ending": _named(lambda name: name.removesuffix(".png")),
    "files with back slashes": _backslashes_in_names,
    "what systems add": _with_what_systems_add,
    "links": _links,
    "several folders and endings": _mixed,
    "a backup beside it": lambda folder: shutil.copytree(folder / "iclevr", folder / "backup"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_as_people_have_it_gives_the_same_data(folder, change):
    other = folder.with_name("other")
    for at in (folder, other):  # a second scene, so that positions are known
        if at == other:
            shutil.copytree(folder, other)
            continue
        names = dict(LABELS)
        for index, (name, objects) in enumerate(LABELS.items()):
            again = name.replace("000000", "000001")
            names[again] = objects
            picture(index + 3).save(folder / "iclevr" / again)
        (folder / "train.json").write_text(json.dumps(names))
    CHANGES[change](other)
    before = sorted((path, path.lstat().st_mtime_ns) for path in other.rglob("*"))
    check_folder(other)
    plain, found = IclevrDataset(folder), IclevrDataset(other)
    assert np.array_equal(found.pixels, plain.pixels)
    assert found.conditions == plain.conditions and found.fingerprint == plain.fingerprint
    assert torch.equal(found.positions.nan_to_num(-1), plain.positions.nan_to_num(-1))
    assert not plain.positions.isnan().all()
    files = folder_files(other)
    assert len(files.named) == 6 and not files.missing and not files.surplus
    assert before == sorted((path, path.lstat().st_mtime_ns) for path in other.rglob("*"))


def test_missing_and_surplus_files_are_named(folder):
    first, *others = LABELS
    (folder / "iclevr/extra.png").write_bytes((folder / "iclevr" / first).read_bytes())
    (folder / "iclevr/._extra.png").write_bytes(b"no image")
    (folder / "iclevr/notes.txt").write_text("no image")
    files = folder_files(folder)
    assert files.named == tuple(LABELS) and files.images == folder / "iclevr"
    assert (files.missing, files.surplus) == ((), ("extra.png",))
    (folder / "iclevr" / first).unlink()
    assert folder_files(folder).missing == (first,)
    assert list(folder_files(folder).found) == others
    with pytest.raises(UserError, match="1 of the 3 images .* are missing, and 1 are there that it "
                                        "does not name; missing: skip leaves them out$"):
        check_folder(folder)


def test_missing_images_are_left_out_if_asked(folder):
    first, second, third = LABELS
    (folder / "iclevr" / second).unlink()
    (folder / "iclevr" / second).symlink_to(folder / "nowhere.png")
    check_folder(folder, "skip")
    found = IclevrDataset(folder, missing="skip")
    assert [path.name for path in found.files] == [first, third]
    assert found.conditions == [tuple(LABELS[first]), tuple(LABELS[third])]
    assert found.fingerprint["images"] == 2 and found.positions.shape == (2, 24, 2)
    shutil.rmtree(folder / "iclevr")
    (folder / "lab").mkdir()
    for name in ("lab/iclevr.zip", "lab/checkpoint.pth.tar"):
        (folder / name).touch()
    with pytest.raises(UserError, match="3 of the 3 images .*; iclevr.zip is not unpacked$"):
        IclevrDataset(folder, missing="skip")


def test_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="is not a folder, expected one with train.json"):
        check_folder(tmp_path / "nowhere")
    (tmp_path / "lab.zip").touch()
    with pytest.raises(UserError, match="lab.zip is not a folder, .*; unpack it first$"):
        check_folder(tmp_path / "lab.zip")
    (tmp_path / "set").mkdir()
    with pytest.raises(UserError, match="set/train.json: no such file$"):
        check_folder(tmp_path / "set")
    with pytest.raises(UserError, match="train.json: no such file; lab.zip is not unpacked$"):
        check_folder(tmp_path)
    (tmp_path / "set/lab").mkdir()
    (tmp_path / "set/lab/train.json").touch()
    with pytest.raises(UserError, match="no such file, but there is .*/set/lab/train.json$"):
        check_folder(tmp_path / "set")
    (tmp_path / "set/lab/iclevr").mkdir()
    with pytest.raises(UserError, match="no such file, but there is .*/set/lab/train.json$"):
        check_folder(tmp_path / "set/lab/iclevr")
    for name in ("Train.JSON", "train.json.txt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
        with pytest.raises(UserError, match=f"train.json: no such file, but there is .*/{name}$"):
            check_folder(tmp_path / name)


def test_two_images_of_one_name_and_two_names_of_one_image_are_one_sentence(folder):
    first = next(iter(LABELS))
    for part in ("64", "128"):
        shutil.copytree(folder / "iclevr", folder / part)
    shutil.rmtree(folder / "iclevr")
    with pytest.raises(UserError, match=f"'{first}' is there twice, as "):
        check_folder(folder)
    shutil.rmtree(folder / "64")
    labels = {**LABELS, f"iclevr/{first}": ["gray cube"]}
    (folder / "train.json").write_text(json.dumps(labels))
    with pytest.raises(UserError, match=f"'{first}' and 'iclevr/{first}' are names of one image"):
        check_folder(folder)
