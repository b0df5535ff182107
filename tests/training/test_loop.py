import json
import math

import numpy as np
import pytest
import torch
from conftest import same
from hypothesis import given, settings
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.sampling.pipeline import load_pipeline
from cddpm_core.scheduler.loss_weight import loss_weight
from cddpm_core.training.checkpoint import read_checkpoint
from cddpm_core.training.history import read_history
from cddpm_core.training.loop import raw_pipeline, result_at, train, weights_at
from cddpm_core.training.trainer import Trainer


def state_of(folder) -> dict:
    """All of a checkpoint but the time it took."""
    state = read_checkpoint(folder / "checkpoint.pt")
    state["parts"]["counters"].pop("seconds")
    return state


def step_of(folder) -> int:
    return read_checkpoint(folder / "checkpoint.pt")["step"]


@pytest.fixture(scope="module")
def trained(tiny, dataset, tmp_path_factory):
    """The folder of a training that never stopped; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    assert train(tiny, dataset, folder)["finished"]
    return folder


def test_training_is_a_function_of_the_seed(tiny, dataset, trained, tmp_path):
    torch.manual_seed(2)
    before = torch.get_rng_state()
    train(tiny, dataset, tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), before)
    assert same(state_of(trained), state_of(tmp_path / "again"))
    train(tiny.replace(seed=1), dataset, tmp_path / "other")
    assert not same(state_of(trained)["parts"]["model"],
                    state_of(tmp_path / "other")["parts"]["model"])


@pytest.mark.parametrize("changes", [
    {"optimizer": "adam", "ema_decay": 0, "lr_schedule": "cosine"},
    {"mixed_precision": "bf16", "loss_weighting": "min_snr", "layout": False},
    {"standardise": False, "prediction_type": "epsilon", "loss_weighting": "uniform",
     "timestep_sampling": "uniform", "conditioning": "class_embedding"},
], ids=lambda changes: "-".join(map(str, changes.values())))
def test_a_resumed_training_is_the_one_that_never_stopped(tiny, dataset, tmp_path, changes):
    params, one, other = tiny.replace(**changes), tmp_path / "one", tmp_path / "other"
    done = train(params, dataset, one)
    assert done["finished"] and done["steps"] == 9
    part = train(params.replace(max_steps=4), dataset, other)
    assert not part["finished"] and part["steps"] == 4
    assert train(params, dataset, other)["finished"]
    assert same(state_of(one), state_of(other))
    first, second = (dict(load_pipeline(folder / "model").unet.state_dict())
                     for folder in (one, other))
    assert same(first, second)


@given(st.lists(st.integers(1, 9), max_size=3))
@settings(max_examples=3)
def test_training_may_stop_anywhere_and_often(tiny, dataset, trained, tmp_path_factory, stops):
    folder = tmp_path_factory.mktemp("stops")
    for stop in [*stops, 0]:
        train(tiny.replace(max_steps=stop), dataset, folder)
    assert same(state_of(trained), state_of(folder))
    steps = [line["step"] for line in read_history(folder)]
    assert steps == sorted(set(steps)) and steps[-1] == 9


def test_a_batch_may_be_larger_than_the_set(tiny, dataset, tmp_path):
    assert train(tiny.replace(batch_size=80, epochs=1), dataset, tmp_path)["finished"]


def test_the_history_has_neither_gaps_nor_repeated_lines(tiny, dataset, tmp_path):
    calls, watched = [], []

    def evaluate(pipeline, name):
        calls.append(name)
        assert not pipeline.unet.training
        return {"test": {"micro": 0.5}}

    options = {"evaluate": evaluate, "watch": lambda folder: watched.append(len(
        read_history(folder)))}
    params = tiny.replace(epochs=14, evaluate_every=4)
    train(params.replace(max_steps=40), dataset, tmp_path, **options)
    # As if it had been killed later on, after lines that no checkpoint holds.
    with open(tmp_path / "history.jsonl", "a") as file:
        file.write(json.dumps({"step": 50, "loss": 9.0}) + "\n")
        file.write(json.dumps({"step": 54, "test": {}}) + "\n" + '{"step": 58, "lo')
    done = train(params, dataset, tmp_path, **options)
    lines = read_history(tmp_path)
    losses = [line["step"] for line in lines if "loss" in line]
    assert losses == [25, 40, 50, 63] and 9.0 not in [line.get("loss") for line in lines]
    assert [line["step"] for line in lines if "test" in line] == [18, 36, 54]
    assert calls == ["epoch_004", "epoch_008", "epoch_012"]
    assert watched == list(range(1, len(lines) + 1))
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    mean = np.mean([line["loss"] for line in lines if "loss" in line])
    assert done["loss"] == pytest.approx(mean)
    for line in lines:
        assert line["epoch"] == pytest.approx(line["step"] * 8 / 36, abs=1e-3)
        assert line.get("images", line["step"] * 8) == line["step"] * 8
        assert "test" in line or line["images_per_second"] > 0
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    early = result_at(tmp_path, 40, params)
    assert (early["steps"], early["images"]) == (40, 320)
    assert early["loss"] == pytest.approx(np.mean([line["loss"] for line in lines
                                                   if "loss" in line and line["step"] <= 40]))


def test_a_finished_training_ends_at_once_and_more_epochs_continue_it(tiny, dataset, tmp_path):
    first = train(tiny, dataset, tmp_path)
    before, history = state_of(tmp_path), read_history(tmp_path)
    second = train(tiny, dataset, tmp_path)
    assert same(before, state_of(tmp_path)) and read_history(tmp_path) == history
    assert second["finished"] and second["loss"] == first["loss"]
    with pytest.raises(UserError, match="checkpoint of step 9, beyond the 5 that epochs 1 asks"):
        train(tiny.replace(epochs=1), dataset, tmp_path)
    done = train(tiny.replace(epochs=3), dataset, tmp_path)
    assert done["steps"] == 14 and done["finished"]
    assert [line["step"] for line in read_history(tmp_path)] == [9, 14]
    (tmp_path / "checkpoint.pt").unlink()  # a history without a checkpoint begins anew
    train(tiny, dataset, tmp_path)
    assert [line["step"] for line in read_history(tmp_path)] == [9]


@pytest.mark.parametrize("changes", [{"learning_rate": 0.5}, {"batch_size": 4}])
def test_a_checkpoint_of_another_training_is_refused(tiny, dataset, trained, changes):
    with pytest.raises(UserError, match=f"another configuration, {next(iter(changes))} is"):
        train(tiny.replace(**changes), dataset, trained)


class Killed(BaseException):
    pass


def test_a_killed_training_continues_from_its_checkpoint(tiny, dataset, trained, tmp_path):
    def die(*_):
        assert step_of(tmp_path) == 4
        raise Killed

    params = tiny.replace(checkpoint_minutes=0, evaluate_every=1)
    with pytest.raises(Killed):
        train(params, dataset, tmp_path, evaluate=die)
    train(params, dataset, tmp_path)
    assert same(state_of(trained), state_of(tmp_path))


def test_a_training_killed_between_two_lines_has_the_same_history(tiny, dataset, trained,
                                                                  tmp_path, monkeypatch):
    update = Trainer.update

    def stopped(trainer):
        if trainer.step == 5:
            raise Killed
        return update(trainer)

    params = tiny.replace(checkpoint_minutes=0)
    monkeypatch.setattr(Trainer, "update", stopped)
    with pytest.raises(Killed):
        train(params, dataset, tmp_path)
    monkeypatch.undo()
    train(params, dataset, tmp_path)
    timed = ("seconds", "images_per_second")
    one, two = ([{k: v for k, v in line.items() if k not in timed} for line in read_history(folder)]
                for folder in (trained, tmp_path))
    assert one == two and len(one) == 1


@pytest.mark.parametrize("ema", [0.9, 0.0])
def test_the_saved_pipeline_has_the_averaged_weights(tiny, dataset, tmp_path, ema):
    params = tiny.replace(ema_decay=ema, muon_learning_rate=0.1)
    result = train(params, dataset, tmp_path)
    parts = read_checkpoint(tmp_path / "checkpoint.pt")["parts"]
    pipeline = load_pipeline(tmp_path / "model")
    names = [name for name, _ in pipeline.unet.named_parameters()]
    averaged = ([parts["ema"]["model"][n] for n in names] if ema else
                [parts["model"][n] for n in names])
    for weight, expected in zip(pipeline.unet.parameters(), averaged, strict=True):
        assert torch.equal(weight, expected)
    raw = raw_pipeline(tmp_path, params)
    assert (raw is None) == (ema == 0)
    if raw is not None:
        assert same(dict(raw.unet.state_dict()), dict(parts["model"]))
        assert not same(dict(raw.unet.state_dict()), dict(pipeline.unet.state_dict()))
        train(params.replace(epochs=3, max_steps=11), dataset, tmp_path)
        with open(tmp_path / "history.jsonl", "a") as file:
            file.write('{"step": 13, "loss": 1}\n')
        assert raw_pipeline(tmp_path, params) is None  # the checkpoint is an earlier one
    assert torch.equal(pipeline.codec.mean, dataset.mean())
    assert result["layouts"] == 12
    assert result["parameters"] == sum(w.numel() for w in pipeline.unet.parameters())


def test_skipped_steps_are_in_history_and_result(tiny, dataset, trained, tmp_path, poison):
    poison.update({0, 4, 8})
    result = train(tiny, dataset, tmp_path)
    assert result["skipped"] == 3 and result["finished"] and math.isfinite(result["loss"])
    assert read_history(tmp_path)[-1]["skipped"] == 3
    assert "skipped" not in read_history(trained)[-1]


@pytest.mark.parametrize("good", [0, 3])
def test_ten_skipped_steps_in_a_row_end_the_training(tiny, dataset, tmp_path, poison, good):
    poison.update(range(good, 99))
    params = tiny.replace(epochs=9, checkpoint_minutes=0)
    with pytest.raises(UserError, match="10 steps in a row without a finite loss and gradient, up "
                                        f"to step {good + 10}; lower learning_rate") as error:
        train(params, dataset, tmp_path)
    if good:
        path = tmp_path / "checkpoint.pt"
        assert f"The last good checkpoint is {path}" in str(error.value)
        assert step_of(tmp_path) == good
    else:
        assert "There is no checkpoint yet" in str(error.value)


def test_a_learning_rate_that_is_far_too_high_is_one_sentence(tiny, dataset, tmp_path):
    params = tiny.replace(optimizer="adam", learning_rate=1000, lr_warmup_steps=0, epochs=40)
    with pytest.raises(UserError, match="without a finite loss and gradient"):
        train(params, dataset, tmp_path)
    assert all(math.isfinite(line["loss"]) for line in read_history(tmp_path))


@pytest.mark.parametrize("weighting", ["balanced", "min_snr"])
def test_weights_are_those_of_the_loss_at_the_end(tiny, dataset, tmp_path, weighting):
    params, t = tiny.replace(loss_weighting=weighting), torch.arange(tiny.num_train_timesteps)
    train(params, dataset, tmp_path)
    trainer = Trainer(params, dataset)
    trainer.load(tmp_path / "checkpoint.pt")
    wanted = (trainer.balance.weight(t) if weighting == "balanced" else
              loss_weight(trainer.scheduler, t, weighting, params.loss_weight_max))
    found = weights_at(tmp_path, params, trainer.scheduler, t)
    assert torch.equal(found, wanted) and found.unique().numel() > 1
