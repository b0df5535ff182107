"""What make hands on to the command line."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

AUTHOR = "Zoë \"Q\" O'Neill `id` \\x, 王 * #1"


@pytest.fixture
def said_by(tmp_path):
    """Runs a target with a Python that says what it was asked, and returns that."""
    if shutil.which("make") is None:
        pytest.skip("no make here")
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c "
                      "'import json, sys; print(json.dumps(sys.argv[1:]))' \"$@\"\n")
    python.chmod(0o755)
    (tmp_path / ".ready").touch()

    def run(*arguments):
        done = subprocess.run(["make", "-s", *arguments, f"VENV={tmp_path}"], cwd=ROOT, text=True,
                              capture_output=True, encoding="utf-8",
                              env={**os.environ, "TITLE": "not asked for", "LANGUAGE": "de"})
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("target", [["report"], ["stage", "STAGE=report"]])
def test_title_page_is_given_as_it_is_typed_and_only_on_the_command_line(said_by, target):
    said = said_by(*target, f"AUTHOR={AUTHOR}", "STUDENT_ID=0716000", "COURSE=Lab 6")
    given = {said[i + 1]: said[i + 2] for i, word in enumerate(said) if word == "-p"}
    assert given == {"author": AUTHOR, "student_id": "0716000", "course": "Lab 6"}


def test_both_experiments_are_asked_for_by_one_word(said_by):
    assert said_by("report", "EXPERIMENTS=1")[-3:] == [
        "-p", "experiments", "[timesteps, sampling]"]
    assert "experiments" not in said_by("report") + said_by("report", "EXPERIMENTS=0")


@pytest.mark.parametrize("name", ["my params.yaml", "資料 [5%].yaml", "a'b\"c", "~/`x`.y"])
def test_paths_are_handed_on_as_they_are_typed(said_by, name):
    assert said_by("report", f"PARAMS={name}", f"RUN={name}", f"DATA={name}",
                   f"EVALUATOR={name}") == [
        "-m", "cddpm_core", "report", "--params", name, "--run", name, "--data", name,
        "--evaluator", name]
    assert said_by("seeds", f"PARAMS={name}")[3] == name


def test_a_variable_of_the_shell_is_not_used(said_by, monkeypatch):
    for name, value in {"DATA": "/scratch", "FORCE": "1", "PARAMS": "x", "RUN": "ci"}.items():
        monkeypatch.setenv(name, value)
    assert said_by("report") == ["-m", "cddpm_core", "report", "--params", "params/quick.yaml"]
    assert said_by("report", "DATA=here")[-1] == "here"


def test_a_mistyped_variable_is_named(said_by):
    """Otherwise ``make report PARMAS=mine.yaml`` would train the default without a word."""
    done = subprocess.run(["make", "-sn", "report", "PARMAS=mine.yaml"], cwd=ROOT, text=True,
                          capture_output=True, encoding="utf-8")
    assert done.returncode == 2 and not done.stdout
    assert "found PARMAS=, expected one of PARAMS " in done.stderr
    assert said_by("report", "PIP_INDEX_URL=https://mirror.example")[-1] == "params/quick.yaml"


def test_python_and_pip_are_left_to_themselves(said_by, tmp_path, monkeypatch):
    """Settings that would break them are not handed on, the place of packages is."""
    (tmp_path / "bin/python").write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c "
        "'import json, os; print(json.dumps([*os.environ.items()]))'\n")
    broken = {"PYTHONPATH": str(tmp_path), "PYTHONOPTIMIZE": "2", "PYTHONSTARTUP": "x",
              "PYTHONWARNINGS": "error", "PIP_TARGET": "x", "PIP_REQUIRE_HASHES": "1",
              "UV_SYSTEM_PYTHON": "1"}
    kept = {"PIP_INDEX_URL": "https://mirror.example", "PIP_CERT": "c", "UV_INDEX_URL": "i"}
    for name, value in {**broken, **kept, "PIP_USER": "1"}.items():
        monkeypatch.setenv(name, value)
    found = dict(said_by("report"))
    assert found.items() >= {**kept, "PIP_USER": "0"}.items() and not broken.keys() & found.keys()
