import json
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


def test_the_folder_is_free_again_when_the_work_fails(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    with locked(tmp_path):
        pass
