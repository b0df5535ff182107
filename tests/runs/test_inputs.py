import os
import shutil

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.schema import Params
from cddpm_core.runs import inputs as inputs_module
from cddpm_core.runs.inputs import NEW, data_fingerprint, stage_inputs, why_run

values = st.one_of(st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2))
group = st.dictionaries(st.text("abc/", min_size=1, max_size=4), values, max_size=4)
inputs = st.fixed_dictionaries({"params": group, "notebook": values, "modules": group,
                                "files": group, "needs": group})


@given(inputs)
def test_nothing_changed_is_no_reason(found):
    assert why_run({"state": "done", "inputs": found}, found) is None


@given(inputs, st.sampled_from(["params", "modules", "files", "needs"]), st.data())
def test_whatever_changed_is_named(found, part, data):
    key = data.draw(st.sampled_from([*found[part], "new"]))
    old = {**found, part: {**found[part], key: ["other"]}}
    for before, now in ((old, found), (found, old)):
        assert key in why_run({"state": "done", "inputs": before}, now)


def made(**changes):
    return {"params": {"guidance_scale": 3.0, "seed": 0, "sampler": "ddim"}, "notebook": "n",
            "modules": {"cddpm_core/a.py": "1", "cddpm_core/b.py": "2"},
            "files": {"the images": "3"}, "needs": {"train": "4"}, **changes}


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"params": {"guidance_scale": 2.0, "seed": 0, "sampler": "ddim"}},
     "guidance_scale changed from 3.0 to 2.0"),
    ({"params": {"guidance_scale": 2.0, "seed": 1, "sampler": "ddim"}},
     "guidance_scale and seed changed"),
    ({"params": {"seed": 0, "sampler": "ddim"}}, "guidance_scale no longer matters"),
    ({"notebook": "m"}, "its notebook changed"),
    ({"modules": {"cddpm_core/a.py": "1", "cddpm_core/b.py": "9"}}, "cddpm_core/b.py changed"),
    ({"modules": {"cddpm_core/a.py": "1"}, "files": {}}, "cddpm_core/b.py and the images changed"),
    ({"modules": {str(i): "" for i in range(8)}},
     "cddpm_core/a.py, cddpm_core/b.py, 0 and 7 more changed"),
    ({"needs": {"train": "5"}}, "the results of train changed"),
    ({"params": {"guidance_scale": 3.0, "seed": 0, "sampler": "unipc"}, "notebook": "m",
      "needs": {}}, "sampler changed from 'ddim' to 'unipc', its notebook changed, the results "
      "of train changed"),
])
def test_the_reason_is_one_sentence(changes, sentence):
    assert why_run({"state": "done", "inputs": made()}, made(**changes)) == sentence


@pytest.mark.parametrize(("before", "sentence"), [
    ({}, NEW), ({"state": "done"}, NEW),
    ({"state": "failed", "inputs": made()}, "it failed before"),
    ({"state": "running", "inputs": made()}, "it was interrupted"),
    ({"state": "interrupted", "inputs": made()}, "it was interrupted"),
    ({"state": "by hand", "inputs": made()}, "its notebook was run by hand since"),
])
def test_a_stage_that_has_not_finished_runs(before, sentence):
    assert why_run(before, made()) == sentence


def test_data_are_the_same_wherever_they_lie(folder, tmp_path, monkeypatch):
    found = data_fingerprint(Params(data=str(folder)))
    assert found["count"] == 3
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    shutil.copytree(folder, tmp_path / "copy")
    for path in ("set", "link", "copy", f"{tmp_path}/./set"):
        assert data_fingerprint(Params(data=path)) == found
    folder.rename(tmp_path / "moved")
    assert data_fingerprint(Params(data="moved")) == found


def test_data_of_another_content_are_others(folder, tmp_path):
    params = Params(data=str(folder))
    found, timed = data_fingerprint(params), data_fingerprint(params, times=True)
    image = next((folder / "iclevr").iterdir())
    os.utime(image, (1, 1))
    assert data_fingerprint(params) == found and data_fingerprint(params, times=True) != timed
    image.write_bytes(image.read_bytes() + b" ")
    assert data_fingerprint(params) != found
    labels = folder / "train.json"
    before = data_fingerprint(params)
    labels.write_text(labels.read_text().replace("red cube", "red sphere"))
    assert data_fingerprint(params) != before
    assert data_fingerprint(Params()) != found  # rendered


def test_inputs_are_what_the_notebook_declares(run, folder, tmp_path):
    weights = tmp_path / "checkpoint.pth"
    weights.write_bytes(b"weights")

    def of(stage, **changes):
        params = Params(run="tiny", data=str(folder), evaluator=str(weights), **changes)
        return stage_inputs(ROOT / f"notebooks/{stage}.ipynb", params, run, {})

    data, evaluate, report = (of(stage) for stage in ("data", "evaluate", "report"))
    assert set(data["files"]) >= {"the images", "cddpm_core/data/lab/test.json"}
    assert "the images" not in evaluate["files"] and "the evaluator" in evaluate["files"]
    assert evaluate["params"]["guidance_scale"] == Params().guidance_scale
    assert "epochs" not in evaluate["params"]
    assert "data" not in data["params"] and "evaluator" not in evaluate["params"]
    assert of("evaluate", device="cpu", epochs=9) == evaluate  # neither changes the result
    assert of("evaluate", guidance_scale=5) != evaluate
    assert of("report", denoise_steps=11) != report  # it lists all parameters
    weights.write_bytes(b"other weights")
    assert of("evaluate") != evaluate and of("data") == data


def test_the_weights_of_evaluators_are_inputs_of_the_stages_that_use_one(run, tmp_path):
    weights = tmp_path / "checkpoint.pth"
    weights.write_bytes(b"weights")
    params = Params(run="tiny", evaluator=str(weights))
    for stage in ("train", "evaluate", "denoise", "analyse", "timesteps", "sampling"):
        found = stage_inputs(ROOT / f"notebooks/{stage}.ipynb", params, run, {})["files"]
        assert {"the evaluator", "cddpm_core/evaluator/weights.safetensors"} <= found.keys(), stage
    assert "cddpm_core/evaluator/README.md" not in found


def test_replaced_weights_of_the_package_are_the_reason_to_score_again(run, monkeypatch):
    def of():
        return stage_inputs(ROOT / "notebooks/evaluate.ipynb", Params(run="tiny"), run, {})

    before, hashed = of(), inputs_module.sha256_of
    monkeypatch.setattr(inputs_module, "sha256_of", lambda path: (
        "other" if path.name == "weights.safetensors" else hashed(path)))
    assert why_run({"state": "done", "inputs": before}, of()) == (
        "cddpm_core/evaluator/weights.safetensors changed")


def test_the_report_depends_on_other_runs_and_the_bench(run):
    def files(**changes):
        return stage_inputs(ROOT / "notebooks/report.ipynb", Params(run="tiny", **changes), run,
                            {})["files"]

    other, bench = (type(run)(name, run.outputs) for name in ("other", "bench"))
    assert not {"other/metrics.json", "bench/bench.json"} & files(runs=["other"]).keys()
    other.update_metrics({"a": 1})
    bench.folder.mkdir()
    (bench / "bench.json").write_text("{}")
    assert {"other/metrics.json", "bench/bench.json"} <= files(runs=["other", "tiny"]).keys()
    assert "other/metrics.json" not in files()


def test_a_text_of_the_author_is_an_input_wherever_it_lies(run, tmp_path):
    folders = [run / "report", tmp_path / "report"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "discussion.md").write_text("First.")

    def found():
        return stage_inputs(ROOT / "notebooks/report.ipynb",
                            Params(run="tiny", words=str(tmp_path / "report")), run, {})["files"]

    for folder in folders:
        before = found()
        (folder / "discussion.md").write_text("Second.")
        assert found() != before
    (folders[0] / "discussion.md").unlink()
    assert found().keys() < before.keys()
