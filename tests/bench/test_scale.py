from concurrent.futures.process import BrokenProcessPool

import pytest
import torch

from cddpm_core.bench import scale
from cddpm_core.bench.scale import _scaled, run_scale
from cddpm_core.runs.run import Run


@pytest.fixture
def run(tiny, tmp_path):
    run = Run("tiny", outputs=tmp_path)
    run.write_params(tiny.replace(run="tiny", batch_size=4, sample_batch_size=2))
    return run


def test_one_size_varies_at_a_time_where_the_result_is_valid(tiny):
    variants = _scaled(tiny.replace(image_size=64), "image_size", (0.01, 0.5, 1, 2))
    assert [(key, variant.image_size) for key, variant in variants] == [
        ("image_size", 32), ("image_size", 64), ("image_size", 128)]
    assert all(variant.replace(image_size=64) == tiny.replace(image_size=64)
               for _, variant in variants)


def test_each_variant_is_measured(run, monkeypatch):
    monkeypatch.setattr(scale, "SCENES", 2)
    monkeypatch.setattr(scale, "in_its_own_process", lambda work, *arguments: {
        **work(*arguments), "peak_mib": 100.0})
    found = run_scale(run, factors=(1,), steps=1)
    assert {name: [variant["varied"] for variant in variants]
            for name, variants in found.items()} == {
        "training": ["class_emb_size", "image_size", "batch_size"],
        "sampling": ["num_inference_steps", "sample_batch_size"]}
    assert all(variant["seconds_per_image"] > 0 and variant["parameters"] > 1000
               for variants in found.values() for variant in variants)


def test_the_median_of_rounds_leaves_out_the_first(monkeypatch):
    clock = iter([0.0, 100.0, 200.0, 201.0, 300.0, 305.0, 400.0, 402.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    rounds = []
    assert scale._median_seconds(lambda: rounds.append(None), 3) == 2.0 and len(rounds) == 4


def test_a_variant_without_enough_memory_is_left_out(run, monkeypatch):
    monkeypatch.setattr(scale, "SCENES", 1)
    refusals = [BrokenProcessPool("killed"), torch.OutOfMemoryError("CUDA out of memory"),
                RuntimeError("DefaultCPUAllocator: can't allocate memory")]

    def measure(work, variant, folder, steps):
        if work is scale._train and refusals:
            raise refusals.pop()
        return {"seconds_per_image": 1.0, "parameters": 1, "peak_mib": 100.0}

    monkeypatch.setattr(scale, "in_its_own_process", measure)
    found = run_scale(run, factors=(1,))
    assert found["training"] == []
    assert [variant["varied"] for variant in found["sampling"]] == [
        "num_inference_steps", "sample_batch_size"]


def test_another_error_is_raised(run, monkeypatch):
    monkeypatch.setattr(scale, "SCENES", 1)
    def measure(*_):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(scale, "in_its_own_process", measure)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run_scale(run, factors=(1,))


def test_a_refusal_of_memory_by_the_machine_is_recognised():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert scale._no_memory(error.value)
