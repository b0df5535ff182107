import json
import os
import re

import matplotlib.pyplot as plt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cddpm_core import runs
from cddpm_core.errors import UserError
from cddpm_core.params import Params
from cddpm_core.runs import (
    OUTPUTS,
    Run,
    atomic,
    open_run,
    progress,
    remove_leftovers,
    write_json,
)


@pytest.mark.parametrize("name", ["../x", "", "a/b", "a\\b", ".", "..", ".hidden", "/tmp", "a b",
                                  "a\n", "-p", "cache"])
def test_a_run_is_a_plain_folder_name(name, tmp_path):
    with pytest.raises(UserError) as error:
        Run(name, outputs=tmp_path)
    assert str(error.value).startswith(f"run: found {name!r}")
    assert not list(tmp_path.iterdir())


@given(st.text(max_size=8))
def test_no_name_of_a_run_leads_out_of_the_folder(tmp_path_factory, name):
    outputs = tmp_path_factory.getbasetemp() / "outputs"
    try:
        run = Run(name, outputs=outputs)
    except UserError:
        return
    assert run.folder.parent == outputs and run.folder.resolve().parent == outputs.resolve()
    assert re.fullmatch(r"[\w.-]+", name)


@pytest.mark.parametrize("name", ["quick", "seed_2000", "a.b-C_9", "7"])
def test_names_of_runs(name, tmp_path):
    run = Run(name, outputs=tmp_path)
    assert run.folder == tmp_path / name and run / "a/b.json" == tmp_path / name / "a/b.json"


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


def test_metrics_are_merged(run):
    run.update_metrics({"train": {"seconds": 1, "steps": 2}, "data": {"kind": "real"}})
    found = run.update_metrics({"train": {"seconds": 3}, "test": {"micro": 0.5}})
    assert found == run.read("metrics.json")
    assert found["train"] == {"seconds": 3, "steps": 2} and found["data"] == {"kind": "real"}
    assert found["test"] == {"micro": 0.5} and found["run"] == "tiny" and "schema" in found
    assert run.update_metrics({"train": None})["train"] is None
    assert run.update_metrics({"train": {"a": 1}})["train"] == {"a": 1}


trees = st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner,
                                                                  max_size=3), max_leaves=6)


@given(st.dictionaries(st.sampled_from("abc"), trees), st.dictionaries(st.sampled_from("abc"),
                                                                       trees))
def test_merging_keeps_all_that_is_new_and_what_it_does_not_replace(old, new):
    before = json.dumps(old)
    merged = runs._merge(old, new)
    assert json.dumps(old) == before
    assert runs._merge(merged, new) == merged
    assert set(merged) == set(old) | set(new)
    assert all(merged[key] == old[key] for key in set(old) - set(new))


def test_a_stage_is_running_then_done(run):
    with run.stage("train", key="abc"):
        during = run.read("status.json")["stages"]["train"]
        assert during["state"] == "running" and during["pid"] == os.getpid()
    after = run.read("status.json")["stages"]["train"]
    assert after["state"] == "done" and after["seconds"] >= 0 and after["key"] == "abc"


@pytest.mark.parametrize("mistake", [UserError("too bad"), KeyboardInterrupt()])
def test_a_stage_that_fails_says_so_and_why(run, mistake):
    with run.stage("data"):
        pass
    with pytest.raises(type(mistake)), run.stage("train", key="abc"):
        raise mistake
    stages = run.read("status.json")["stages"]
    assert stages["train"]["state"] == "failed" and stages["train"]["error"] == str(mistake)
    assert stages["train"]["seconds"] >= 0 and stages["data"]["state"] == "done"


def test_need_names_the_command_that_makes_it(run):
    with pytest.raises(UserError) as error:
        run.need("train", "make stage train")
    assert "metrics.json: no 'train' yet, first run 'make stage train'" in str(error.value)
    run.update_metrics({"train": {"steps": 3}})
    assert run.need("train", "x") == {"steps": 3}


def test_parameters_of_a_run_round_trip(run):
    with pytest.raises(UserError, match="params.yaml: no such run, make it with"):
        run.params()
    params = Params(title="é", learning_rate=1e-5, blocks=[1], channels=[2], patch_size=1)
    run.write_params(params)
    assert run.params() == params


def test_damaged_files_of_a_run_are_one_sentence(run):
    assert run.read("metrics.json") == {} and run.history() == []
    run.folder.mkdir()
    for content in (b"{", b"\xff\xfe"):
        (run / "metrics.json").write_bytes(content)
        with pytest.raises(UserError, match="metrics.json: malformed JSON"):
            run.read("metrics.json")
        with pytest.raises(UserError, match="metrics.json: malformed JSON"):
            run.update_metrics({})
    (run / "history.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match="history.jsonl: malformed JSON"):
        run.history()


@pytest.mark.parametrize("content", [b'{"step": "\xff"}\n', b"[1]\n", b"{}\n", b'{"step": "3"}\n'])
def test_a_history_that_is_none_is_one_sentence(run, content):
    run.folder.mkdir(parents=True, exist_ok=True)
    (run / "history.jsonl").write_bytes(content)
    with pytest.raises(UserError, match="history.jsonl: malformed JSON lines, remove it"):
        run.history()


def test_only_what_this_package_left_half_written_is_removed(run):
    dead = 2**22 + 7  # beyond every process
    mine = [f".a.json.{dead}.tmp", f"model/.b.{dead}.tmp", ".train.running.ipynb"]
    others = [".notes.tmp", "figures/.keep.tmp/x", "a.tmp", f".a.json.{os.getpid()}.tmp"]
    for name in (*mine, *others):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x")
    (run / f".model.{dead}.tmp").mkdir()
    remove_leftovers(run.folder)
    assert not any((run / name).exists() for name in (*mine, f".model.{dead}.tmp"))
    assert all((run / name).exists() for name in others)


def test_a_stage_that_was_killed_is_interrupted(run):
    run.set_stage("data", "done", seconds=1.0)
    run.set_stage("train", "running", pid=7, key="k")
    run.interrupted()
    stages = run.read("status.json")["stages"]
    assert stages["train"] == {"state": "interrupted", "pid": 7, "key": "k"}
    assert stages["data"]["state"] == "done"


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


def test_a_line_torn_at_the_end_of_the_history_is_left_out(run):
    run.folder.mkdir()
    (run / "history.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [line["step"] for line in run.history()] == [1, 2]


def test_figures_are_saved_as_png(run):
    figure, _ = plt.subplots()
    path = run.save_figure(figure, "curves")
    plt.close(figure)
    assert path == run / "figures/curves.png"
    with Image.open(path) as image:
        assert image.format == "PNG"


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path))
    return tmp_path


def test_a_notebook_by_hand_opens_the_default_run(outputs):
    run, params = open_run({"epochs": 2, "learning_rate": "1e-5", "_": 3, "In": [""]})
    assert run.folder == outputs / "quick" and run.params() == params
    assert params == Params(run="quick", epochs=2, learning_rate=1e-5)


def test_a_notebook_keeps_what_it_does_not_declare(outputs):
    original = Params(run="mine", num_train_timesteps=2000, num_inference_steps=2000,
                      sampler="ddpm", label_drop=0, guidance_scale=1)
    Run("mine").write_params(original)
    # These three alone would not go with the defaults of the rest.
    run, params = open_run({"run": "mine", "num_inference_steps": 2000, "sampler": "ddpm",
                            "label_drop": 0.0})
    assert run.name == "mine" and params == original


def test_opening_a_run_again_later_in_the_session_opens_the_same(outputs):
    namespace = {"run": "mine", "epochs": 2}
    namespace["run"], namespace["p"] = open_run(namespace)
    namespace |= {"names": ["a"], "count": 3, "data": os, "epochs": 4}
    run, params = open_run(namespace)
    assert run.name == "mine" and params.epochs == 4 and not (outputs / "quick").exists()


def test_a_notebook_that_only_looks_leaves_the_run_as_it_is(outputs):
    run = Run("mine")
    run.write_params(Params(run="mine", seed=4, sampler="ddim"))
    before = (run / "params.yaml").read_bytes()
    _, params = open_run({"run": "mine", "device": "cpu"}, write=False)
    assert (params.seed, params.sampler, params.device) == (4, "ddim", "cpu")
    assert (run / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(("namespace", "words"), [
    ({"epochz": 2}, "unknown parameter 'epochz' (did you mean 'epochs'"),
    ({"epochs": "two"}, "epochs: expected int, found 'two'"),
    ({"run": "../x"}, "run: found '../x'"),
    ({"image_size": 60}, "image_size: expected a multiple of"),
])
def test_bad_values_of_a_notebook_are_one_sentence_and_leave_nothing(outputs, namespace, words):
    with pytest.raises(UserError) as error:
        open_run(namespace)
    assert words in str(error.value) and not list(outputs.iterdir())


def test_an_error_of_the_user_is_shown_as_one_sentence_in_a_notebook():
    assert UserError("a.json: no such file")._render_traceback_() == [
        "Error: a.json: no such file"]


def test_progress_is_plain_text_outside_a_notebook(capsys):
    with progress(total=3, desc="counting", unit="step") as bar:
        for _ in range(3):
            bar.update()
    assert "counting: 100%" in capsys.readouterr().err
