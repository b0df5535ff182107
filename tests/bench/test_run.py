import json

import pytest
from conftest import ROOT

from cddpm_core.bench import run as bench
from cddpm_core.bench import variants
from cddpm_core.bench.run import _compare, operations, run_bench
from cddpm_core.config.errors import UserError
from cddpm_core.model.network import make_network
from cddpm_core.runs.run import Run
from cddpm_core.sampling.pipeline import make_pipeline, save_pipeline


@pytest.fixture
def trained(tiny, dataset, tmp_path):
    """A run with an untrained network."""
    run = Run("tiny", outputs=tmp_path)
    params = tiny.replace(run="tiny", data=str(dataset.files[0].parents[1]), batch_size=4,
                          num_inference_steps=2)
    run.write_params(params)
    save_pipeline(make_pipeline(params, dataset), run / "model")
    return run


class Here:
    """A pool that works in this process: starting eight would take most of the test's time."""

    def submit(self, work, *arguments):
        self.value = work(*arguments)
        return self

    def result(self):
        return self.value

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_bench_writes_ratios_with_their_range(trained, monkeypatch):
    out = Run("bench", outputs=trained.outputs)
    monkeypatch.setattr(bench, "new_process", Here)
    monkeypatch.setattr(variants, "SIDE", 64)
    monkeypatch.setattr(bench, "run_scale", lambda run, factors: {"training": [list(factors)]})
    found = run_bench(trained, out, repeats=1, scenes=1, steps=1, loop_images=1,
                      minutes=0, factors=(1,))
    assert json.loads((out / "bench.json").read_text()) == json.loads(json.dumps(found))
    for name in ("rendering", "training_vs_plain_loop", "training_two_at_once",
                 "sampling_vs_seed_loop"):
        part = found[name]
        assert 0 < part["ratio"]["min"] <= part["ratio"]["median"] <= part["ratio"]["max"]
        assert all(len(seconds) == 1 for seconds in part["seconds"].values())
        assert all(peak > 50 for peak in part["peak_mib"].values())
    micro = found["sampling_vs_seed_loop"]["micro"]
    assert micro["evaluator"]["released"]
    assert 0 <= micro["ours"] <= 1 and 0 <= micro["seed_loop"] <= 1
    assert found["made_with"]["torch"] and found["data"] == "given"
    assert found["arithmetic"]["training_flops_per_second"] > 0
    assert found["scale"] == {"training": [[1]]}


def test_variants_take_turns_and_the_first_turn_is_not_counted(monkeypatch):
    monkeypatch.setattr(bench, "new_process", Here)
    calls = []

    def work(name):
        calls.append(name)
        return float(len(calls)), None

    class Bar:
        def update(self):
            pass

    found = bench._take_turns(2, Bar(), [(work, "a")], [(work, "b")])
    assert calls == ["a", "b"] * 3
    assert [part["seconds"] for part in found] == [[3.0, 5.0], [4.0, 6.0]]


def test_two_at_once_take_as_long_as_the_slower(monkeypatch):
    monkeypatch.setattr(bench, "new_process", Here)
    seconds = iter([9.0, 9.0, 9.0, 4.0, 5.0, 2.0])
    work = (lambda: (next(seconds), None),)

    class Bar:
        def update(self):
            pass

    both, alone = bench._take_turns(1, Bar(), [work, work], [work])
    assert alone["seconds"] == [2.0] and both["seconds"] == [5.0]
    assert both["peak_mib"] == 2 * alone["peak_mib"]


def test_operations_are_those_of_the_products(tiny):
    params = tiny.replace(backbone="unet", blocks=[0], channels=[1], conditioning="class_embedding",
                          patch_size=1, layers_per_block=1, layout=False)
    half, double = (operations(make_network(params.replace(image_size=side), layout=False))
                    for side in (8, 16))
    # Four times the cells, whose attention grows faster, and the embedding layers once.
    assert 3 * half < double < 16 * half
    # The first convolution alone: forward, and backward for its weights.
    assert half > 2 * 2 * 64 * 9 * 3 * 8


def test_ratios_are_of_neighbouring_turns():
    slow = {"seconds": [2.0, 8.0, 3.0], "peak_mib": 5}
    fast = {"seconds": [1.0, 2.0, 1.0], "peak_mib": 7}
    found = _compare(slow, fast, "a", "b")
    assert found["ratio"] == {"median": 3.0, "min": 2.0, "max": 4.0}
    assert found["peak_mib"] == {"a": 5, "b": 7}


def test_a_run_that_does_not_exist_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no such run, expected one that"):
        run_bench(Run("nothing", outputs=tmp_path), Run("bench", outputs=tmp_path))


def test_make_has_a_line_for_it():
    assert "$(CDDPM) bench" in (ROOT / "Makefile").read_text()
