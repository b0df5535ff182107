"""Folders as people have them."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.config.folders import (
    by_number,
    files_in,
    find_by_name,
    folder_of_pictures,
    pictures_in,
)


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


ADDED = (".DS_Store", "._a.png", ".ipynb_checkpoints/a.png", "__MACOSX/b/._a.png",
         "__MACOSX/b/a.png", "@eaDir/a.png", "b/._b.png")


def test_what_systems_add_is_not_seen(tmp_path):
    make(tmp_path, "a.png", "b/c.PNG", "Thumbs.db", "b/desktop.ini", *ADDED)
    names = {path.relative_to(tmp_path).as_posix() for path in files_in(tmp_path, 3)}
    assert names == {"a.png", "b/c.PNG", "Thumbs.db", "b/desktop.ini"}
    assert pictures_in(tmp_path, 3) == [tmp_path / "a.png", tmp_path / "b/c.PNG"]
    assert pictures_in(tmp_path) == [tmp_path / "a.png"]


def test_links_are_followed_and_may_lead_nowhere_or_in_circles(tmp_path):
    make(tmp_path, "real/a.png", "a.PNG")
    os.symlink(tmp_path / "real", tmp_path / "link")
    os.symlink(tmp_path / "a.PNG", tmp_path / "real/b.png")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "real/gone.png")
    os.symlink("circle.png", tmp_path / "real/circle.png")
    os.symlink("circle", tmp_path / "real/circle")
    os.symlink(tmp_path / "real", tmp_path / "real/self")
    assert pictures_in(tmp_path / "link") == [tmp_path / "link/a.png", tmp_path / "link/b.png"]
    assert set(find_by_name(tmp_path, ["a.png"], tmp_path / "real").values()) == {
        tmp_path / "real/a.png"}
    assert find_by_name(tmp_path / "link", ["b.png"], tmp_path) == {
        "b.png": tmp_path / "link/b.png"}


def test_a_folder_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="nowhere: cannot be listed .No such file"):
        list(files_in(tmp_path / "nowhere"))


@given(st.lists(st.integers(0, 10**6), unique=True))
def test_names_are_sorted_by_their_numbers(tmp_path_factory, numbers):
    folder = tmp_path_factory.getbasetemp()
    names = [folder / f"Sample_{number}.png" for number in numbers]
    assert sorted(names, key=by_number) == [
        folder / f"Sample_{number}.png" for number in sorted(numbers)]


NAMED = ["CLEVR_train_000000_0.png", "CLEVR_train_000000_1.png"]


@pytest.mark.parametrize("there", [
    "{}", "iclevr/{}", "iclevr/iclevr/{}", "a/b/c/{}", "iclevr\\\\{}"])
@pytest.mark.parametrize("asked", ["{}", "iclevr/{}", "./iclevr/{}", "iclevr\\\\{}",
                                   "C:\\\\lab\\\\iclevr\\\\{}", "/home/me/lab/iclevr/{}"])
@pytest.mark.parametrize("change", [
    str, str.upper, str.lower, lambda name: name.replace(".png", ".PNG"),
    lambda name: name.replace(".png", ".jpeg"), lambda name: f"{name}.PNG"])
def test_pictures_are_found_whatever_their_names_are_like(tmp_path, there, asked, change):
    files = [there.format(change(name)) for name in NAMED]
    make(tmp_path, *files, "train.json", "CLEVR_train_000000_0.txt", *ADDED)
    names = [asked.format(name) for name in NAMED]
    assert find_by_name(tmp_path, names, tmp_path / "iclevr") == {
        name: tmp_path / file for name, file in zip(names, files, strict=True)}


@pytest.mark.parametrize(("files", "name", "best"), [
    (["a.png", "a.PNG"], "a.png", "a.png"), (["a.png", "a.PNG"], "a.PNG", "a.PNG"),
    (["a.png", "a.jpg"], "a.jpg", "a.jpg"), (["a.jpg", "x/a.png"], "a.png", "x/a.png"),
    (["x/a.png", "y/a.png"], "y/a.png", "y/a.png"), (["old/a.png", "iclevr/a.png"], "a.png",
                                                    "iclevr/a.png"),
    (["x/1/a.png", "x/2/a.png"], "z/2/a.png", "x/2/a.png")])
def test_of_several_pictures_the_one_that_fits_best_is_meant(tmp_path, files, name, best):
    make(tmp_path, *files)
    assert find_by_name(tmp_path, [name], tmp_path / "iclevr") == {name: tmp_path / best}


def test_what_is_not_clear_is_one_sentence(tmp_path):
    make(tmp_path, "64/a.png", "128/a.png", "b.png")
    with pytest.raises(UserError, match="'a.png' is there twice, as .*64/a.png"):
        find_by_name(tmp_path, ["a.png"], tmp_path)
    with pytest.raises(UserError, match="'b.png' and 'x/B.PNG' are names of one image, b.png"):
        find_by_name(tmp_path, ["b.png", "x/B.PNG"], tmp_path)


def test_the_only_folder_with_pictures_is_meant(tmp_path):
    make(tmp_path, "64/a.png", "64/b.txt", *ADDED)
    assert folder_of_pictures(tmp_path) == tmp_path / "64"
    make(tmp_path, "128/x/a.png")
    with pytest.raises(UserError, match="the images are in 2 folders inside it, such as 128/x and "
                                        "64; give one of these"):
        folder_of_pictures(tmp_path)
    make(tmp_path, "a.PNG")
    assert folder_of_pictures(tmp_path) == tmp_path
