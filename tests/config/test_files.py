import json
import os

import pytest

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import atomic, remove_leftovers, write_json


def test_atomic_writes_whole_files(tmp_path):
    path = tmp_path / "new/folder/a.txt"
    with atomic(path) as temporary:
        temporary.write_text("first")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mistake", [ValueError, KeyboardInterrupt])
def test_atomic_leaves_the_old_file_whole_when_the_writer_fails(tmp_path, mistake):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(mistake), atomic(path) as temporary:
        temporary.write_text("ne")
        raise mistake
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"a": "é"})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"a": "é"}


def test_only_what_this_package_left_half_written_is_removed(tmp_path):
    dead = 2**22 + 7  # beyond every process
    mine = [f".a.json.{dead}.tmp", f"model/.b.{dead}.tmp", ".train.running.ipynb"]
    others = [".notes.tmp", "figures/.keep.tmp/x", "a.tmp", f".a.json.{os.getpid()}.tmp"]
    for name in (*mine, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / f".model.{dead}.tmp").mkdir()
    remove_leftovers(tmp_path)
    assert not any((tmp_path / name).exists() for name in (*mine, f".model.{dead}.tmp"))
    assert all((tmp_path / name).exists() for name in others)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    said = r"a\.txt: cannot be written \(No space left on device\)"
    with pytest.raises(UserError, match=said), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_folder_are_renamed_one_by_one(tmp_path):
    (tmp_path / "model/unet").mkdir(parents=True)
    (tmp_path / "model/unet/old").write_text("kept")
    with atomic(tmp_path / "model") as temporary:
        (temporary / "unet").mkdir(parents=True)
        (temporary / "unet/weights").write_text("new")
    assert (tmp_path / "model/unet/weights").read_text() == "new"
    assert (tmp_path / "model/unet/old").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
