import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cddpm_core.errors import UserError
from cddpm_core.params import resolve
from cddpm_core.pipeline import _set_other_training_aside
from cddpm_core.presets import read_yaml
from cddpm_core.runs import Run
from cddpm_core.sampling import sample
from cddpm_core.trainer import Trainer, read_checkpoint
from cddpm_core.training import load_trained, train


def weights_of(run) -> dict[str, torch.Tensor]:
    return read_checkpoint(run / "checkpoint.pt")["model"]


def state_of(run) -> dict:
    """All of a checkpoint but the time it took."""
    state = read_checkpoint(run / "checkpoint.pt")
    state.pop("seconds")
    return state


@pytest.fixture
def again(tmp_path):
    return Run("again", outputs=tmp_path)


def test_training_twice_gives_the_same_weights(tiny, dataset, run, again):
    torch.manual_seed(1)
    train(tiny, dataset, run)
    torch.manual_seed(2)
    train(tiny, dataset, again)
    assert same(state_of(run), state_of(again))
    other = Run("other", outputs=run.outputs)
    train(tiny.replace(seed=1), dataset, other)
    assert not same(weights_of(run), weights_of(other))


def test_training_leaves_the_global_generator(tiny, dataset, run):
    before = torch.get_rng_state()
    train(tiny.replace(max_steps=2), dataset, run)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("changes", [
    {"optimizer": "muon"}, {"optimizer": "adam", "ema_decay": 0}, {"optimizer": "adamw"},
    {"optimizer": "muon", "ema_decay": 0, "lr_schedule": "cosine"},
    {"loss_weighting": "balanced"}, {"loss_weighting": "min_snr"},
    {"optimizer": "adam", "standardise": False, "prediction_type": "epsilon",
     "loss_weighting": "uniform",
     "timestep_sampling": "uniform", "conditioning": "class_embedding"},
    {"mixed_precision": "bf16"}, {"backbone": "unet"},
], ids=lambda changes: "-".join(map(str, changes.values())))
def test_resumed_training_is_the_one_that_never_stopped(tiny, dataset, run, again, changes):
    params = tiny.replace(**changes)
    done = train(params, dataset, run)
    assert done["finished"] and done["steps"] == 9
    part = train(params.replace(max_steps=4), dataset, again)
    assert not part["finished"] and part["steps"] == 4
    assert train(params, dataset, again)["finished"]
    assert same(state_of(run), state_of(again))
    first, second = (load_trained(r, params)[0].state_dict() for r in (run, again))
    assert same(dict(first), dict(second))


@given(st.lists(st.integers(1, 9), max_size=3))
@settings(max_examples=4,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_training_may_stop_anywhere_and_often(tiny, dataset, tmp_path_factory, stops):
    folder = tmp_path_factory.mktemp("stops")
    one, many = Run("one", outputs=folder), Run("many", outputs=folder)
    train(tiny, dataset, one)
    for stop in [*stops, 0]:
        train(tiny.replace(max_steps=stop), dataset, many)
    assert same(state_of(one), state_of(many))
    steps = [line["step"] for line in many.history()]
    assert steps == sorted(set(steps)) and steps[-1] == 9


def test_batch_larger_than_the_set(tiny, dataset, run):
    assert train(tiny.replace(batch_size=80, epochs=3), dataset, run)["finished"]


def test_history_has_neither_gap_nor_double(tiny, dataset, run):
    params = tiny.replace(epochs=14, batch_size=8)
    calls = []

    def evaluate(model, scheduler, name):
        calls.append(name)
        assert not model.training
        return {"test": {"micro": 0.5}}

    params = params.replace(evaluate_every=4)
    train(params.replace(max_steps=40), dataset, run, evaluate=evaluate)
    # As if it had been killed later on, after lines that no checkpoint holds.
    with open(run / "history.jsonl", "a") as file:
        file.write(json.dumps({"step": 50, "loss": 9.0}) + "\n")
        file.write(json.dumps({"step": 54, "test": {}}) + "\n")
    done = train(params, dataset, run, evaluate=evaluate)
    lines = run.history()
    losses = [line["step"] for line in lines if "loss" in line]
    assert losses == [25, 40, 50, 63] and 9.0 not in [line.get("loss") for line in lines]
    assert [line["step"] for line in lines if "test" in line] == [18, 36, 54]
    assert calls == ["epoch_004", "epoch_008", "epoch_012"]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert done["loss"] == pytest.approx(np.mean([line["loss"] for line in lines
                                                  if "loss" in line]))
    for line in lines:
        assert line["epoch"] == pytest.approx(line["step"] * 8 / 36, abs=1e-3)
        assert line.get("images", line["step"] * 8) == line["step"] * 8
        assert "test" in line or line["images_per_second"] > 0
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_history_without_a_checkpoint_begins_anew(tiny, dataset, run):
    train(tiny, dataset, run)
    (run / "checkpoint.pt").unlink()
    train(tiny, dataset, run)
    assert [line["step"] for line in run.history()] == [9]


def test_history_torn_while_it_was_written_is_taken_up(tiny, dataset, run):
    train(tiny.replace(max_steps=3), dataset, run)
    with open(run / "history.jsonl", "a") as file:
        file.write('{"step": 7, "lo')
    train(tiny, dataset, run)
    assert [line["step"] for line in run.history()] == [3, 9]


def test_a_finished_training_is_not_taken_further(tiny, dataset, run):
    first = train(tiny, dataset, run)
    before, history = state_of(run), run.history()
    second = train(tiny, dataset, run)
    assert same(before, state_of(run)) and run.history() == history
    assert second["finished"] and second["loss"] == first["loss"]


def test_more_epochs_go_on_from_the_last_step(tiny, dataset, run):
    train(tiny, dataset, run)
    done = train(tiny.replace(epochs=3), dataset, run)
    assert done["steps"] == 14 and done["finished"]
    assert [line["step"] for line in run.history()] == [9, 14]


def test_fewer_epochs_than_were_trained_are_one_sentence(tiny, dataset, run):
    train(tiny, dataset, run)
    with pytest.raises(UserError, match="checkpoint of step 9, beyond the 5 that epochs 1 asks"):
        train(tiny.replace(epochs=1), dataset, run)


def test_checkpoints_are_written_along_the_way(tiny, dataset, run):
    seen = []

    def evaluate(model, scheduler, name):
        seen.append(read_checkpoint(run / "checkpoint.pt")["step"])
        return {}

    train(tiny.replace(checkpoint_minutes=0, evaluate_every=1), dataset, run, evaluate=evaluate)
    assert seen == [4]
    train(tiny.replace(checkpoint_minutes=0), dataset, Run("none", outputs=run.outputs))


def test_a_killed_training_goes_on_from_its_checkpoint(tiny, dataset, run, again):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    params = tiny.replace(checkpoint_minutes=0, evaluate_every=1)
    with pytest.raises(Killed):
        train(params, dataset, run, evaluate=die)
    assert read_checkpoint(run / "checkpoint.pt")["step"] == 4
    train(params, dataset, run)
    train(tiny, dataset, again)
    assert same(state_of(run), state_of(again))


@pytest.mark.parametrize("ema", [0.9, 0.0])
def test_the_saved_model_has_the_averaged_weights(tiny, dataset, run, ema):
    params = tiny.replace(ema_decay=ema, muon_learning_rate=0.1)
    train(params, dataset, run)
    state = read_checkpoint(run / "checkpoint.pt")
    model, scheduler = load_trained(run, params)
    assert not model.training
    names = [name for name, _ in model.named_parameters()]
    averaged = state["ema"]["shadow_params"] if ema else [state["model"][n] for n in names]
    for weight, expected in zip(model.parameters(), averaged, strict=True):
        assert torch.equal(weight, expected)
    differs = any(not torch.equal(w, state["model"][n]) for n, w in model.named_parameters())
    assert differs == bool(ema)
    assert torch.equal(model.pixel_mean, dataset.mean_and_std()[0])
    assert model.pixel_scale == pytest.approx(params.data_scale)
    assert scheduler.config.num_train_timesteps == params.num_train_timesteps
    assert scheduler.config.prediction_type == params.prediction_type
    images = sample(model, scheduler, dataset.labels[:1], [0], sampler="ddim",
                    num_inference_steps=5)
    assert images.shape == (1, 3, 64, 64)


def test_no_trained_model_or_scheduler_is_one_sentence(tiny, dataset, run):
    with pytest.raises(UserError, match="no trained model there, first run the 'train' stage"):
        load_trained(run, tiny)
    train(tiny.replace(max_steps=1), dataset, run)
    for spoil in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        spoil(run / "model/scheduler/scheduler_config.json")
        with pytest.raises(UserError, match="scheduler: not a readable scheduler"):
            load_trained(run, tiny)


def test_skipped_steps_are_counted_in_history_and_result(tiny, dataset, run, again, poison):
    poison.update({0, 4, 8})
    result = train(tiny, dataset, run)
    assert result["skipped"] == 3 and result["finished"] and math.isfinite(result["loss"])
    assert run.history()[-1]["skipped"] == 3
    poison.clear()
    assert train(tiny, dataset, again)["skipped"] == 0 and "skipped" not in again.history()[-1]


@pytest.mark.parametrize("good", [0, 3])
def test_too_many_in_a_row_stop_with_the_last_good_checkpoint_named(tiny, dataset, run, poison,
                                                                    good):
    poison.update(range(good, 99))
    params = tiny.replace(epochs=9, checkpoint_minutes=0)
    with pytest.raises(UserError, match="10 steps in a row without a finite loss and gradient, up "
                                        f"to step {good + 10}; lower learning_rate") as error:
        train(params, dataset, run)
    if good:
        assert f"The last good checkpoint is {run / 'checkpoint.pt'}" in str(error.value)
        assert read_checkpoint(run / "checkpoint.pt")["step"] == good
    else:
        assert "There is no checkpoint yet" in str(error.value)


def test_a_learning_rate_that_is_far_too_high_is_one_sentence(tiny, dataset, run):
    params = tiny.replace(optimizer="adam", learning_rate=1e30, lr_warmup_steps=0, epochs=40)
    with pytest.raises(UserError, match="without a finite loss and gradient"):
        train(params, dataset, run)
    assert all(math.isfinite(line["loss"]) for line in run.history())


def test_a_training_killed_between_two_lines_writes_the_same_history(tiny, dataset, run, again,
                                                                    monkeypatch):
    params = tiny.replace(checkpoint_minutes=0)
    train(params, dataset, run)
    update = Trainer.update

    def stopped(trainer):
        if trainer.step == 5:
            raise KeyboardInterrupt
        return update(trainer)

    monkeypatch.setattr(Trainer, "update", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(params, dataset, again)
    monkeypatch.undo()
    train(params, dataset, again)
    timed = ("seconds", "images_per_second")
    one, two = ([{k: v for k, v in line.items() if k not in timed} for line in r.history()]
                for r in (run, again))
    assert one == two and len(one) == 1


# The networks are the presets' own; a batch is small, for the sake of time and memory.
@pytest.mark.parametrize("preset", ["seed", "tutorial", "best_cpu", "full"])
def test_large_presets_start_run_and_resume(preset, dataset, tmp_path):
    params = resolve({**read_yaml(ROOT / f"params/{preset}.yaml"), "device": "cpu",
                      "batch_size": 1, "max_steps": 1})
    run = Run(preset, outputs=tmp_path)
    try:
        first = train(params, dataset, run)
        assert (first["steps"], first["finished"]) == (1, False)
        second = train(params.replace(max_steps=2), dataset, run)
        assert (second["steps"], second["images"]) == (2, 2)
        assert math.isfinite(second["loss"])
        assert [line["step"] for line in run.history()] == [1, 2]
        model, scheduler = load_trained(run, params)
        assert second["parameters"] == sum(w.numel() for w in model.parameters())
        expected = {"seed": (108, 1000), "tutorial": (1, 1000), "best_cpu": (1, 1000),
                    "full": (48, 1000)}[preset]
        found = second["parameters"] // 10**6, scheduler.config.num_train_timesteps
        assert found == expected
        assert len(scheduler.betas) == params.num_train_timesteps
        seen = read_checkpoint(run / "checkpoint.pt")
        assert seen["step"] == 2
    finally:
        shutil.rmtree(tmp_path)  # gigabytes, which pytest would keep for three runs


@pytest.mark.parametrize(("changes", "kept"), [
    ({}, True), ({"epochs": 3}, True), ({"title": "another"}, True), ({"epochs": 1}, False),
    ({"learning_rate": 0.5}, False), ({"data_seed": 3}, False), ({"num_scenes": 13}, False),
])
def test_a_training_of_other_parameters_is_set_aside(tiny, dataset, run, changes, kept):
    train(tiny, dataset, run)
    # What the run's parameters have become since does not count.
    run.write_params(tiny.replace(epochs=1, num_scenes=99))
    _set_other_training_aside(run, tiny.replace(**changes))
    assert (run / "checkpoint.pt").exists() == (run / "model").exists() == kept
    aside = list(run.folder.glob("previous/*/checkpoint.pt"))
    assert len(aside) == (0 if kept else 1)
    if kept:
        train(tiny.replace(**changes), dataset, run)
    else:
        assert train(tiny.replace(**changes, max_steps=1), dataset, run)["steps"] == 1
