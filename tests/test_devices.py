import pytest
import torch

from cddpm_core import evaluation, standin
from cddpm_core.data import data_source
from cddpm_core.devices import device_of, launch
from cddpm_core.errors import UserError
from cddpm_core.runs import Run


def test_device_that_is_not_there_is_one_sentence(tiny):
    assert device_of(tiny) == torch.device("cpu")
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    assert device_of(tiny.replace(device="auto")).type == (best.type if best else "cpu")
    absent = next(kind for kind in ("mps", "cuda") if best is None or best.type != kind)
    with pytest.raises(UserError, match=f"device: '{absent}' is not there"):
        device_of(tiny.replace(device=absent))


def test_launched_processes_train_the_run_and_a_fault_is_their_sentence(tiny, tmp_path, capsys,
                                                                        monkeypatch):
    monkeypatch.setattr(standin, "HELDOUT_IMAGES", 20)
    monkeypatch.setenv("CDDPM_OUTPUTS", str(tmp_path))
    params = tiny.replace(run="two", num_scenes=6, heldout_scenes=1, evaluator_images=64,
                          evaluator_epochs=1, num_processes=2)
    run = Run("two")
    data_source(params, run)
    evaluation.get_evaluator(params, run)
    result = launch(run, params)
    assert result["finished"] and result["steps"] == 5
    assert "training: 100%" in capsys.readouterr().out
    with pytest.raises(UserError, match="checkpoint of another configuration, batch_size is 8 "
                                        "there and 4 here"):
        launch(run, params.replace(batch_size=4))
    assert "Traceback" not in capsys.readouterr().out
