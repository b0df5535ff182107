import io
import sys

import numpy as np
import pytest
from PIL import Image

from cddpm_core.__main__ import main
from cddpm_core.config.errors import UserError
from cddpm_core.evaluation.evaluator import Evaluator, ResNet18
from cddpm_core.runs.archive import archive_stale_training
from cddpm_core.runs.run import OUTPUTS
from cddpm_core.runs.tracking import tracked
from cddpm_core.runs.train import train_in
from cddpm_core.training.history import append_history


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator(ResNet18(), "stand-in", "0" * 64)


def test_tensorboard_has_numbers_and_images_and_a_resumed_training_goes_on(tiny, dataset, run,
                                                                           evaluator):
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    params = tiny.replace(report_to="tensorboard", epochs=14, evaluate_every=4, layout_choices=1,
                          num_inference_steps=2)
    seen = []
    train_in(run, params.replace(max_steps=40), dataset, evaluator, watch=seen.append)
    with tracked(run, params, None) as watch:  # as if it had been killed after its checkpoint
        append_history(run.folder, {"step": 50, "epoch": 11.1, "loss": 9.0})
        watch(run.folder)
    train_in(run, params, dataset, evaluator, watch=seen.append)
    history = run.history()
    assert seen == [run.folder] * len(history)
    found = EventAccumulator(str(run / "tensorboard")).Reload()
    for name in ("loss", "learning_rate", "images_per_second", "seconds"):
        events = [(event.step, event.value) for event in found.Scalars(name)]
        wanted = [(line["step"], line[name]) for line in history if name in line]
        assert [step for step, _ in events] == [step for step, _ in wanted]
        assert [v for _, v in events] == pytest.approx([v for _, v in wanted])
    assert [line["step"] for line in history if "loss" in line] == [25, 40, 50, 63]
    scored = [line for line in history if "test" in line]
    assert [event.value for event in found.Scalars("test/micro")] == pytest.approx(
        [line["test"]["micro"] for line in scored])
    images = found.Images("test")
    assert [image.step for image in images] == [line["step"] for line in scored] == [18, 36, 54]
    grid = np.asarray(Image.open(run / "figures/progress/epoch_004.png"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(images[0].encoded_image_string))), grid)
    archive_stale_training(run, params, force=True)
    assert not (run / "tensorboard").exists()  # the next training has a log of its own


def test_by_default_nothing_is_sent_and_no_log_is_written(tiny, dataset, run, evaluator):
    train_in(run, tiny, dataset, evaluator)
    assert not [path for path in run.folder.rglob("*")
                if "tfevents" in path.name or path.name in ("tensorboard", "wandb")]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_tracker_that_is_not_installed_is_one_sentence_before_anything_is_done(
        name, tiny, dataset, run, evaluator, monkeypatch, capsys):
    monkeypatch.setenv(OUTPUTS, str(run.outputs))
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=f"the package {name} is not installed, .*install -e"):
        train_in(run, tiny.replace(report_to=name), dataset, evaluator)
    for command in ("train", "report"):
        assert main([command, "-p", "report_to", name]) == 2
        assert capsys.readouterr().err.startswith(f"Error: report_to: the package {name} is not")
    assert not list(run.outputs.rglob("history.jsonl")) and not run.cache.exists()


def test_wandb_without_a_network_keeps_its_files_and_its_id(tiny, dataset, run, evaluator,
                                                            monkeypatch):
    pytest.importorskip("wandb", reason="the package wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    params = tiny.replace(report_to="wandb")
    train_in(run, params.replace(max_steps=4), dataset, evaluator)
    train_in(run, params, dataset, evaluator)
    logs = list((run / "wandb").glob("offline-run-*"))
    assert {path.name.rsplit("-", 1)[1] for path in logs} == {(run / "wandb/id").read_text()}
    assert len(logs) == 2 and all(list(path.glob("*.wandb")) for path in logs)
