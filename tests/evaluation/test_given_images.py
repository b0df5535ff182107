import json

import numpy as np
import pytest
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.evaluation.given_images import read_images
from cddpm_core.evaluation.images import grid_image, save_images


@pytest.fixture
def folder(tmp_path, sampled):
    """A folder with 0.png to 31.png, 64 x 64."""
    for index, pixels in enumerate(sampled):
        (tmp_path / "made").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"made/{index}.png")
    return tmp_path / "made"


def refused(words, source, **options):
    with pytest.raises(UserError) as found:
        read_images(source, **options)
    assert words in str(found.value) and "\n" not in str(found.value)


def test_a_folder_is_read_in_the_order_of_its_numbers(folder, sampled):
    given = read_images(folder)
    assert np.array_equal(given.pixels, sampled) and len(given) == 32
    assert given.names[:3] == ("0.png", "1.png", "2.png") and given.names[10] == "10.png"
    assert given.facts["is"] == "folder" and not given.facts["lossy"] and not given.facts["gray"]
    assert (given.facts["width"], given.facts["height"]) == (64, 64)


def test_images_may_lie_one_folder_deeper_beside_what_systems_add(folder, sampled):
    outer = folder.with_name("outer")
    outer.mkdir()
    folder.rename(outer / "made")
    for name in (".DS_Store", "Thumbs.db", "__MACOSX/made/._0.png", "made/._0.png",
                 "made/.ipynb_checkpoints/0-checkpoint.png", "made/Thumbs.db", "made/desktop.ini"):
        (outer / name).parent.mkdir(parents=True, exist_ok=True)
        (outer / name).write_bytes(b"no image")
    (outer / "made/31.png").rename(outer / "made/31.PNG")
    (outer / "made/30.png").rename(outer / ".30.png")
    (outer / "made/30.png").symlink_to(outer / ".30.png")
    (outer / "made/29b.png").symlink_to(outer / "nowhere.png")
    given = read_images(outer)
    assert np.array_equal(given.pixels, sampled) and given.names[-1] == "31.PNG"


def test_what_this_package_saves_is_read(tmp_path, images):
    save_images(images, tmp_path / "out")
    assert read_images(tmp_path / "out").pixels.shape == (5, 64, 64, 3)


def test_names_with_words_other_types_and_other_files_in_a_folder(tmp_path, sampled):
    for index in (10, 9, 2):
        Image.fromarray(sampled[index]).save(tmp_path / f"Sample_{index}.BMP", format="bmp")
    (tmp_path / "scores.json").write_text("{}")
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    given = read_images(tmp_path)
    assert given.names == ("Sample_2.BMP", "Sample_9.BMP", "Sample_10.BMP")
    assert np.array_equal(given.pixels, sampled[[2, 9, 10]])


def test_a_grid_file_or_a_folder_with_one_is_cut(tmp_path, sampled):
    import torch

    x = torch.from_numpy(sampled).movedim(-1, 1).float() / 127.5 - 1
    grid_image(x, scale=2).save(tmp_path / "grid.png")
    for source in (tmp_path / "grid.png", tmp_path):
        given = read_images(source)
        assert np.array_equal(given.pixels, sampled)
        assert {**given.facts, "source": ""} == {
            "source": "", "is": "grid", "images": 32, "width": 64, "height": 64, "enlarged": 2,
            "cell": [128, 128], "padding": 4, "columns": 8, "rows": 4, "lossy": [], "gray": False}


def test_files_are_taken_as_given_unless_a_shell_sorted_them_as_text(folder):
    names = [folder / f"{i}.png" for i in (3, 1, 12)]
    assert read_images(names).names == ("3.png", "1.png", "12.png")
    assert read_images(sorted(folder.glob("*.png"))).names[:4] == (
        "0.png", "1.png", "2.png", "3.png")


@pytest.mark.parametrize("write", [
    lambda path, names: path.with_suffix(".txt").write_text("\n".join([*names, "", ""])),
    lambda path, names: path.with_suffix(".json").write_text(json.dumps(names))])
def test_a_list_names_files_beside_it(folder, write):
    write(folder / "list", ["7.png", "3.png", str(folder / "5.png")])
    source, = (p for p in folder.iterdir() if p.suffix in (".txt", ".json"))
    given = read_images(source)
    assert given.names == ("7.png", "3.png", "5.png") and given.facts["is"] == "list"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("name", ["list.txt", "list.json"])
def test_a_list_that_windows_wrote(folder, encoding, name):
    names = ["made\\7.png", "made\\3.png"]
    text = json.dumps(names, indent=1) if name.endswith("json") else f'"{names[0]}"\n{names[1]}\n'
    (folder.parent / name).write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert read_images(folder.parent / name).names == ("7.png", "3.png")


def test_one_image_is_one_image(folder, tmp_path):
    assert read_images(folder / "3.png").pixels.shape == (1, 64, 64, 3)
    Image.open(folder / "3.png").resize((320, 240)).save(tmp_path / "frame.png")
    assert read_images(tmp_path / "frame.png", expected=1).pixels.shape == (1, 240, 320, 3)
    refused("frame.png: cannot be cut into images, give --cell", tmp_path / "frame.png",
            expected=32)


def test_lossy_gray_and_other_modes_are_noticed(tmp_path, sampled):
    Image.fromarray(sampled[0]).save(tmp_path / "0.jpg")
    assert read_images(tmp_path).facts["lossy"] == ["JPEG"]
    Image.fromarray(sampled[0]).convert("L").save(tmp_path / "0.png")
    given = read_images(tmp_path / "0.png")
    assert given.facts["gray"] and given.pixels.shape == (1, 64, 64, 3)
    Image.fromarray(sampled[0]).convert("RGBA").save(tmp_path / "1.png")
    assert np.array_equal(read_images(tmp_path / "1.png").pixels[0], sampled[0])


def test_mistakes_are_one_sentence(tmp_path, folder, sampled):
    refused("no such file or folder (did you mean 'made'?)", tmp_path / "mad")
    refused("no such file or folder", "/no/such/folder/a.png")
    refused("found no files", [])
    empty = tmp_path / "empty"
    (empty / "test").mkdir(parents=True)
    refused("a folder without images, found test/", empty)
    (empty / "images.zip").touch()
    refused("a folder without images, found images.zip, test/; images.zip is not unpacked", empty)
    refused("images.zip: an archive, unpack it first", empty / "images.zip")
    for name in ("test", "new_test"):
        (empty / name).mkdir(exist_ok=True)
        (empty / name / "0.PNG").touch()
    refused("the images are in 2 folders inside it, such as new_test and test; give one", empty)
    (tmp_path / "a.png").write_text("no image")
    refused("a.png: not a readable image", tmp_path / "a.png")
    refused("found 2 files, and cell, padding or columns", [folder / "0.png", folder / "1.png"],
            cell=64)
    Image.fromarray(sampled[0]).resize((32, 32)).save(folder / "32.png")
    refused("expected images of one size, found 0.png of 64 x 64 and 32.png of 32 x 32 pixels",
            folder)


@pytest.mark.parametrize(("name", "text", "words"), [
    ("a.txt", "0.pgn", "entry 1: "), ("a.txt", "0.pgn", "is no file (did you mean '0.png'"),
    ("a.txt", "", "expected the paths of 1 to 10,000 images, found 0"),
    ("a.json", "{}", "expected a list of paths"), ("a.json", "[1]", "expected a list of paths"),
    ("a.json", "[", "malformed JSON"), ("a.txt", b"\xff\xfe\xff", "cannot be read as text"),
    ("a.txt", "~nobody/a.png\n", "is no file"), ("a.txt", "a" * 5000, "is no file"),
    ("a.txt", "a\0.png", "is no file")])
def test_bad_lists_are_one_sentence(folder, name, text, words):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(words, folder / name)
