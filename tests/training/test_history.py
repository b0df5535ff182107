import errno
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.training import history
from cddpm_core.training.history import append_history, read_history, write_history

lines = st.lists(st.fixed_dictionaries({"step": st.integers(0, 9)}, optional={
    "loss": st.floats(0, 9), "test": st.dictionaries(st.text(max_size=3), st.floats(0, 1))}))


@given(lines, lines)
@settings(max_examples=30)
def test_a_history_round_trips(tmp_path_factory, first, further):
    folder = tmp_path_factory.getbasetemp()
    write_history(folder, first)
    for line in further:
        append_history(folder, line)
    assert read_history(folder) == first + further


def test_a_line_torn_by_a_sudden_end_is_left_out(tmp_path):
    assert read_history(tmp_path) == []
    write_history(tmp_path, [{"step": 1}])
    with open(tmp_path / "history.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    assert read_history(tmp_path) == [{"step": 1}]


@pytest.mark.parametrize("content", [b"hello\n", b"[1]\n", b"3\n", b'{"loss": 1}\n', b"\xff\xfe\n",
                                     b'{"step": "3"}\n', b'{"step": 1}\n\n{"step": 2}\n'])
def test_a_file_that_is_no_history_is_one_sentence(tmp_path, content):
    (tmp_path / "history.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="history.jsonl: malformed JSON lines, remove it"):
        read_history(tmp_path)


def test_a_full_disk_leaves_the_history_as_it_was(tmp_path, monkeypatch):
    write_history(tmp_path, [{"step": 1}])

    class Full:
        def __init__(self, path, *_, **__):
            self.path = path

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, text):
            with self.path.open("a") as file:
                file.write(text[:5])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(history, "open", Full, raising=False)
    with pytest.raises(UserError, match="history.jsonl: cannot be written .No space left"):
        append_history(tmp_path, {"step": 2})
    monkeypatch.undo()
    assert (tmp_path / "history.jsonl").read_text() == '{"step": 1}\n'
