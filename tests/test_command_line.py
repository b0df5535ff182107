import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cddpm_core import __main__ as command_line
from cddpm_core.__main__ import main
from cddpm_core.config.files import project_root
from cddpm_core.config.presets import to_yaml
from cddpm_core.config.schema import Params
from cddpm_core.runs import stages, sweep
from cddpm_core.runs import train as training
from cddpm_core.runs.pretrained import pretrained_run
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.runs.stages import STAGES, with_needs

ROOT = project_root()


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture
def read(monkeypatch):
    """Return the parameters with which a command would train."""
    def of(*arguments) -> Params:
        found = []
        monkeypatch.setattr(training, "train_run", found.append)
        assert main(["train", *map(str, arguments)]) == 0
        return found[0]
    return of


def refused(capsys, *arguments) -> str:
    """Return the one sentence of a command that is refused before any work."""
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
    (["epochs", "!!bool x"], "-p: epochs: expected int, found '!!bool x'"),
    (["epochs", '!!float ""'], "-p: epochs: expected int, found '!!float"),
    (["epochs", 2000 * "["], "-p: epochs: expected int, found '[["),
    (["epochs", "0"], "-p: epochs: found 0, expected at least 1"),
    (["sampler", "dmp"], "-p: sampler: found 'dmp'"),
    (["blocks", "3"], "-p: blocks: expected a list of int, found '3'; write [...]"),
    (["channels", "[1, 2]"], "blocks and channels: expected two lists of the same length"),
    (["title", "a", "-p", "epoch", "2"], "-p: unknown parameter 'epoch'"),
    (["class_emb_size", "24"], "attention_head_dim: expected a divisor of"),
    (["image_size", "60"], "image_size: expected a multiple of"),
])
def test_bad_parameters_are_refused(capsys, outputs, command, changes, words):
    assert words in refused(capsys, *command, "--params", "params/quick.yaml", "-p", *changes)
    assert not outputs.exists()


@pytest.mark.parametrize(("content", "words"), [
    ("epochz: 2", "unknown parameter 'epochz' (did you mean 'epochs'"),
    ("epochs: 2.5", "epochs: expected int, found '2.5'"),
    ("epochs: {", "not readable as YAML"),
    ("- 1", "expected a mapping of parameter to value"),
    ("1: 2", "unknown parameter '1'"),
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
    assert "cannot be read" in refused(capsys, "report", "--params", tmp_path)


def test_params_are_found_from_any_working_directory(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    assert read("--params", "params/quick.yaml") == Params(run="quick") == read()


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "cache"])
def test_a_run_name_that_is_a_path_is_refused(capsys, outputs, name):
    assert f"run: found {name!r}" in refused(capsys, "report", "--run", name)
    assert not outputs.exists()


def test_data_that_is_not_there_is_refused(capsys, tmp_path, outputs):
    assert "nowhere is not a folder, expected one with train.json" in refused(
        capsys, "report", "--data", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "train.json: no such file" in refused(capsys, "report", "--data", tmp_path / "empty")
    assert not outputs.exists()


@pytest.mark.parametrize(("content", "words"), [
    ('{"a.png": ["red cub"]}', "unknown label 'red cub' (did you mean 'red cube'"),
    ('{"b.png": ["red cube"]}', "b.png: no such image; 1 of the 1 images"),
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
    assert not outputs.exists()


def test_a_damaged_checkpoint_is_refused_before_any_work(capsys, outputs):
    run = Run("quick")
    run.folder.mkdir(parents=True)
    (run / "checkpoint.pt").write_bytes(b"hello")
    assert "checkpoint.pt: not a readable checkpoint" in refused(capsys, "report")
    assert {path.name for path in run.folder.iterdir()} <= {"checkpoint.pt", ".lock"}


def test_an_import_of_nothing_is_refused(capsys, tmp_path, outputs):
    assert "nosuch.pt: no such file or folder" in refused(capsys, "import", tmp_path / "nosuch.pt")


def test_named_objects_are_sampled(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "red sphere", "cyan cube", "--images", "2"]) == 0
    assert capsys.readouterr().out == "sample.png\n"
    with Image.open("sample.png") as one:
        assert one.size == (2 * (2 * 66 + 2), 2 * 68)
        first = one.tobytes()
    assert main(["sample", "red sphere", "cyan cube", "--images", "2", "--seed", "1"]) == 0
    with Image.open("sample.png") as other:
        assert other.tobytes() != first
    capsys.readouterr()
    assert "objects: unknown label 'red spere' (did you mean 'red sphere'" in refused(
        capsys, "sample", "red spere")
    assert "one names 4 objects, expected at most 3" in refused(
        capsys, "sample", "red cube", "gray cube", "blue cube", "cyan cube")
    assert "no such run" in refused(capsys, "sample", "red cube", "--run", "nosuch")


def test_a_run_that_the_evaluator_guides_is_sampled_so(tmp_path, monkeypatch, outputs):
    run = Run("guided")
    shutil.copytree(pretrained_run() / "model", run / "model")
    made = []
    for scale in (0.0, 5.0):
        run.write_params(pretrained_run().params().replace(
            run="guided", evaluator_guidance=scale, num_inference_steps=4))
        file = tmp_path / f"{scale}.png"
        assert main(["sample", "red cube", "--run", "guided", "--images", "1", "--out",
                     str(file)]) == 0
        made.append(file.read_bytes())
    assert made[0] != made[1]


def test_values_of_the_command_line_go_over_those_of_the_file(tmp_path, read):
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 9\nlearning_rate: 1e-5\n")
    found = read("--params", path, "-p", "epochs", "3", "-p", "channels", "[1, 2, 3]",
                 "-p", "standardise", "false", "-p", "muon_learning_rate", "1e-3")
    assert found == Params(run="mine", epochs=3, learning_rate=1e-5, channels=[1, 2, 3],
                           standardise=False, muon_learning_rate=1e-3)
    assert read("--params", path, "--run", "other").run == "other"


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_title_is_taken_as_it_is_typed(read, text):
    assert read("-p", "title", text).title == text


@pytest.mark.parametrize("title", ["yes", "Run: two", "[a", "007", "null", "1e5", "--force"])
def test_a_title_that_yaml_or_the_command_line_would_read_otherwise(read, title):
    assert read("-p", "title", title).title == title


def test_paths_are_taken_from_the_folder_where_they_were_typed(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "mine.yaml").write_text(to_yaml(Params(data="set", evaluator="~/a.pth")))
    found = read("--params", "mine.yaml")
    assert (found.data, found.evaluator) == (str(tmp_path / "set"), str(tmp_path / "home/a.pth"))
    assert read("-p", "data", "other").data == str(tmp_path / "other")
    assert read("-p", "reference", "images").reference == str(tmp_path / "images")
    assert read("--params", "mine.yaml", "--data", "third").data == str(tmp_path / "third")
    assert read().data == ""


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_comes_after_all_it_needs(stage):
    order = with_needs(stage)
    assert order[-1] == stage and order[0] == "data"
    for name in order:
        assert all(order.index(need) < order.index(name) for need in STAGES[name])


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "Missing command"),
    (["reprot"], "No such command 'reprot'. Did you mean 'report'?"),
    (["report", "--parms", "a"], "No such option '--parms'. Did you mean '--params'?"),
    (["stage"], "Missing argument 'STAGE'"),
    (["stage", "train", "more"], "unexpected extra argument"),
    (["report", "-p", "epochs"], "Option '-p' requires 2 arguments"),
    (["sweep"], "Missing argument 'FILE...'"),
    (["sweep", "a.yaml", "--seeds", "x"], "'x' is not a valid integer"),
    (["bench", "--repeats", "0"], "Invalid value for '--repeats'"),
    (["bench", "--minutes", "x"], "'x' is not a valid float"),
])
def test_commands_that_are_not_understood(capsys, arguments, words):
    found = refused(capsys, *arguments)
    assert words in found and "--help." in found


def test_a_mistake_ends_the_program_with_two_and_one_sentence(tmp_path):
    done = subprocess.run([sys.executable, "-m", "cddpm_core", "report", "-p", "epoch", "2"],
                          cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, OUTPUTS: str(tmp_path)})
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == ("Error: -p: unknown parameter 'epoch' (did you mean 'epochs'?)\n")
    assert not list(tmp_path.iterdir())


def test_help_names_the_commands(capsys):
    assert main(["--help"]) == 0
    found = capsys.readouterr().out
    assert all(f"\n  {word} " in found for word in (
        "report", "stage", "train", "sweep", "verify", "submission", "bench", "pack", "manual",
        "lab", "test", "results"))


@pytest.mark.parametrize("arguments", [["a.yaml", "b.yaml", "--seeds", "0", "1", "2"],
                                       ["--seeds", "0", "1", "2", "a.yaml", "b.yaml"],
                                       ["a.yaml", "--seeds", "0", "--seeds", "1", "2", "b.yaml"]])
def test_sweep_takes_files_and_seeds(monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    for name, epochs in (("a.yaml", 3), ("b.yaml", 4)):
        (tmp_path / name).write_text(f"epochs: {epochs}")
    found = []
    monkeypatch.setattr(sweep, "run_sweep", lambda *given: found.append(given))
    monkeypatch.setattr(command_line, "_export", lambda run: ["report.html"])
    assert main(["sweep", *arguments, "-p", "batch_size", "16"]) == 0
    (presets, seeds), = found
    assert presets == [Params(run="a", epochs=3, batch_size=16),
                       Params(run="b", epochs=4, batch_size=16)]
    assert tuple(seeds) == (0, 1, 2)


def test_stage_runs_what_it_needs_with_force(monkeypatch, outputs):
    found = {}
    monkeypatch.setattr(stages, "run_stages", lambda names, params, force: found.update(
        names=names, params=params, force=force) or Run(params.run))
    assert main(["stage", "train", "--force", "--run", "mine"]) == 0
    assert found == {"names": ["data", "train"], "params": Params(run="mine"), "force": True}


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(params):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_run", interrupted)
    assert main(["train"]) == 130
    assert "What is finished is kept" in capsys.readouterr().err


def test_a_full_disk_is_one_sentence(capsys, monkeypatch):
    def full(params):
        raise OSError(errno.ENOSPC, "No space left on device", "/disk/a")

    monkeypatch.setattr(training, "train_run", full)
    assert "/disk/a: cannot be written (No space left" in refused(capsys, "train")


def test_further_arguments_of_test_go_to_pytest(monkeypatch):
    seen = []
    monkeypatch.setattr(subprocess, "call",
                        lambda command, cwd, env: seen.append((command, cwd)) or 5)
    assert main(["test", "-n0", "-s", "-k", "a or b", "--help", "tests/test_a.py"]) == 5
    command, folder = seen[0]
    assert command[-6:] == ["-n0", "-s", "-k", "a or b", "--help", "tests/test_a.py"]
    assert command[1:3] == ["-m", "pytest"] and folder == ROOT


def test_bench_prints_each_ratio_and_where_they_are(capsys, outputs, monkeypatch):
    from cddpm_core.bench import run as bench

    part = {"ratio": {"median": 2.25, "min": 2.0, "max": 3.0}, "what": "this against that"}
    monkeypatch.setattr(bench, "run_bench", lambda run, out, repeats, minutes: {
        "training_vs_plain_loop": part, "repeats": repeats, "made_with": {"torch": "2"}})
    assert main(["bench", "--run", "mine", "--repeats", "2"]) == 0
    printed = capsys.readouterr().out
    assert "training_vs_plain_loop: 2.2x (2.0 to 3.0); this against that" in printed
    assert "bench.json" in printed
    assert "--minutes: expected 0 to below 1,000,000, found nan" in refused(
        capsys, "bench", "--minutes", "nan")
    assert "--part: it is a part of --gpu" in refused(capsys, "bench", "--part", "seed")


def test_reference_is_checked_before_any_work(capsys, outputs):
    words = refused(capsys, "report", "-p", "reference", "/no/such/frames")
    assert "reference: /no/such/frames is not a folder" in words
    assert not outputs.exists()


@pytest.mark.parametrize(("user", "more"), [(0, ["--allow-root"]), (1000, [])])
def test_lab_opens_on_the_notebooks_also_for_root(monkeypatch, user, more):
    seen = {}
    monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
    monkeypatch.setattr(subprocess, "call",
                        lambda command, cwd, env: seen.update(command=command, cwd=cwd) or 0)
    assert main(["lab", "--no-browser"]) == 0
    assert seen["command"][1:] == ["-P", "-m", "jupyter", "lab", *more,
                                   "--LabApp.default_url=/lab/tree/notebooks", "--no-browser"]
    assert seen["cwd"] == ROOT  # so that pictures in outputs/ are inside its root
