import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from cddpm_core import standin, sweep
from cddpm_core.__main__ import _parser
from cddpm_core.evaluation import get_evaluator
from cddpm_core.params import DATA_KEYS, TRAIN_KEYS, Params, resolve
from cddpm_core.pipeline import EXPERIMENTS
from cddpm_core.presets import read_yaml
from cddpm_core.runs import OUTPUTS, Run
from cddpm_core.trainer import read_checkpoint

ABLATIONS = sorted((ROOT / "params/ablations").glob("*.yaml"))
QUICK = resolve(read_yaml(ROOT / "params/quick.yaml"))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_changes_what_its_file_says(path):
    values = read_yaml(path)
    changed = resolve(values, str(path)).to_dict()
    differing = {key for key, value in QUICK.to_dict().items() if changed[key] != value}
    assert differing == set(values) and len(differing) <= 3
    assert bool(differing) == (path.stem != "recipe")
    assert path.read_text().startswith("# quick, ")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_is_one_of_the_run_quick_without_training_it_anew(name):
    changed = resolve(read_yaml(ROOT / f"params/experiments/{name}.yaml"))
    assert (changed.run, changed.experiments) == ("quick", [name])
    assert all(getattr(changed, key) == getattr(QUICK, key) for key in (*TRAIN_KEYS, *DATA_KEYS))
    assert changed.epochs == QUICK.epochs


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """What `run_sweep` asks the pipeline for, each training leaving a checkpoint."""
    monkeypatch.setenv(OUTPUTS, str(tmp_path))
    asked = []

    def run_stages(names, params):
        run = Run(params.run)
        asked.append((params.run, params.seed, names[-1], (run / "checkpoint.pt").exists()))
        (run / "model").mkdir(parents=True, exist_ok=True)
        if not (run / "history.jsonl").exists():
            lines = ['{"step": 1, "loss": 0.5}', '{"step": 1, "test": {}}', ""]
            (run / "history.jsonl").write_text("\n".join(lines))
        if not (run / "checkpoint.pt").exists():
            (run / "checkpoint.pt").write_text(params.run)
            (run / "model/weights").write_text(params.run)
        return run

    monkeypatch.setattr(sweep, "run_stages", run_stages)
    return asked


def test_each_preset_runs_with_each_seed_and_the_first_is_reported(stages, tmp_path):
    presets = [Params(run="a"), Params(run="b", guidance_scale=1.0), Params(run="c", epochs=9)]
    assert sweep.run_sweep(presets, [0, 4]).name == "a"
    assert stages == [("a", 0, "evaluate", False), ("a_seed4", 4, "evaluate", False),
                      # Sampled otherwise only: the training is that of a.
                      ("b", 0, "evaluate", True), ("b_seed4", 4, "evaluate", True),
                      ("c", 0, "evaluate", False), ("c_seed4", 4, "evaluate", False),
                      ("a", 0, "report", True)]
    assert (tmp_path / "b_seed4/model/weights").read_text() == "a_seed4"
    # Accuracies along the way were of the other sampling.
    assert Run("b").history() == [{"step": 1, "loss": 0.5}]


def test_the_command_takes_several_files_and_seeds():
    options = _parser().parse_args(["sweep", "a.yaml", "b.yaml", "--seeds", "0", "3"])
    assert (options.files, options.seeds) == (["a.yaml", "b.yaml"], [0, 3])


def test_a_training_that_is_there_is_not_overwritten(stages, tmp_path):
    presets = [Params(run="a"), Params(run="b", guidance_scale=1.0)]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/checkpoint.pt").write_text("older")
    sweep.run_sweep(presets)
    assert ("b", 0, "evaluate", True) in stages
    assert (tmp_path / "b/checkpoint.pt").read_text() == "older"


def test_presets_and_seeds_end_in_one_report(tmp_path, monkeypatch):
    """The command itself, at a size below smoke; plain differs from other in sampling alone."""
    smoke = (ROOT / "params/smoke.yaml").read_text()
    other, plain = tmp_path / "other.yaml", tmp_path / "plain.yaml"
    other.write_text(smoke.replace("\nseed: 0", "\nseed: 3"))
    plain.write_text(other.read_text().replace("guidance_scale: 4.0", "guidance_scale: 1.0"))
    small = {"num_scenes": 8, "heldout_scenes": 4, "evaluator_images": 64, "evaluator_epochs": 1,
             "epochs": 2, "experiment_epochs": 0, "num_inference_steps": 2, "image_size": 64,
             "candidates": 1, "experiments": "[]"}
    # An evaluator whose held-out accuracies are those of few images, to save half a minute.
    monkeypatch.setattr(standin, "HELDOUT_IMAGES", 20)
    get_evaluator(Params(**small | {"experiments": []}), Run("smoke", outputs=tmp_path))
    changes = [word for key, value in small.items() for word in ("-p", key, str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "cddpm_core", "sweep", "params/smoke.yaml", other, plain,
         *changes], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, OUTPUTS: str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "run 2 of 3: other" in done.stdout
    shared, own = (read_checkpoint(tmp_path / name / "checkpoint.pt")["model"]
                   for name in ("plain", "other"))
    assert all(torch.equal(shared[key], own[key]) for key in own)
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text())
               for name in ("smoke", "other")]
    text = (tmp_path / "smoke/report.html").read_text()
    mean = sum(m["test"]["micro"] for m in metrics) / 2
    assert "guidance_scale" in text and f"{mean:.3f} ±" in text and "Over 2 seeds (0 and 3)" in text
