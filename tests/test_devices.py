import subprocess
import sys
import time

import psutil
import pytest
import torch
from conftest import ROOT

from cddpm_core import devices, evaluation, standin
from cddpm_core.devices import arithmetic_of, computes_bf16, device_of, launch
from cddpm_core.errors import UserError
from cddpm_core.presets import to_yaml
from cddpm_core.runs import Run
from cddpm_core.sampling import autocast
from cddpm_core.sources import data_source


def test_device_that_is_not_there_is_one_sentence(tiny):
    assert device_of(tiny) == torch.device("cpu")
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    assert device_of(tiny.replace(device="auto")).type == (best.type if best else "cpu")
    absent = next(kind for kind in ("mps", "cuda") if best is None or best.type != kind)
    with pytest.raises(UserError, match=f"device: '{absent}' is not there"):
        device_of(tiny.replace(device=absent))


def test_bf16_is_left_where_it_is_only_imitated(monkeypatch):
    assert computes_bf16("mps")
    for there in (True, False):
        monkeypatch.setattr(devices, "computes_bf16", lambda device, there=there: there)
        assert arithmetic_of("bf16", "cpu") == ("bfloat16" if there else "float32")
        assert arithmetic_of("no", "cpu") == "float32"
        with autocast("cpu", "bf16"):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype is (torch.bfloat16 if there else torch.float32)


@pytest.fixture
def two(tiny, tmp_path, monkeypatch):
    """A run for two processes, with its data and evaluator."""
    monkeypatch.setattr(standin, "HELDOUT_IMAGES", 20)
    monkeypatch.setenv("CDDPM_OUTPUTS", str(tmp_path))
    params = tiny.replace(run="two", num_scenes=6, heldout_scenes=1, evaluator_images=64,
                          evaluator_epochs=1, num_processes=2)
    run = Run("two")
    data_source(params, run)
    evaluation.get_evaluator(params, run)
    return run, params


def test_launched_processes_train_the_run_and_a_fault_is_their_sentence(two, capsys):
    run, params = two
    result = launch(run, params)
    assert result["finished"] and result["steps"] == 5
    assert "training: 100%" in capsys.readouterr().err
    with pytest.raises(UserError, match="checkpoint of another configuration, batch_size is 8 "
                                        "there and 4 here"):
        launch(run, params.replace(batch_size=4))
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="a child hears of its parent's death on Linux")
def test_launched_processes_end_with_the_one_that_launched_them(two, tmp_path):
    run, params = two
    (tmp_path / "long.yaml").write_text(to_yaml(params.replace(epochs=10_000)))
    code = ("import sys\nfrom cddpm_core.devices import launch\n"
            "from cddpm_core.params import resolve\nfrom cddpm_core.presets import read_yaml\n"
            "from cddpm_core.runs import Run\n"
            "launch(Run('two'), resolve(read_yaml(sys.argv[1])))")
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "long.yaml")], cwd=ROOT,
                              stderr=subprocess.DEVNULL)
    for _ in range(240):
        if run.history():
            break
        time.sleep(0.5)
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) >= 3  # the launcher and two processes
    parent.kill()
    parent.wait()
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
