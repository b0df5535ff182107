import json
import time

import numpy as np
import pytest

from cddpm_core import evaluation, race, standin
from cddpm_core.bench_tables import race_tables
from cddpm_core.data import IclevrDataset
from cddpm_core.race import peak_mib, run_race, train_for
from cddpm_core.runs import Run
from cddpm_core.sources import data_source
from cddpm_core.trainer import Trainer

ARM = {"what": "a | b", "images": 1600, "parameters": 2_500_000, "micro": 0.5, "macro": 0.4,
       "objects": 48, "steps": 100, "peak_mib": 700.0}
EVALUATOR = {"kind": "stand-in", "heldout_micro": 0.99, "known": True}


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(standin, "HELDOUT_IMAGES", 20)
    run = Run("tiny", outputs=tmp_path)
    params = tiny.replace(run="tiny", num_scenes=6, heldout_scenes=1, batch_size=4,
                          num_inference_steps=2, evaluator_images=64, evaluator_epochs=1)
    run.write_params(params)
    evaluation.get_evaluator(params, run)
    return run


def test_training_ends_with_the_time_and_the_learning_rate_with_it(run, monkeypatch):
    params = run.params().replace(lr_schedule="linear", lr_decay_start=0.0, lr_warmup_steps=0)
    trainer = Trainer(params, IclevrDataset(data_source(params, run).folder))
    rates, real = [], trainer.update

    def update():
        time.sleep(0.02)
        loss = real()
        rates.append(trainer.optimizers[0].param_groups[0]["lr"] / trainer.peaks[0][0])
        return loss

    monkeypatch.setattr(trainer, "update", update)
    train_for(trainer, 2.0)
    assert trainer.step == len(rates) > 5
    # How many steps there will be is only estimated, and the first one is slow.
    assert max(rates) > 0.5 and rates[-1] < 0.3
    assert trainer.total_steps - trainer.step <= 1


def test_every_recipe_has_its_minutes_and_is_scored_on_its_label_sets(run, tiny, monkeypatch):
    monkeypatch.setattr(race, "resolve", lambda values: tiny.replace(
        num_train_timesteps=100, batch_size=4))
    monkeypatch.setattr(race, "find_spec", lambda name: None)
    found = run_race(run, minutes=0.01)
    first, second = found["recipe_vs_seed_recipe"], found["against_peer"]
    assert list(first["arms"]) == ["ours", "seed_recipe", "sane_seed_recipe"]
    assert all(arm["objects"] == 156 for arm in first["arms"].values())
    assert second["arms"]["ours"]["objects"] == 48 and "not installed" in second["missing"]
    assert second["chance"] == pytest.approx(1 / 24) and 1 / 24 < first["chance"] < 3 / 24
    for arm in [*first["arms"].values(), *second["arms"].values()]:
        assert arm["images"] >= 4 and 0 <= arm["micro"] <= 1 and arm["peak_mib"] > 50
        assert "drawn" not in arm
    assert first["arms"]["seed_recipe"]["images"] == 8 * first["arms"]["seed_recipe"]["steps"]


def test_the_peer_trains_and_draws_single_objects(run):
    pytest.importorskip(race.PEER, reason="the peer is installed by make bench alone")
    params = run.params()
    made = race._peer(params, str(data_source(params, run).folder), True, 0.01, race.SINGLES[:3])
    average, last = made["drawn"]
    assert average.shape == last.shape == (3, 3, 64, 64) and made["images"] == 16 * made["steps"]


def test_only_images_of_one_object_are_seen_where_that_is_asked(run):
    params = run.params()
    dataset = race._dataset(params, str(data_source(params, run).folder), single=True)
    assert len(dataset) == 6 and all(len(names) == 1 for names in dataset.label_sets)


def test_tables_name_recipes_minutes_and_evaluator():
    bench = {"run": "quick", "data": "rendered",
             "recipe_vs_seed_recipe": {
        "minutes": 3.0, "evaluator": EVALUATOR, "chance": 0.1, "arms": {
        "ours": ARM, "seed_recipe": {**ARM, "micro": 0.0625}}},
        "against_peer": {"minutes": 3.0, "evaluator": EVALUATOR, "arms": {"ours": ARM},
                         "missing": "the peer is not installed"}}
    text = race_tables(bench)
    assert "| `ours` | a \\| b | 100 | 1,600 | 2.5 M | 0.500 | 700 |" in text
    assert "| `seed_recipe` | a \\| b | 100 | 1,600 | 2.5 M | 0.062 | 700 |" in text
    assert text.count("with run `quick` (rendered data;") == 2
    assert text.count("trained for 3 minutes each") == text.count("0.990 micro on held-out") == 2
    assert text.count("guessing 0.100") == 1
    assert "the peer is not installed" in text and race_tables({}) == ""


def test_peak_memory_is_that_of_a_process():
    assert 50 < peak_mib() < 1e6


def test_peak_memory_is_not_that_of_the_parent():
    held = np.ones((1600, 2**20), np.uint8)  # 1600 MiB
    del held
    assert peak_mib() > 1600
    # The other process has loaded what this one has, and no more.
    assert 50 < race.in_its_own_process(dict)["peak_mib"] < peak_mib() - 1000


def test_a_peer_that_fails_costs_no_other_arm(run, tiny, monkeypatch):
    monkeypatch.setattr(race, "resolve", lambda values: tiny.replace(num_train_timesteps=100))
    monkeypatch.setattr(race, "find_spec", lambda name: name)

    def work(train, *arguments):
        if train is race._peer:
            raise ImportError("no such name")
        sets = arguments[-1]
        return {"steps": 1, "images": 1, "parameters": 1, "peak_mib": 1.0,
                "drawn": [np.zeros((len(sets), 3, 64, 64), np.float32)]}

    monkeypatch.setattr(race, "in_its_own_process", work)
    saved = []
    found = run_race(run, minutes=1, save=lambda found: saved.append(json.dumps(found)))
    assert list(found["against_peer"]["arms"]) == ["ours"] and len(saved) == 5
    assert "denoising-diffusion-pytorch failed: ImportError: no such name" in (
        found["against_peer"]["missing"])
    assert json.loads(saved[-1]) == found


def test_the_recipes_see_the_same_images(run, tiny, monkeypatch):
    run.write_params(run.params().replace(holdout="test_conditions", seed=7))
    monkeypatch.setattr(race, "find_spec", lambda name: None)
    seen = []

    def work(train, params, *arguments):
        seen.append((params.holdout, params.image_size, params.seed))
        return {"steps": 1, "images": 1, "parameters": 1, "peak_mib": 1.0,
                "drawn": [np.zeros((len(arguments[-1]), 3, 64, 64), np.float32)]}

    monkeypatch.setattr(race, "in_its_own_process", work)
    run_race(run, minutes=1)
    assert set(seen) == {("test_conditions", 64, 7)}
