import time

import numpy as np
import pytest

from cddpm_core.bench import race
from cddpm_core.bench.race import run_race, train_for
from cddpm_core.runs.run import Run
from cddpm_core.training.trainer import Trainer


@pytest.fixture
def run(tiny, dataset, tmp_path):
    """A run on a few rendered scenes."""
    run = Run("tiny", outputs=tmp_path)
    run.write_params(tiny.replace(run="tiny", data=str(dataset.files[0].parents[1]),
                                  batch_size=4, num_inference_steps=2))
    return run


@pytest.fixture
def pretend(monkeypatch):
    """Recipes that do nothing: the arguments of each, in order."""
    calls = []

    def work(train, params, folder, single, minutes, conditions):
        calls.append((train, params))
        if train is race._peer:
            raise ImportError("no such name")
        images = np.zeros((len(conditions), 3, 64, 64), np.float32)
        return {"steps": 1, "images": 1, "parameters": 1, "peak_mib": 1.0,
                "expected_sharpness": 2.0, "sampled": [(0.5, [images]), (1.0, [images, images])]}

    monkeypatch.setattr(race, "in_its_own_process", work)
    return calls


def test_training_ends_with_the_time_and_the_learning_rate_with_it(tiny, dataset, monkeypatch):
    params = tiny.replace(batch_size=4, lr_schedule="linear", lr_decay_start=0.0,
                          lr_warmup_steps=0)
    trainer = Trainer(params, dataset)
    rates, real = [], trainer.update

    def update():
        time.sleep(0.02)
        loss = real()
        rates.append(trainer.optimizers[0].param_groups[0]["lr"] / trainer.peaks[0][0])
        return loss

    monkeypatch.setattr(trainer, "update", update)
    looks = []

    def look(spent):
        looks.append(spent)
        time.sleep(1)  # does not count

    started = time.perf_counter()
    train_for(trainer, 2.0, (0.25, 1), look)
    assert time.perf_counter() - started > 4
    assert 0.5 <= looks[0] < 2 <= looks[1] and len(looks) == 2
    assert trainer.step == len(rates) > 5
    # The number of steps is only estimated, and the first one is slow.
    assert max(rates) > 0.5 and rates[-1] < 0.3
    assert trainer.total_steps - trainer.step <= 1


def test_a_recipe_trains_and_samples_single_objects(run):
    params = run.params()
    made = race._ours(params, params.data, True, 0.005, race.SINGLES[:3])
    assert made["images"] == 4 * made["steps"] > 0 and made["parameters"] > 1000
    minutes, sets = zip(*made["sampled"], strict=True)
    assert len(minutes) == len(race.LOOKS) and sorted(minutes) == list(minutes)
    assert minutes[-1] >= 0.005 and all(images.shape == (3, 3, 64, 64) for images, in sets)
    assert made["expected_sharpness"] > 0
    dataset = race._dataset(params, params.data, single=True)
    assert len(dataset) == 12 and all(len(names) == 1 for names in dataset.conditions)


def test_the_peer_trains_and_samples_single_objects(run):
    pytest.importorskip(race.PEER, reason="only make bench installs the peer")
    params = run.params()
    made = race._peer(params, params.data, True, 0.01, race.SINGLES[:3])
    average, last = made["sampled"][-1][1]
    assert average.shape == last.shape == (3, 3, 64, 64) and made["images"] == 16 * made["steps"]


@pytest.fixture
def out(tmp_path):
    return Run("bench", outputs=tmp_path)


def test_every_recipe_is_scored_on_its_conditions(run, out, pretend, monkeypatch):
    monkeypatch.setattr(race, "find_spec", lambda name: None)
    run.write_params(run.params().replace(holdout="test_conditions", seed=7))
    found = run_race(run, out, minutes=1)
    first, second = found["recipe_vs_seed_recipe"], found["against_peer"]
    assert list(first["variants"]) == ["ours", "seed_recipe", "sane_seed_recipe"]
    assert all(variant["objects"] == 156 for variant in first["variants"].values())
    assert second["variants"]["ours"]["objects"] == 48 and "not installed" in second["missing"]
    assert second["chance"] == pytest.approx(1 / 24) and 1 / 24 < first["chance"] < 3 / 24
    for variant in [*first["variants"].values(), *second["variants"].values()]:
        assert 0 <= variant["micro"] <= 1 and "sampled" not in variant
        assert [look["minutes"] for look in variant["looks"]] == [0.5, 1.0]
        assert variant["micro"] == variant["looks"][-1]["micro"] and variant["sharpness"] == 0
    # All see the same images.
    assert {(p.holdout, p.image_size, p.seed) for _, p in pretend} == {("test_conditions", 64, 7)}


def test_a_peer_that_fails_costs_no_other_recipe(run, out, pretend, monkeypatch):
    monkeypatch.setattr(race, "find_spec", lambda name: name)
    found = run_race(run, out, minutes=1)
    assert list(found["against_peer"]["variants"]) == ["ours"] and len(pretend) == 5
    assert "denoising-diffusion-pytorch failed: ImportError: no such name" in (
        found["against_peer"]["missing"])
    assert out.read("race.json") == found


def test_an_interrupted_race_goes_on_with_the_next_recipe(run, out, pretend, monkeypatch):
    monkeypatch.setattr(race, "find_spec", lambda name: None)
    work, left = race.in_its_own_process, [2]

    def interrupted(*arguments):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return work(*arguments)

    monkeypatch.setattr(race, "in_its_own_process", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_race(run, out, minutes=1)
    left[0] = 99
    found = run_race(run, out, minutes=1)
    assert len(pretend) == 4 and out.read("race.json") == found
    assert run_race(run, out, minutes=1) == found and len(pretend) == 4
    run_race(run, out, minutes=2)
    assert len(pretend) == 8
    run.write_params(run.params().replace(seed=3))
    run_race(run, out, minutes=2)
    assert len(pretend) == 12
