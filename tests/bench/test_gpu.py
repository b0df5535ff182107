import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from cddpm_core.bench import gpu
from cddpm_core.report.bench_tables import gpu_table
from cddpm_core.runs.run import OUTPUTS

TINY = {"device": "cpu", "num_scenes": 12, "heldout_scenes": 6, "class_emb_size": 32,
        "layers_per_block": 1, "attention_head_dim": 8, "batch_size": 8, "epochs": 1000,
        "num_train_timesteps": 4, "num_inference_steps": 4, "analysis_images": 6,
        "blocks": [0, 1], "channels": [1, 2], "patch_size": 8, "transformer_blocks": 1}


WITHOUT = ("papermill", "ipykernel", "matplotlib", "nbconvert", "nbformat", "jupyterlab",
           "jupyter_client", "ipywidgets", "traitlets", "typst", "pypandoc", "pandocfilters",
           "fontTools")
SCRIPT = f"""
import json, sys
for name in {WITHOUT}:
    sys.modules[name] = None  # as if it were not installed
from cddpm_core.__main__ import commands
from cddpm_core.bench.gpu import run_gpu_bench
for part in ("seed", "full"):
    run_gpu_bench([part], minutes=0.02, seconds=0.01, changes=json.loads(sys.argv[1]))
"""


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """What both parts give where no tool of the report is installed."""
    monkeypatch.setenv(OUTPUTS, str(tmp_path))
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(TINY)], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((tmp_path / "bench/gpu.json").read_text())


def test_both_presets_are_measured_and_the_parts_are_kept(measured):
    assert measured["card"] == "CPU" and measured["matrix_flops_per_second"]["float32"] > 0
    seed, full = measured["seed"], measured["full"]
    assert seed["ratio"] == pytest.approx(
        seed["ours"]["images_per_second"] / seed["plain_loop"]["images_per_second"])
    for speed in (seed["ours"], full["speed"]):
        assert speed["projected_minutes"] == pytest.approx(
            speed["images"] / speed["images_per_second"] / 60)
        assert speed["flops_per_second"] > 0 and not speed["compiled"]
    assert full["trained"]["steps"] > 0
    assert full["sampling"]["images_per_second"] == pytest.approx(
        64 / full["sampling"]["seconds_of_64"])
    assert full["micro"].keys() == {"test", "new_test"}
    assert full["fidelity"]["images"] == 6 and full["fidelity"]["sharpness"] > 0
    text = gpu_table(measured)
    assert "on CPU" in text and f"full: micro on test | {full['micro']['test']:.3f}" in text
    assert gpu_table({key: measured[key] for key in ("card", "torch", "matrix_flops_per_second")})


def test_the_tests_of_gpus_are_a_part(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path))
    found = json.loads(gpu.run_gpu_bench(["tests"], changes=TINY).read_text())["tests"]
    assert found["exit_code"] == 0
    assert ("passed" if torch.cuda.is_available() else "skipped") in found["printed"]


def test_what_another_card_measured_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path))
    monkeypatch.setitem(gpu.GPU_PARTS, "tests", lambda *given: {"printed": "1 passed"})
    (tmp_path / "bench").mkdir()
    for card, kept in (("CPU", True), ("H100", False)):
        (tmp_path / "bench/gpu.json").write_text(json.dumps(
            {"card": card, "torch": torch.__version__, "seed": {"ratio": 2}}))
        found = json.loads(gpu.run_gpu_bench(["tests"], changes=TINY).read_text())
        assert ("seed" in found) == kept and found["card"] == "CPU"
