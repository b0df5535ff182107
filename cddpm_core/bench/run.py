"""Speed, measured side by side: the two variants of a ratio take turns.

Each variant has its own process, so that its peak memory can be measured, and waits while the
other one works. Ratios come from neighbouring turns, so slow changes in the machine's speed
hardly affect them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cddpm_core.bench.process import new_process, peak_mib
from cddpm_core.bench.race import run_race
from cddpm_core.bench.scale import run_scale
from cddpm_core.bench.variants import (
    PRODUCT,
    multiply,
    render,
    sample_in_batches,
    sample_one_by_one,
    train,
    train_plain,
)
from cddpm_core.config.device import arithmetic_of, computes_bf16, device_of
from cddpm_core.config.files import write_json
from cddpm_core.config.progress import progress
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import ConditionDataset
from cddpm_core.data.labels import CONDITION_FILES, OBJECTS
from cddpm_core.data.source import data_source
from cddpm_core.evaluation.evaluator import Evaluator
from cddpm_core.evaluation.score import evaluator_facts, score
from cddpm_core.evaluation.stand_in import load_evaluator
from cddpm_core.model.network import ClassConditionedUnet
from cddpm_core.runs.manifest import made_with
from cddpm_core.runs.run import Run
from cddpm_core.sampling.pipeline import ClassConditionedPipeline, load_pipeline
from cddpm_core.sampling.sample import image_seeds, sample

__all__ = ["operations", "run_bench"]


def run_bench(run: Run, out: Run, *, repeats: int = 3, scenes: int = 200, steps: int = 12,
              loop_images: int = 2, minutes: float = 3.0,
              factors: Sequence[float] = (0.5, 1, 2)) -> dict[str, Any]:
    """Measure rendering, training and sampling, and write ``bench.json`` to the run ``out``.

    Args:
        run: a trained run, whose network, data and sampler are used.
        repeats: turns of each variant.
        scenes: scenes rendered in a turn, three images each.
        steps: training steps in a turn.
        loop_images: images sampled one by one in a turn; the time is scaled to all 64
            conditions. For the score, all are sampled once in batches.
        minutes: of training for each variant of `race.run_race`, whose results are added; 0
            leaves them out.
        factors: by which `scale.run_scale` multiplies sizes; none leaves it out.

    Each of ``rendering``, ``training_vs_plain_loop``, ``training_two_at_once`` and
    ``sampling_vs_seed_loop`` has the ``ratio`` (median, min and max over the turns), the seconds
    and the peak memory in MiB of both variants. ``arithmetic`` compares the operations per second
    of training with those of large matrix products. torch counts the forward and backward pass, a
    multiplication and addition as two operations; the optimiser is not counted.
    """
    params = run.params()
    device = device_of(params)
    # Both first: they fail before an hour of work.
    pipeline, made = load_pipeline(run / "model", device), made_with(params, device)
    evaluator, source = load_evaluator(params.evaluator), data_source(params, run.cache)
    folder, outputs = str(source.folder), str(run.outputs)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    kinds = ("float32", "bfloat16") if computes_bf16(device) else ("float32",)
    training = (train, run.name, outputs, folder, steps)
    with progress(total=(8 + len(kinds)) * repeats, desc="bench", unit="turn") as bar:
        one, all_cores = _take_turns(repeats, bar, [(render, scenes, 1)], [(render, scenes, cores)])
        plain, ours = _take_turns(
            repeats, bar, [(train_plain, run.name, outputs, folder, steps)], [training])
        both, alone = _take_turns(repeats, bar, [training, training], [training])
        loop, batch = _take_turns(
            repeats, bar, [(sample_one_by_one, run.name, outputs, loop_images)],
            [(sample_in_batches, run.name, outputs)])
        products = _take_turns(repeats, bar, *([(multiply, kind, params.device)] for kind in kinds))
    ancestral = _sample_ancestrally(pipeline, params)
    images, size = 3 * scenes, steps * params.batch_size
    rate, per_image = size / median(ours["seconds"]), operations(pipeline.unet)
    results = {
        "rendering": {
            "what": f"{images} images of 320x240 in one thread, against {cores} threads",
            **_compare(one, all_cores, "one_thread", "all_cores"),
            "images_per_second": images / median(all_cores["seconds"])},
        "training_vs_plain_loop": {
            "what": "the same network: fp32, AdamW, PNG files read for each batch, "
                    f"against params.yaml of {run.name}, images in memory",
            **_compare(plain, ours, "plain_loop", "ours"),
            "images_per_second": {"plain_loop": size / median(plain["seconds"]),
                                  "ours": rate}},
        "training_two_at_once": {
            "what": "two training runs at once, each with all cores, against one alone",
            **_compare(both, alone, "two_at_once", "alone")},
        "arithmetic": {
            "training_flops_per_image": per_image, "training_flops_per_second": rate * per_image,
            "matrix_flops_per_second": {
                kind: PRODUCT / min(variant["seconds"])
                for kind, variant in zip(kinds, products, strict=True)},
            "arithmetic": arithmetic_of(params.mixed_precision, device)},
        "sampling_vs_seed_loop": {
            "what": f"64 conditions, one image each: one by one, {params.num_train_timesteps} "
                    f"ancestral steps, fp32, without guidance (time of {loop_images} images, "
                    "multiplied up to 64; accuracy of all 64, sampled in batches), against "
                    f"{params.sampler} in {params.num_inference_steps} steps, guidance "
                    f"{params.guidance_scale:g}",
            **_compare(loop, batch, "seed_loop", "ours"),
            "micro": {"evaluator": evaluator_facts(evaluator), "ours": _micro(
                torch.as_tensor(batch["values"][0]), evaluator),
                "seed_loop": _micro(ancestral, evaluator)}},
        "run": run.name, "data": source.kind,
        "repeats": repeats, "made_with": made}
    write_json(out / "bench.json", results)
    if factors:
        results["scale"] = run_scale(run, factors=factors)
        write_json(out / "bench.json", results)
    if minutes:
        results.update(run_race(run, out, minutes=minutes))
        write_json(out / "bench.json", results)
    return results


def _take_turns(repeats: int, bar: Any, *variants: Sequence[tuple]) -> list[dict[str, Any]]:
    """Return the seconds, values and peak memory of variants, each with a process for each of its
    calls (function, *arguments), which are made at once.

    A function returns seconds, of which those of the slowest count, and a value or None. Its first
    turn, which loads and compiles, is not counted.
    """
    found = [{"seconds": [], "values": []} for _ in variants]
    with ExitStack() as stack:
        pools = [[stack.enter_context(new_process()) for _ in calls] for calls in variants]
        for turn in range(repeats + 1):
            for workers, calls, into in zip(pools, variants, found, strict=True):
                futures = [pool.submit(*call) for pool, call in zip(workers, calls, strict=True)]
                seconds, values = zip(*(future.result() for future in futures), strict=True)
                if turn:
                    into["seconds"].append(max(seconds))
                    into["values"].append(values[0])
                    bar.update()
        for workers, into in zip(pools, found, strict=True):
            into["peak_mib"] = sum(pool.submit(peak_mib).result() for pool in workers)
    return found


def _compare(slow: dict[str, Any], fast: dict[str, Any], slow_name: str,
             fast_name: str) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(slow["seconds"], fast["seconds"], strict=True)]
    return {"ratio": {"median": median(ratios), "min": min(ratios), "max": max(ratios)},
            "seconds": {slow_name: slow["seconds"], fast_name: fast["seconds"]},
            "peak_mib": {slow_name: slow["peak_mib"], fast_name: fast["peak_mib"]}}


def _sample_ancestrally(pipeline: ClassConditionedPipeline, params: Params) -> torch.Tensor:
    """All conditions as `sample_one_by_one` samples them, but in batches."""
    labels = torch.cat([ConditionDataset(file).labels for file in CONDITION_FILES])
    steps, size = pipeline.scheduler.config.num_train_timesteps, params.sample_batch_size
    with progress(total=-(-len(labels) // size) * steps, desc="ancestral", unit="step") as bar:
        return sample(pipeline, labels, image_seeds(params.seed, len(labels)), bar=bar,
                      sampler="ddpm", batch_size=size, layout_choices=params.layout_choices)


def _micro(images: torch.Tensor, evaluator: Evaluator) -> float:
    conditions = [names for file in CONDITION_FILES for names in ConditionDataset(file).conditions]
    return score(evaluator(images), conditions)["micro"]


def operations(network: ClassConditionedUnet) -> float:
    """Return the floating-point operations of a forward and a backward pass for one image."""
    side = network.config.image_size
    x_t = torch.zeros(2, 3, side, side, device=network.device)
    labels = torch.zeros(2, len(OBJECTS), device=network.device)
    with FlopCounterMode(display=False) as counter:
        output = network(x_t, 0, labels)
        torch.autograd.grad(output.sum(), list(network.parameters()), allow_unused=True)
    return counter.get_total_flops() / 2
