import errno
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cddpm_core.config.cells import OUTPUT_PATH
from cddpm_core.config.environment import CACHE
from cddpm_core.config.errors import UserError, shown
from cddpm_core.config.progress import HEADLESS
from cddpm_core.config.schema import Params
from cddpm_core.runs import run as runs
from cddpm_core.runs.run import OUTPUTS, Run, command, open_run


@pytest.mark.parametrize("name", ["../x", "", "a/b", "a\\b", ".", "..", ".hidden", "/tmp", " a",
                                  "a ", "a\n", "-p", "cache", "a" * 201, "\udc80"])
def test_a_run_is_a_plain_folder_name(name, tmp_path):
    with pytest.raises(UserError) as error:
        Run(name, outputs=tmp_path)
    assert str(error.value).startswith(f"run: found {shown(name)}")
    assert not list(tmp_path.iterdir())


@given(st.text(max_size=8))
def test_no_name_of_a_run_leads_out_of_the_folder(tmp_path_factory, name):
    outputs = tmp_path_factory.getbasetemp() / "outputs"
    try:
        run = Run(name, outputs=outputs)
    except UserError:
        return
    assert run.folder.parent == outputs and run.folder.resolve().parent == outputs.resolve()
    assert name.isprintable() and name == name.strip() and "/" not in name


@pytest.mark.parametrize("name", ["quick", "seed_2000", "a.b-C_9", "7", "my run", "第1次", "#1"])
def test_names_of_runs(name, tmp_path):
    run = Run(name, outputs=tmp_path)
    assert run.folder == tmp_path / name and run / "a/b.json" == tmp_path / name / "a/b.json"


def test_metrics_are_merged(run):
    run.update_metrics({"train": {"seconds": 1, "steps": 2}, "data": {"kind": "real"}})
    found = run.update_metrics({"train": {"seconds": 3}, "test": {"micro": 0.5}})
    assert found == run.read("metrics.json")
    assert found["train"] == {"seconds": 3, "steps": 2} and found["data"] == {"kind": "real"}
    assert found["test"] == {"micro": 0.5} and found["run"] == "tiny" and "schema" in found
    assert run.update_metrics({"train": None})["train"] is None
    assert run.update_metrics({"train": {"a": 1}})["train"] == {"a": 1}
    # What is counted by kinds of the data is not mixed with counts of earlier data.
    for counts in ({"1": 5, "4": 2}, {"1": 7}):
        assert run.update_metrics({"data": {"by_size": counts}})["data"]["by_size"] == counts


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
    with pytest.raises(UserError, match="params.yaml: no such run, expected one that"):
        run.params()
    params = Params(title="é", learning_rate=1e-5, blocks=[1], channels=[2], patch_size=1)
    run.write_params(params)
    assert run.params() == params
    with pytest.raises(UserError, match="no such run .did you mean 'tiny'"):
        Run("tinny", run.outputs).params()


def test_damaged_files_of_a_run_are_one_sentence(run, monkeypatch):
    def forbidden(path, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    assert run.read("metrics.json") == {} and run.history() == []
    run.folder.mkdir()
    for content in (b"{", b"\xff\xfe"):
        (run / "metrics.json").write_bytes(content)
        with pytest.raises(UserError, match="metrics.json: malformed JSON"):
            run.read("metrics.json")
        with pytest.raises(UserError, match="metrics.json: malformed JSON"):
            run.update_metrics({})
    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(UserError, match="metrics.json: cannot be read .Permission denied"):
        run.read("metrics.json")
    monkeypatch.undo()
    (run / "history.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [line["step"] for line in run.history()] == [1, 2]


def test_a_stage_that_was_killed_is_interrupted(run):
    run.set_stage("data", "done", seconds=1.0)
    run.set_stage("train", "running", pid=7, key="k")
    run.interrupted()
    stages = run.read("status.json")["stages"]
    assert stages["train"] == {"state": "interrupted", "pid": 7, "key": "k"}
    assert stages["data"]["state"] == "done"


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


def test_the_cache_may_be_on_another_disk(outputs, monkeypatch):
    assert Run("mine").cache == outputs / "cache"
    monkeypatch.setenv(CACHE, str(outputs / "local disk"))
    assert Run("mine").cache == outputs / "local disk" and Run("mine").outputs == outputs


def test_a_notebook_by_hand_opens_the_default_run(outputs):
    run, params = open_run({"epochs": 2, "learning_rate": "1e-5"})
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


@pytest.mark.parametrize(("output", "name"), [
    ("mine/train.ipynb", "mine"), ("我的 #1 [50%] \"a\"/train.ipynb", "我的 #1 [50%] \"a\""),
    ("../elsewhere/mine/train.ipynb", "mine"), ("link/train.ipynb", "link")])
def test_papermill_names_the_run_by_the_folder_it_writes_to(outputs, output, name):
    (outputs / "disk").mkdir()
    (outputs / "link").symlink_to(outputs / "disk")
    run, _ = open_run({"run": "", OUTPUT_PATH: str(outputs / output)})
    assert run.folder == outputs / name and (run / "params.yaml").exists()
    assert open_run({"run": "given", OUTPUT_PATH: str(outputs / output)})[0].name == "given"


@pytest.mark.parametrize("folder", [".", "..", "/"])
def test_a_folder_that_holds_runs_is_none(outputs, folder):
    values = {"run": "", OUTPUT_PATH: str(outputs / folder / "train.ipynb")}
    with pytest.raises(UserError, match="run: expected a name, for .*-p run NAME"):
        open_run(values)
    assert not list(outputs.iterdir())
    assert open_run(values, write=False)[0].name == "quick"


def test_an_unknown_program_that_runs_a_notebook_has_to_name_the_run(outputs, monkeypatch):
    monkeypatch.setattr(runs, "headless", lambda: True)
    with pytest.raises(UserError, match="does not say where it writes it; give .*-p run NAME"):
        open_run({"run": ""})
    assert not list(outputs.iterdir())
    assert open_run({"run": ""}, write=False)[0].name == "quick"
    assert open_run({"run": "mine"})[0].name == "mine"


def test_a_notebook_that_only_looks_leaves_the_run_as_it_is(outputs):
    run = Run("mine")
    run.write_params(Params(run="mine", seed=4, sampler="sde_dpm_solver++"))
    before = (run / "params.yaml").read_bytes()
    _, params = open_run({"run": "mine", "device": "cpu"}, write=False)
    assert (params.seed, params.sampler, params.device) == (4, "sde_dpm_solver++", "cpu")
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


def test_relative_paths_are_kept_as_the_places_they_were_typed_for(outputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = {"run": "mine", "data": "../ic", "evaluator": "~/a.pth", "reference": "",
             "font_paths": ["fonts", "/b"]}
    run, params = open_run(typed)
    assert params.data == str(tmp_path / "../ic") and params.reference == ""
    assert params.evaluator == os.path.expanduser("~/a.pth")
    assert params.font_paths == [str(tmp_path / "fonts"), "/b"]
    assert run.params() == params


@pytest.mark.parametrize("write", [True, False])
def test_a_stage_that_is_run_by_hand_is_recorded(outputs, monkeypatch, write):
    run = Run("mine")
    run.set_stage("evaluate", "done", seconds=1, inputs={"params": {}})
    monkeypatch.setenv("JPY_SESSION_NAME", "/somewhere/notebooks/evaluate.ipynb")
    monkeypatch.setenv(HEADLESS, "1")
    open_run({"run": "mine"}, write=write)
    assert run.stages()["evaluate"]["state"] == "done"
    monkeypatch.delenv(HEADLESS)
    open_run({"run": "mine"}, write=write)
    assert run.stages()["evaluate"]["state"] == ("by hand" if write else "done")
    assert run.stages()["evaluate"]["inputs"] == {"params": {}}
    assert list(run.stages()) == ["evaluate"]


def test_the_command_of_a_stage_can_be_given(run):
    quick = Run("quick", outputs=run.outputs)
    assert command(quick, "train") == (
        "python -m cddpm_core stage train --params params/quick.yaml")
    assert command(quick, "sampling").endswith(
        "report --params params/quick.yaml -p experiments '[sampling]'")
    assert command(run, "train").endswith(f"{run.name}/params.yaml")
    quick.write_params(Params(run="quick", epochs=9))  # not those of params/quick.yaml
    assert command(quick, "train").endswith(f"{quick.folder.name}/params.yaml")
    assert "params/quick.yaml" not in command(quick, "train")


def test_a_stage_is_forgotten_with_its_figures(run):
    run.update_metrics({"sampling": {}, "test": {}})
    run.set_stage("sampling", "done")
    (run / "figures").mkdir()
    for name in ("sampling_curves", "accuracy_bars"):
        (run / f"figures/{name}.png").write_bytes(b"")
    run.forget("sampling")
    assert "sampling" not in run.read("metrics.json") and run.stages() == {}
    assert [path.stem for path in (run / "figures").iterdir()] == ["accuracy_bars"]
