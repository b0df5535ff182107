import errno
import fcntl
import json
import os
import subprocess
import sys

import psutil
import pytest

from cddpm_core.config.errors import UserError
from cddpm_core.runs.lock import locked

HOLD = """
import sys, time
from cddpm_core.runs.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], text=True,
                               stdout=subprocess.PIPE)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_told_of_the_first(holder, tmp_path):
    with pytest.raises(UserError) as error, locked(tmp_path):
        pass
    words = str(error.value)
    assert f"in use by process {holder.pid} on " in words and "another run name" in words
    assert "\n" not in words and str(tmp_path) in words


def test_a_process_that_was_killed_does_not_block(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / "holder.json").exists()
    with locked(tmp_path):
        assert json.loads((tmp_path / "holder.json").read_text())["pid"] == psutil.Process().pid
    assert not (tmp_path / "holder.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x"}', '{"pid": null}'])
def test_a_damaged_note_of_the_holder_still_gives_a_sentence(content, holder, tmp_path):
    (tmp_path / "holder.json").write_text(content)
    with pytest.raises(UserError, match="in use by process unknown"), locked(tmp_path):
        pass


def test_a_child_shares_the_folder_and_leaves_it_held(tmp_path):
    code = ("import sys\nfrom cddpm_core.runs.lock import locked\n"
            "with locked(sys.argv[1]): print('in')")
    with locked(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], text=True,
                              capture_output=True)
        assert done.stdout == "in\n", done.stderr
        with locked(tmp_path):
            pass
        assert (tmp_path / "holder.json").exists()
    assert not (tmp_path / "holder.json").exists()


@pytest.fixture(params=["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL"])
def no_locks(monkeypatch, request):
    """A file system that cannot lock files."""
    def refuse(*_):
        raise OSError(getattr(errno, request.param), "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_where_files_cannot_be_locked_the_note_of_the_holder_counts(holder, no_locks, tmp_path):
    sentence = f"in use by process {holder.pid} on .*remove .*holder.json if it does not run"
    with pytest.raises(UserError, match=sentence), locked(tmp_path):
        pass
    note = json.loads((tmp_path / "holder.json").read_text())
    holder.kill()
    holder.wait()
    with locked(tmp_path), locked(tmp_path):
        pass
    assert not (tmp_path / "holder.json").exists()
    (tmp_path / "holder.json").write_text(json.dumps({**note, "host": "elsewhere"}))
    with pytest.raises(UserError, match="on elsewhere .*remove"), locked(tmp_path):
        pass


def test_a_child_shares_the_folder_also_after_the_clock_was_set(tmp_path):
    """A process's start is known as seconds before now; a step of the clock moves it."""
    code = ("import sys, psutil\nfrom cddpm_core.runs.lock import locked\n"
            "real = psutil.Process.create_time\n"
            "psutil.Process.create_time = lambda self: real(self) - 3600\n"
            "with locked(sys.argv[1]): print('in')")
    with locked(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], text=True,
                              capture_output=True)
    assert done.stdout == "in\n", done.stderr


def test_the_folder_is_free_again_when_the_work_fails(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    with locked(tmp_path):
        pass


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="folders can be made in /proc")
def test_a_place_where_no_folder_can_be_made_is_one_sentence():
    with pytest.raises(UserError, match="^/proc/nowhere/quick: no folder can be made there"), \
            locked("/proc/nowhere/quick"):
        pass
