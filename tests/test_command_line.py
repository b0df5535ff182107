import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cddpm_core.__main__ import _params, _parser, main
from cddpm_core.evaluator import build_resnet18
from cddpm_core.params import Params
from cddpm_core.pipeline import STAGES, with_needs
from cddpm_core.presets import to_yaml
from cddpm_core.runs import OUTPUTS, Run


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def refused(capsys, *arguments) -> str:
    """The one sentence with which a command ends that is refused before any work."""
    assert main(list(map(str, arguments))) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Error: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def lab(folder, content='{"a.png": ["red cube"]}'):
    folder.mkdir(parents=True)
    (folder / "train.json").write_text(content)
    Image.new("RGB", (320, 240)).save(folder / "a.png")
    return folder


@pytest.mark.parametrize("command", [["report"], ["stage", "train"]])
@pytest.mark.parametrize(("changes", "words"), [
    (["epoch", "2"], "-p: unknown parameter 'epoch' (did you mean 'epochs'"),
    (["epochs", "two"], "-p: epochs: expected int, found 'two'"),
    (["epochs", "[1"], "-p: epochs: expected int, found '[1'"),
    (["epochs", "0"], "-p: epochs: found 0, expected at least 1"),
    (["sampler", "dmp"], "-p: sampler: found 'dmp'"),
    (["blocks", "3"], "-p: blocks: expected a list of int, found 3"),
    (["channels", "[1, 2, 3]"], "blocks and channels: expected two lists of the same length"),
    (["class_emb_size", "24"], "attention_head_dim: expected a divisor of"),
    (["image_size", "60"], "image_size: expected a multiple of"),
])
def test_bad_parameters_are_refused(capsys, outputs, command, changes, words):
    assert words in refused(capsys, *command, "--params", "params/quick.yaml", "-p", *changes)
    assert not outputs.exists()


@pytest.mark.parametrize(("content", "words"), [
    ("epochz: 2", "unknown parameter 'epochz' (did you mean 'epochs'"),
    ("epochs: 2.5", "epochs: expected int, found 2.5"),
    ("epochs: {", "not readable as YAML"),
    ("- 1", "expected a mapping of parameter to value"),
    ("1: 2", "unknown parameter 1"),
    ("\x00", "not readable as YAML"),
])
def test_bad_params_file_is_refused(capsys, tmp_path, outputs, content, words):
    (tmp_path / "mine.yaml").write_text(content)
    found = refused(capsys, "report", "--params", tmp_path / "mine.yaml")
    assert words in found and "mine.yaml" in found
    assert not outputs.exists()


def test_missing_params_file_is_refused(capsys, tmp_path):
    assert "did you mean 'quick.yaml'" in refused(capsys, "report", "--params",
                                                  ROOT / "params/quik.yaml")
    assert "no such params file" in refused(capsys, "report", "--params", tmp_path / "x.yaml")
    assert "not readable as YAML" in refused(capsys, "report", "--params", tmp_path)


def test_params_are_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = _parser().parse_args(["report", "--params", "params/quick.yaml"])
    assert _params(options).replace(run="") == Params()


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "cache"])
def test_a_run_name_that_is_a_path_is_refused(capsys, outputs, name):
    assert f"run: found {name!r}" in refused(capsys, "report", "--run", name)
    assert not outputs.exists()


def test_an_unknown_stage_is_refused(capsys):
    assert "stage: found 'trian' (did you mean 'train'" in refused(capsys, "stage", "trian")


def test_data_that_is_not_there_is_refused(capsys, tmp_path, outputs):
    assert "nowhere is not a folder, expected one with train.json" in refused(
        capsys, "report", "--data", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "train.json: no such file" in refused(capsys, "report", "--data", tmp_path / "empty")
    assert not outputs.exists()


@pytest.mark.parametrize(("content", "words"), [
    ("{", "malformed JSON at line 1"),
    ('{"a.png": []}', "'a.png': the label list is empty"),
    ('{"a.png": ["red cub"]}', "unknown label 'red cub' (did you mean 'red cube'"),
    ('{"b.png": ["red cube"]}', "b.png: no such image; 1 of the 1 images"),
    ('[["red cube"]]', "expected a non-empty object"),
])
def test_bad_data_is_refused(capsys, tmp_path, outputs, content, words):
    folder = lab(tmp_path / "set", content)
    assert words in refused(capsys, "stage", "data", "--data", folder)
    (tmp_path / "mine.yaml").write_text(f"data: {json.dumps(str(folder))}")
    assert words in refused(capsys, "report", "--params", tmp_path / "mine.yaml")
    assert not outputs.exists()


def test_bad_evaluator_is_refused(capsys, tmp_path, outputs):
    path = tmp_path / "checkpoint.pth"
    command = ["report", "--evaluator", path]
    assert "checkpoint.pth: no such file" in refused(capsys, *command)
    path.write_bytes(b"hello")
    assert "expected the lab's evaluator checkpoint" in refused(capsys, *command)
    torch.save({"weights": {}}, path)
    assert "without 'model'" in refused(capsys, *command)
    state = build_resnet18().state_dict()
    state["fc.0.weight"] = torch.zeros(10, 512)
    torch.save({"model": state}, path)
    assert "'fc.0.weight' of shape (10, 512) for (24, 512)" in refused(capsys, *command)
    assert not outputs.exists()


def test_a_damaged_checkpoint_is_refused_before_any_work(capsys, outputs):
    run = Run("quick")
    run.folder.mkdir(parents=True)
    (run / "checkpoint.pt").write_bytes(b"hello")
    assert "checkpoint.pt: not a readable checkpoint" in refused(capsys, "report")
    assert {path.name for path in run.folder.iterdir()} <= {"checkpoint.pt", ".lock"}


def read(*arguments) -> Params:
    return _params(_parser().parse_args(["report", *map(str, arguments)]))


def test_the_params_of_an_older_run_are_read_as_it_was_made(tmp_path):
    run = Run("old", outputs=tmp_path)
    run.folder.mkdir()
    (run / "params.yaml").write_text("epochs: 7\n")
    assert read("--params", run / "params.yaml").layout  # a file that somebody has written
    with run.stage("data"):
        pass
    found = read("--params", run / "params.yaml")
    assert (found.epochs, found.layout, found.layout_choices) == (7, False, 1)
    assert found == run.params().replace(run="params")


def test_values_of_the_command_line_go_over_those_of_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 9\nlearning_rate: 1e-5\n")
    found = read("--params", path, "-p", "epochs", "3", "-p", "channels", "[1, 2]",
                 "-p", "standardise", "false", "-p", "muon_learning_rate", "1e-3")
    assert found == Params(run="mine", epochs=3, learning_rate=1e-5, channels=[1, 2],
                           standardise=False, muon_learning_rate=1e-3)
    assert read("--params", path, "--run", "other").run == "other"


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda t: not t.startswith("-")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_title_is_taken_as_it_is_typed(text):
    assert read("-p", "title", text).title == text


@pytest.mark.parametrize("title", ["yes", "Run: two", "[a", "007", "null", "1e5"])
def test_a_title_that_yaml_would_read_otherwise(title):
    assert read("-p", "title", title).title == title


def test_paths_are_taken_from_the_folder_where_they_were_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "mine.yaml").write_text(to_yaml(Params(data="set", evaluator="~/a.pth")))
    found = read("--params", "mine.yaml")
    assert (found.data, found.evaluator) == (str(tmp_path / "set"), str(tmp_path / "home/a.pth"))
    assert read("-p", "data", "other").data == str(tmp_path / "other")
    assert read("--params", "mine.yaml", "--data", "third").data == str(tmp_path / "third")
    assert read().data == ""


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_comes_after_all_it_needs(stage):
    order = with_needs(stage)
    assert order[-1] == stage and order[0] == "data"
    for name in order:
        assert all(order.index(need) < order.index(name) for need in STAGES[name])


@pytest.mark.parametrize("arguments", [[], ["reprot"], ["report", "--nonsense"], ["stage"],
                                       ["report", "-p", "epochs"]])
def test_commands_that_are_not_understood_show_the_usage(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and "usage:" in capsys.readouterr().err


def test_a_mistake_ends_the_program_with_two_and_one_sentence(tmp_path):
    done = subprocess.run([sys.executable, "-m", "cddpm_core", "report", "-p", "epoch", "2"],
                          cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, OUTPUTS: str(tmp_path)})
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == ("Error: -p: unknown parameter 'epoch' (did you mean 'epochs'?)\n")
    assert not list(tmp_path.iterdir())


def test_help_names_the_commands():
    done = subprocess.run([sys.executable, "-m", "cddpm_core", "--help"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("report", "stage", "lab", "test"))


def test_bench_prints_each_ratio_and_where_they_are(capsys, outputs, monkeypatch):
    from cddpm_core import bench

    part = {"ratio": {"median": 2.25, "least": 2.0, "greatest": 3.0}, "what": "this against that"}
    monkeypatch.setattr(bench, "run_bench", lambda run, out, repeats, minutes: {
        "training_vs_plain_loop": part, "repeats": repeats, "made_with": {"torch": "2"}})
    assert main(["bench", "--run", "mine", "--repeats", "2"]) == 0
    printed = capsys.readouterr().out
    assert "training_vs_plain_loop: 2.2x (2.0 to 3.0); this against that" in printed
    assert "bench.json" in printed
    assert "expected at least 1, found 0" in refused(capsys, "bench", "--repeats", "0")


def test_reference_is_checked_before_any_work(capsys, outputs):
    words = refused(capsys, "report", "-p", "reference", "/no/such/frames")
    assert "reference: /no/such/frames is not a folder" in words
    assert not outputs.exists()


def test_reference_is_found_from_where_the_command_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read("-p", "reference", "frames").reference == str(tmp_path / "frames")


@pytest.mark.parametrize(("user", "more"), [(0, ["--allow-root"]), (1000, [])])
def test_lab_opens_on_the_notebooks_also_for_root(monkeypatch, user, more):
    seen = {}
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    monkeypatch.setattr(subprocess, "call",
                        lambda command, cwd: seen.update(command=command, cwd=cwd) or 0)
    assert main(["lab"]) == 0
    assert seen["command"][1:] == ["-m", "jupyter", "lab", *more]
    assert seen["cwd"] == ROOT / "notebooks"
