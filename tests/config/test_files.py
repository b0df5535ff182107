import json
import os
import tempfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import (
    atomic,
    check_schema,
    read_json,
    read_text,
    remove_leftovers,
    unwritable,
    write_json,
)


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
    said = r"a\.txt: cannot be written \(No space left on device\); free the disk or change"
    with pytest.raises(UserError, match=said), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("path", "words"), [
    ("file/a.txt", "File exists|Not a directory"), ("file/b/a.txt", "Not a directory"),
    ("circle/a.txt", "Too many levels of symbolic links|File exists"),
    ("x" * 300, "File name too long")])
def test_a_path_that_no_file_can_have_is_one_sentence(tmp_path, path, words):
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UserError, match=f"cannot be written .({words}).*; name another folder"), (
            atomic(tmp_path / path)) as temporary:
        temporary.write_text("new")


def test_no_folder_for_temporary_files_is_one_sentence(monkeypatch):
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: iter(["a"]))
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(FileNotFoundError) as caught:
        tempfile.mkdtemp()
    said = str(unwritable(caught.value, "outputs"))
    assert said.startswith("No usable temporary directory found in ") and "TMPDIR" in said


def test_files_of_a_folder_are_renamed_one_by_one(tmp_path):
    (tmp_path / "model/unet").mkdir(parents=True)
    (tmp_path / "model/unet/old").write_text("kept")
    with atomic(tmp_path / "model") as temporary:
        (temporary / "unet").mkdir(parents=True)
        (temporary / "unet/weights").write_text("new")
    assert (tmp_path / "model/unet/weights").read_text() == "new"
    assert (tmp_path / "model/unet/old").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), min_size=1),
       st.sampled_from(ENCODINGS), st.sampled_from(["\n", "\r\n", "\r"]))
def test_json_in_any_encoding_of_unicode_and_with_any_line_ends(tmp_path_factory, content, encoding,
                                                                 line_end):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(json.dumps(content, indent=1).replace("\n", line_end).encode(encoding))
    assert read_json(path) == content


@pytest.mark.parametrize(("content", "words"), [
    (b"", "malformed JSON at line 1, column 1: the file is empty"),
    (b"\xef\xbb\xbf \r\n", "the file is empty"),
    (b'{\n"a": 1,\n}', "malformed JSON at line 3"),
    (b'[\r\n1,\r\n]', "malformed JSON at line 3"),
    (b"{'a': 1}", "malformed JSON at line 1"),
    (b'{"a": 1} // note', "malformed JSON at line 1, column 10"),
    (b'{"NaN": 1,\n"a": NaN}', "malformed JSON at line 2, column 6: NaN is no value of JSON"),
    (b'["\\"NaN",\n\n-Infinity]', "malformed JSON at line 3, column 1: -Infinity"),
    (b'{"a": 1,\n"a": 2}', "'a' is there twice, with different values"),
    (b'{"b": {"a": [1], "a": [2]}}', "'a' is there twice"),
    (b'{"a":\n"\xe9"}', "cannot be read as text, line 2 is not utf-8; save it as UTF-8"),
    (b"\xff\xfe\x00", "line 1 is not utf-16"),
])
def test_what_is_wrong_with_json_is_one_sentence_with_the_line(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_key_that_is_there_twice_with_one_value_is_no_matter(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1], "a": [1]}')
    assert read_json(tmp_path / "a.json") == {"a": [1]}


def test_text_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "train.JSON").touch()
    with pytest.raises(UserError, match=r"no such file \(did you mean 'train.JSON'\?\)"):
        read_text(tmp_path / "train.json")
    with pytest.raises(UserError, match="no such file$"):
        read_text(tmp_path / "no/train.json")
    with pytest.raises(UserError, match="cannot be read .Is a directory"):
        read_text(tmp_path)


@pytest.mark.parametrize("schema", [2, "1", None, [1], torch.zeros(3)])
def test_another_schema_is_refused_whatever_it_is(tmp_path, schema):
    with pytest.raises(UserError, match="a.pt: expected schema 1, found"):
        check_schema({"schema": schema}, tmp_path / "a.pt")
