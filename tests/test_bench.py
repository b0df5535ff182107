import json

import pytest
from conftest import ROOT

from cddpm_core import bench, evaluation, standin
from cddpm_core.bench import _compare, operations, run_bench
from cddpm_core.data import IclevrDataset
from cddpm_core.errors import UserError
from cddpm_core.model import make_model
from cddpm_core.runs import Run
from cddpm_core.sources import data_source
from cddpm_core.training import train


@pytest.fixture
def trained(tiny, tmp_path, monkeypatch):
    """A run of a tiny network on two rendered scenes."""
    monkeypatch.setattr(standin, "HELDOUT_IMAGES", 20)
    run = Run("tiny", outputs=tmp_path)
    params = tiny.replace(run="tiny", num_scenes=6, heldout_scenes=1, batch_size=4, epochs=1,
                          evaluator_images=64, evaluator_epochs=1)
    run.write_params(params)
    evaluation.get_evaluator(params, run)
    train(params, IclevrDataset(data_source(params, run).folder), run)
    return run


def test_bench_writes_ratios_with_their_range(trained, monkeypatch):
    out = Run("bench", outputs=trained.outputs)
    monkeypatch.setattr(bench, "run_scale", lambda run, factors: {"training": [list(factors)]})
    found = run_bench(trained, out, repeats=2, scenes=2, steps=1, loop_images=1,
                      minutes=0, factors=(1,))
    assert json.loads((out / "bench.json").read_text()) == json.loads(json.dumps(found))
    for name in ("rendering", "training_vs_plain_loop", "sampling_vs_seed_loop"):
        part = found[name]
        assert 0 < part["ratio"]["least"] <= part["ratio"]["median"] <= part["ratio"]["greatest"]
        assert all(len(seconds) == 2 for seconds in part["seconds"].values())
        assert all(peak > 50 for peak in part["peak_mib"].values())
    assert found["rendering"]["seconds_for_18009"] > 0
    micro = found["sampling_vs_seed_loop"]["micro"]
    assert micro["evaluator"]["kind"] == "stand-in"
    assert 0 <= micro["ours"] <= 1 and 0 <= micro["seed_loop"] <= 1
    assert found["made_with"]["torch"]
    arithmetic = found["arithmetic"]
    assert 0 < arithmetic["training_flops_per_second"] < max(
        arithmetic["matrix_flops_per_second"].values())
    assert found["scale"] == {"training": [[1]]}


def test_operations_are_those_of_the_products(tiny):
    params = tiny.replace(backbone="unet", blocks=[0], channels=[1], conditioning="class_embedding",
                          patch_size=1, image_size=8, layers_per_block=1, trim_rows=False)
    half = operations(make_model(params))
    double = operations(make_model(params.replace(image_size=16)))
    # Four times the places, whose attention grows faster, and the layers of the embeddings once.
    assert 3 * half < double < 16 * half
    # The first convolution alone: forward, and backward by its weights.
    assert half > 2 * 2 * 64 * 9 * 3 * 8


def test_ratios_are_of_neighbouring_turns():
    slow = {"seconds": [2.0, 8.0, 3.0], "peak_mib": 5}
    fast = {"seconds": [1.0, 2.0, 1.0], "peak_mib": 7}
    found = _compare(slow, fast, "a", "b")
    assert found["ratio"] == {"median": 3.0, "least": 2.0, "greatest": 4.0}
    assert found["peak_mib"] == {"a": 5, "b": 7}


def test_a_run_that_is_not_trained_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no such run, make it with 'make report"):
        run_bench(Run("nothing", outputs=tmp_path), Run("bench", outputs=tmp_path))


def test_make_has_a_line_for_it():
    assert "$(CDDPM) bench" in (ROOT / "Makefile").read_text()
