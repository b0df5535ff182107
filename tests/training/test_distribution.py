import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.data.dataset import ConditionDataset
from cddpm_core.sampling.pipeline import load_pipeline
from cddpm_core.sampling.sample import image_seeds, sample
from cddpm_core.training import distribution
from cddpm_core.training.checkpoint import read_checkpoint
from cddpm_core.training.distribution import accelerator_of, check_devices, process_slice
from cddpm_core.training.history import read_history
from cddpm_core.training.loop import train
from cddpm_core.training.state import Counters

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from accelerate import debug_launcher
from cddpm_core import ConditionDataset, IclevrDataset, Params, image_seeds, load_pipeline, sample
from cddpm_core.training.distribution import accelerator_of
from cddpm_core.training.loop import train

def main(params, folder):
    accelerator = accelerator_of(params)
    assert accelerator.num_processes == 2
    train(params, IclevrDataset(params.data), folder, accelerator=accelerator)
    for count in (7, 1):
        images = sample(load_pipeline(folder / "model"), ConditionDataset("test").labels[:count],
                        image_seeds(0, count), sampler="sde_dpm_solver++", num_inference_steps=5,
                        batch_size=3, accelerator=accelerator)
        if accelerator.is_main_process:
            torch.save(images, folder / f"{count}.pt")
    accelerator.end_training()

# Forks, which takes less time than two processes that each import torch.
debug_launcher(main, (Params(**json.loads(sys.argv[1])), Path(sys.argv[2])), num_processes=2)
"""


@pytest.mark.parametrize("first", [True, False])
def test_only_the_process_that_writes_waits_for_the_device_to_do_so(tiny, dataset, tmp_path,
                                                                    monkeypatch, first):
    read, waits = Counters.read, []
    monkeypatch.setattr(Counters, "read", lambda self: waits.append(self.step) or read(self))
    accelerator = SimpleNamespace(is_main_process=first, num_processes=1, process_index=0,
                                  device=torch.device("cpu"), wait_for_everyone=lambda: None)
    train(tiny.replace(checkpoint_minutes=0), dataset, tmp_path, accelerator=accelerator)
    assert waits == ([*range(1, 10), 9] if first else [9, 9])


def test_two_processes_train_and_sample_as_one_does(tiny, dataset, rendered, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    params = tiny.replace(data=str(rendered), muon_learning_rate=0.002, epochs=3)
    train(params, dataset, one)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"),
         json.dumps(params.replace(max_steps=9).to_dict()), str(two)],
        cwd=ROOT, text=True, capture_output=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training:   0%") == 1  # one progress bar, of the first process
    for count in (7, 1):
        found = torch.load(two / f"{count}.pt", weights_only=True)
        expected = sample(load_pipeline(two / "model"), ConditionDataset("test").labels[:count],
                          image_seeds(0, count), sampler="sde_dpm_solver++",
                          num_inference_steps=5, batch_size=3)
        assert found.shape == (count, 3, 64, 64)
        assert torch.allclose(found, expected, atol=1e-4)
    # One process may continue what two began.
    assert train(params.replace(gradient_accumulation_steps=3), dataset, two)["steps"] == 14
    a, b = (read_checkpoint(folder / "checkpoint.pt") for folder in (one, two))
    assert a["step"] == b["step"] == 14
    weights, others = a["parts"]["model"], b["parts"]["model"]
    moved = sum((weights[key] - others[key]).norm() for key in weights)
    assert moved < 1e-4 * sum(weight.norm() for weight in weights.values())
    losses = [[line["loss"] for line in read_history(folder)] for folder in (one, two)]
    assert losses[0][-1] == pytest.approx((9 * losses[1][0] + 5 * losses[1][1]) / 14, rel=1e-3)


@given(st.integers(0, 100), st.integers(1, 9))
def test_processes_have_all_items_once_in_nearly_equal_parts(count, processes):
    parts = [range(count)[process_slice(SimpleNamespace(process_index=i, num_processes=processes),
                                        count)] for i in range(processes)]
    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert process_slice(None, count) == slice(0, count)


def test_one_process_needs_no_launcher(tiny):
    accelerator = accelerator_of(tiny)
    assert accelerator.num_processes == 1 and accelerator.device.type == "cpu"


def test_more_processes_than_images_in_a_step_are_one_sentence(tiny, monkeypatch):
    monkeypatch.setattr(distribution, "Accelerator",
                        lambda **_: SimpleNamespace(num_processes=9))
    with pytest.raises(UserError, match="at least one image for each of the 9 processes, found 8"):
        accelerator_of(tiny)
    accelerator_of(tiny.replace(batch_size=9))


def test_more_processes_than_devices_are_one_sentence(tiny, monkeypatch):
    check_devices(tiny, 16)  # processes may share a CPU
    monkeypatch.setattr(distribution, "device_of", lambda params: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    check_devices(tiny, 2)
    with pytest.raises(UserError, match="num_processes: 3 on this machine, which has 2 cuda devic"):
        check_devices(tiny, 3)


def test_the_configuration_of_accelerate_changes_nothing():
    """As ``accelerate launch`` sets it after its own questions, or a user."""
    code = ("from cddpm_core.config.schema import Params\n"
            "from cddpm_core.training.distribution import accelerator_of\n"
            "a = accelerator_of(Params(device='cpu'))\n"
            "print(a.mixed_precision, a.device, a.gradient_accumulation_steps,"
            " a.state.dynamo_plugin.backend.value, a.distributed_type.value)")
    settings = {"MIXED_PRECISION": "fp16", "USE_DEEPSPEED": "true", "USE_FSDP": "true",
                "USE_MEGATRON_LM": "true", "DYNAMO_BACKEND": "INDUCTOR", "TORCH_DEVICE": "meta",
                "GRADIENT_ACCUMULATION_STEPS": "4"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, **{f"ACCELERATE_{key}": value
                                                for key, value in settings.items()}})
    assert done.stdout == "no cpu 1 NO NO\n", done.stderr
