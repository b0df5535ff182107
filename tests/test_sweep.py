import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from cddpm_core import sweep
from cddpm_core.params import Params, read_yaml, resolve
from cddpm_core.pipeline import with_needs
from cddpm_core.runs import OUTPUTS, Run

ABLATIONS = sorted((ROOT / "params/ablations").glob("*.yaml"))
QUICK = resolve(read_yaml(ROOT / "params/quick.yaml"))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_changes_what_its_file_says(path):
    values = read_yaml(path)
    changed = resolve(values, str(path)).to_dict()
    differing = {key for key, value in QUICK.to_dict().items() if changed[key] != value}
    assert differing == set(values) and 1 <= len(differing) <= 3
    assert path.read_text().startswith("# quick, ")


@pytest.fixture
def stages(monkeypatch, tmp_path):
    """What `run_sweep` asks the pipeline for, each training leaving a checkpoint."""
    monkeypatch.setenv(OUTPUTS, str(tmp_path))
    asked = []

    def run_stages(names, params):
        run = Run(params.run)
        asked.append((params.run, params.seed, names[-1], (run / "checkpoint.pt").exists()))
        (run / "model").mkdir(parents=True, exist_ok=True)
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


def test_a_training_that_is_there_is_not_overwritten(stages, tmp_path):
    presets = [Params(run="a"), Params(run="b", guidance_scale=1.0)]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/checkpoint.pt").write_text("older")
    sweep.run_sweep(presets)
    assert ("b", 0, "evaluate", True) in stages and not (tmp_path / "a/history.jsonl").exists()
    assert with_needs("evaluate")[-1] == "evaluate"


def test_two_seeds_end_in_one_report(tmp_path):
    """The command itself, at a size below smoke."""
    small = {"num_scenes": 8, "heldout_scenes": 4, "evaluator_images": 64, "evaluator_epochs": 1,
             "epochs": 1, "experiment_epochs": 0, "num_inference_steps": 2, "image_size": 64}
    changes = [word for key, value in small.items() for word in ("-p", key, str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "cddpm_core", "sweep", "params/smoke.yaml", "--seeds", "0", "3",
         *changes], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, OUTPUTS: str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "run 2 of 2: smoke_seed3" in done.stdout
    metrics = [json.loads((tmp_path / name / "metrics.json").read_text())
               for name in ("smoke", "smoke_seed3")]
    text = (tmp_path / "smoke/report.html").read_text()
    mean = sum(m["test"]["micro"] for m in metrics) / 2
    assert f"{mean:.3f} ±" in text and "Over 2 seeds (0 and 3)" in text
