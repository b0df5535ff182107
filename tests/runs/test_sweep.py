import subprocess
import sys

import pytest
from conftest import ROOT
from runs.test_lock import HOLD

from cddpm_core.config.errors import UserError
from cddpm_core.config.presets import read_yaml
from cddpm_core.config.schema import Params, keys_affecting, resolve
from cddpm_core.runs import sweep
from cddpm_core.runs.archive import RECORD, archive_stale_training, record_training
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.runs.stages import EXPERIMENTS
from cddpm_core.training.checkpoint import write_checkpoint

ABLATIONS = sorted((ROOT / "params/ablations").glob("*.yaml"))
QUICK = resolve(read_yaml(ROOT / "params/quick.yaml"))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_changes_what_its_file_says(path):
    values = read_yaml(path)
    changed = resolve(values, str(path)).to_dict()
    differing = {key for key, value in QUICK.to_dict().items() if changed[key] != value}
    assert differing == set(values) and len(differing) <= 4
    assert bool(differing) == (path.stem != "recipe")
    assert path.read_text().startswith("# quick, ")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_one_of_the_run_quick_without_training_it_anew(name):
    changed = resolve(read_yaml(ROOT / f"params/experiments/{name}.yaml"))
    assert (changed.run, changed.experiments) == ("quick", [name])
    assert all(getattr(changed, key) == getattr(QUICK, key)
               for key in keys_affecting("weights", "data", "length"))


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """What `run_sweep` asks the pipeline for, each training leaving a checkpoint."""
    monkeypatch.setenv(OUTPUTS, str(tmp_path))
    asked = []

    def run_stages(names, params):
        run = Run(params.run)
        assert archive_stale_training(run, params) == ""  # what it takes it can go on with
        asked.append((params.run, params.seed, names[-1], (run / "checkpoint.pt").exists()))
        (run / "model").mkdir(parents=True, exist_ok=True)
        if not (run / "history.jsonl").exists():
            lines = ['{"step": 1, "loss": 0.5}', '{"step": 1, "test": {}}', ""]
            (run / "history.jsonl").write_text("\n".join(lines))
        if not (run / "checkpoint.pt").exists():
            record_training(run, params)
            write_checkpoint(run / "checkpoint.pt", params,
                             {"images": 8, "labels": "", "pixels": ""}, 1, {})
            (run / "model/weights").write_text(params.run)
        return run

    monkeypatch.setattr(sweep, "run_stages", run_stages)
    return asked


def test_each_preset_runs_with_each_seed_and_the_first_is_reported(stages, tmp_path):
    presets = [Params(run="a"), Params(run="b", guidance_scale=1.0), Params(run="c", epochs=9)]
    assert sweep.run_sweep(presets, [0, 4]).name == "a"
    assert stages == [("a", 0, "analyse", False), ("a_seed4", 4, "analyse", False),
                      # Sampled otherwise only: the training is that of a.
                      ("b", 0, "analyse", True), ("b_seed4", 4, "analyse", True),
                      ("c", 0, "analyse", False), ("c_seed4", 4, "analyse", False),
                      ("a", 0, "report", True)]
    assert (tmp_path / "b_seed4/model/weights").read_text() == "a_seed4"
    assert (tmp_path / "b" / RECORD).read_text() == (tmp_path / "a" / RECORD).read_text()
    # Accuracies along the way were of the other sampling.
    assert Run("b").history() == [{"step": 1, "loss": 0.5}]


def test_a_run_that_fails_does_not_stop_the_others(stages, monkeypatch, capsys):
    work = sweep.run_stages

    def run_stages(names, params):
        if params.run == "b":
            raise UserError("loss: not finite")
        return work(names, params)

    monkeypatch.setattr(sweep, "run_stages", run_stages)
    presets = [Params(run="a"), Params(run="b", epochs=9), Params(run="c", epochs=8)]
    with pytest.raises(UserError, match="sweep: 1 of 3 runs failed, as said above: b"):
        sweep.run_sweep(presets)
    assert "b: loss: not finite" in capsys.readouterr().out
    assert [name for name, *_ in stages] == ["a", "c", "a"]


@pytest.mark.parametrize(("presets", "seeds"), [([Params(run="a"), Params(run="a", epochs=9)], []),
                                                ([Params(run="a")], [0, 1, 1])])
def test_runs_of_one_name_are_refused(stages, presets, seeds):
    with pytest.raises(UserError, match="sweep: the run 'a(_seed1)?' is asked for twice"):
        sweep.run_sweep(presets, seeds)
    assert stages == []


@pytest.mark.parametrize(("a", "b", "words"), [
    ({}, {"data": "absent"}, "absent"),
    ({"experiments": ["sampling"], "sweep_steps": [61]}, {}, "unipc cannot divide")])
def test_what_would_fail_hours_later_fails_first(stages, a, b, words):
    with pytest.raises(UserError, match=words):
        sweep.run_sweep([Params(run="a", **a), Params(run="b", **b)], [0, 1])
    assert stages == []


def test_a_training_is_not_put_into_a_run_in_use(stages, tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "b")], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
            sweep.run_sweep([Params(run="a"), Params(run="b", guidance_scale=1.0)])
        holder.kill()
    assert not (tmp_path / "b/checkpoint.pt").exists()


def test_of_an_imported_run_there_is_no_training_to_take(stages, tmp_path):
    (tmp_path / "a/model").mkdir(parents=True)
    sweep._take_training(Run("a"), Run("b"))
    assert not (tmp_path / "b").exists()


def test_a_training_that_is_there_is_not_overwritten(stages, tmp_path):
    a, b = Params(run="a"), Params(run="b", guidance_scale=1.0)
    (tmp_path / "b/model").mkdir(parents=True)
    (tmp_path / "b/model/weights").write_text("older")
    write_checkpoint(tmp_path / "b/checkpoint.pt", b, {"images": 8, "labels": "", "pixels": ""},
                     1, {})
    sweep.run_sweep([a, b])
    assert ("b", 0, "analyse", True) in stages
    assert (tmp_path / "b/model/weights").read_text() == "older"
