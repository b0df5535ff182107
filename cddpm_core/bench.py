"""Speed, measured side by side: the two arms of a ratio take turns in one run.

Each arm has a process of its own, so that its peak memory can be told, and waits
while the other one works. Ratios come from neighbouring turns, which a change in
the machine's speed between turns hardly touches.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch.utils.flop_counter import FlopCounterMode

from cddpm_core.bench_arms import (
    PRODUCT,
    draw,
    draw_one_by_one,
    multiply,
    render,
    train,
    train_plain,
)
from cddpm_core.data import ConditionDataset
from cddpm_core.devices import arithmetic_of, computes_bf16, device_of
from cddpm_core.evaluation import get_evaluator
from cddpm_core.evaluator import Evaluator, score
from cddpm_core.facts import evaluator_facts
from cddpm_core.model import ClassConditionedUnet
from cddpm_core.params import Params
from cddpm_core.provenance import made_with
from cddpm_core.race import peak_mib, run_race
from cddpm_core.runs import Run, progress, write_json
from cddpm_core.sampling import image_seeds, sample
from cddpm_core.scale import run_scale
from cddpm_core.sources import data_source
from cddpm_core.training import load_trained

__all__ = ["operations", "run_bench"]

COURSE_IMAGES = 18_009  # images of the course's training set, three a scene


def run_bench(run: Run, out: Run, *, repeats: int = 3, scenes: int = 200, steps: int = 12,
              loop_images: int = 2, minutes: float = 3.0,
              factors: Sequence[float] = (0.5, 1, 2)) -> dict[str, Any]:
    """Measure rendering, training and sampling, and write ``bench.json`` to the run ``out``.

    Args:
        run: a trained run, whose network, data and sampler are used.
        repeats: turns of each arm.
        scenes: scenes a turn of the rendering renders, three images each.
        steps: training steps a turn.
        loop_images: images a turn of the one-by-one sampling draws; its time for all
            64 conditions is scaled from them. To be scored, all are drawn so once, in batches.
        minutes: of training for each arm of `race.run_race`, whose results are added; 0
            leaves them out.
        factors: by which `scale.run_scale` multiplies sizes; none leaves it out.

    Each of ``rendering``, ``training_vs_plain_loop`` and ``sampling_vs_seed_loop`` has
    the ``ratio`` (median, least and greatest of the turns), the seconds and the peak
    resident memory in MiB of both arms. ``arithmetic`` sets the operations of training a
    second, as torch counts those of forward and backward pass (two for a multiplication and
    addition; the optimiser's are not counted), beside those of large matrix products.
    """
    params = run.params()
    model, scheduler = load_trained(run, params)  # one that is not there is named before any work
    evaluator = get_evaluator(params, run)
    folder, outputs = str(data_source(params, run).folder), str(run.outputs)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = device_of(params)
    kinds = ("float32", "bfloat16") if computes_bf16(device) else ("float32",)
    with progress(total=(6 + len(kinds)) * repeats, desc="bench", unit="turn") as bar:
        one, all_cores = _take_turns(repeats, bar, (render, scenes, 1), (render, scenes, cores))
        plain, ours = _take_turns(repeats, bar, (train_plain, run.name, outputs, folder, steps),
                                  (train, run.name, outputs, folder, steps))
        loop, batch = _take_turns(repeats, bar, (draw_one_by_one, run.name, outputs, loop_images),
                                  (draw, run.name, outputs))
        products = _take_turns(repeats, bar, *((multiply, kind, params.device) for kind in kinds))
    slowly = _drawn_slowly(model, scheduler, params)
    images, size = 3 * scenes, steps * params.batch_size
    rate, per_image = size / median(ours["seconds"]), operations(model)
    results = {
        "rendering": {
            "what": f"{images} images of 320x240 in one thread, against {cores}",
            **_compare(one, all_cores, "one_thread", "all_cores"),
            "images_per_second": images / median(all_cores["seconds"]),
            "seconds_for_18009": COURSE_IMAGES / images * median(all_cores["seconds"])},
        "training_vs_plain_loop": {
            "what": "the same network: fp32, AdamW, whole images, PNG files read for each batch, "
                    f"against params.yaml of {run.name}, images in memory, "
                    f"{model.x_shape[1]} of {params.image_size} rows",
            **_compare(plain, ours, "plain_loop", "ours"),
            "images_per_second": {"plain_loop": size / median(plain["seconds"]),
                                  "ours": rate}},
        "arithmetic": {
            "training_flops_per_image": per_image, "training_flops_per_second": rate * per_image,
            "matrix_flops_per_second": {
                kind: PRODUCT / min(arm["seconds"])
                for kind, arm in zip(kinds, products, strict=True)},
            "arithmetic": arithmetic_of(params.mixed_precision, device)},
        "sampling_vs_seed_loop": {
            "what": f"64 conditions, an image each: one by one, {params.num_train_timesteps} "
                    f"ancestral steps, fp32, without guidance ({loop_images} images a turn, "
                    "scaled to 64; all drawn so in batches to be scored), against "
                    f"{params.sampler} in {params.num_inference_steps} steps, guidance "
                    f"{params.guidance_scale:g}",
            **_compare(loop, batch, "seed_loop", "ours"),
            "micro": {"evaluator": evaluator_facts(evaluator), "ours": _micro(
                torch.as_tensor(batch["values"][0]), evaluator),
                "seed_loop": _micro(slowly, evaluator)}},
        "run": run.name, "data": data_source(params, run).kind,
        "repeats": repeats, "made_with": made_with(params, device)}
    write_json(out / "bench.json", results)
    if factors:
        results["scale"] = run_scale(run, factors=factors)
        write_json(out / "bench.json", results)
    if minutes:
        results.update(run_race(run, minutes=minutes, save=lambda found: write_json(
            out / "bench.json", {**results, **found})))
    return results


def _take_turns(repeats: int, bar: Any, *arms: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the seconds, values and peak memory of arms, each (function, *arguments).

    A function returns what it measured: seconds, and a value or None. Its first turn,
    which loads and compiles, is not counted.
    """
    spawn = multiprocessing.get_context("spawn")
    pools = [ProcessPoolExecutor(1, mp_context=spawn) for _ in arms]
    found = [{"seconds": [], "values": []} for _ in arms]
    try:
        for turn in range(repeats + 1):
            for pool, arm, into in zip(pools, arms, found, strict=True):
                seconds, value = pool.submit(*arm).result()
                if turn:
                    into["seconds"].append(seconds)
                    into["values"].append(value)
                    bar.update()
        for pool, into in zip(pools, found, strict=True):
            into["peak_mib"] = pool.submit(peak_mib).result()
    finally:
        for pool in pools:
            pool.shutdown()
    return found


def _compare(slow: dict[str, Any], fast: dict[str, Any], slow_name: str,
             fast_name: str) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(slow["seconds"], fast["seconds"], strict=True)]
    return {"ratio": {"median": median(ratios), "least": min(ratios), "greatest": max(ratios)},
            "seconds": {slow_name: slow["seconds"], fast_name: fast["seconds"]},
            "peak_mib": {slow_name: slow["peak_mib"], fast_name: fast["peak_mib"]}}


def _drawn_slowly(model: ClassConditionedUnet, scheduler: DDPMScheduler,
                  params: Params) -> torch.Tensor:
    """The images of the one-by-one loop, of all conditions and in batches, to be scored."""
    labels = torch.cat([ConditionDataset(file).labels for file in ("test", "new_test")])
    steps, size = scheduler.config.num_train_timesteps, params.sample_batch_size
    with progress(total=-(-len(labels) // size) * steps, desc="ancestral", unit="step") as bar:
        return sample(model, scheduler, labels, image_seeds(params.seed, len(labels)), bar=bar,
                      sampler="ddpm", num_inference_steps=steps, batch_size=size,
                      layout_choices=params.layout_choices)


def _micro(images: torch.Tensor, evaluator: Evaluator) -> float:
    sets = [names for file in ("test", "new_test") for names in ConditionDataset(file).label_sets]
    return score(evaluator(evaluator.resized(images)), sets)["micro"]


def operations(model: ClassConditionedUnet) -> float:
    """Return the floating-point operations of a forward and a backward pass for one image."""
    x_t = torch.zeros(2, *model.x_shape, device=model.device)
    labels = torch.zeros(2, model.config.num_classes, device=model.device)
    with FlopCounterMode(display=False) as counter:
        output = model(x_t, 0, labels)
        torch.autograd.grad(output.sum(), list(model.parameters()), allow_unused=True)
    return counter.get_total_flops() / 2
