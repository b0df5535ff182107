"""Speed, measured side by side: the two arms of a ratio take turns in one run.

Each arm has a process of its own, so that its peak memory can be told, and waits
while the other one works. Ratios come from neighbouring turns, which a change in
the machine's speed between turns hardly touches.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from cddpm_core.data import ConditionDataset, IclevrDataset, data_source
from cddpm_core.devices import device_of
from cddpm_core.evaluation import get_evaluator
from cddpm_core.evaluator import Evaluator, score
from cddpm_core.facts import evaluator_facts
from cddpm_core.model import ClassConditionedUnet, make_model
from cddpm_core.params import Params
from cddpm_core.provenance import made_with
from cddpm_core.race import peak_mib, run_race
from cddpm_core.runs import Run, progress, write_json
from cddpm_core.sampling import image_seeds, sample, sampling_options
from cddpm_core.scale import run_scale
from cddpm_core.scenes import render_dataset
from cddpm_core.trainer import Trainer
from cddpm_core.training import load_trained

__all__ = ["operations", "run_bench"]

COURSE_IMAGES = 18_009  # images of the course's training set, three a scene
SIDE, PRODUCTS = 2048, 8  # square matrices, and how often they are multiplied
PRODUCT = 2 * PRODUCTS * SIDE**3  # floating-point operations of that


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
            64 conditions is scaled from them.
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
    model, _ = load_trained(run, params)  # one that is not there is named before any work
    evaluator = get_evaluator(params, run)
    folder = str(data_source(params, run).folder)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with progress(total=8 * repeats, desc="bench", unit="turn") as bar:
        one, all_cores = _take_turns(repeats, bar, (_render, scenes, 1), (_render, scenes, cores))
        plain, ours = _take_turns(repeats, bar, (_train_plain, run.name, str(run.outputs), folder,
                                                 steps),
                                  (_train, run.name, str(run.outputs), folder, steps))
        loop, batch = _take_turns(repeats, bar, (_sample_loop, run.name, str(run.outputs),
                                                 loop_images),
                                  (_sample, run.name, str(run.outputs)))
        products = _take_turns(repeats, bar, *((_multiply, kind, params.device)
                                               for kind in ("float32", "bfloat16")))
    images, size = 3 * scenes, steps * params.batch_size
    rate, per_image = size / median(ours["seconds"]), operations(model)
    results = {
        "rendering": {
            "what": f"{images} images of 320x240 in one thread, against {cores}",
            **_compare(one, all_cores, "one_thread", "all_cores"),
            "images_per_second": images / median(all_cores["seconds"]),
            "seconds_for_18009": COURSE_IMAGES / images * median(all_cores["seconds"])},
        "training_vs_plain_loop": {
            "what": "the same network: fp32, AdamW, PNG files read for each batch, against "
                    f"params.yaml of {run.name}, images in memory",
            **_compare(plain, ours, "plain_loop", "ours"),
            "images_per_second": {"plain_loop": size / median(plain["seconds"]),
                                  "ours": rate}},
        "arithmetic": {
            "training_flops_per_image": per_image, "training_flops_per_second": rate * per_image,
            "matrix_flops_per_second": {
                kind: PRODUCT / min(arm["seconds"]) for kind, arm in
                zip(("float32", "bfloat16"), products, strict=True)},
            "arithmetic": "bfloat16" if params.mixed_precision == "bf16" else "float32"},
        "sampling_vs_seed_loop": {
            "what": f"64 conditions: one by one, {params.num_train_timesteps} ancestral steps, "
                    f"fp32 ({loop_images} images a turn, scaled to 64), against "
                    f"{params.sampler} in {params.num_inference_steps} steps, guidance "
                    f"{params.guidance_scale:g}",
            **_compare(loop, batch, "seed_loop", "ours"),
            "micro": {"evaluator": evaluator_facts(evaluator), "ours": _micro(batch, evaluator),
                      f"seed_loop, first {loop_images}": _micro(loop, evaluator)}},
        "run": run.name, "data": data_source(params, run).kind,
        "repeats": repeats, "made_with": made_with(params, device_of(params))}
    write_json(out / "bench.json", results)
    if factors:
        results["scale"] = run_scale(run, factors=factors)
        write_json(out / "bench.json", results)
    if minutes:
        results.update(run_race(run, minutes=minutes))
        write_json(out / "bench.json", results)
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


def _micro(arm: dict[str, Any], evaluator: Evaluator) -> float:
    images = torch.as_tensor(arm["values"][0])
    sets = [names for file in ("test", "new_test") for names in ConditionDataset(file).label_sets]
    return score(evaluator(evaluator.resized(images)), sets[:len(images)])["micro"]


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    value = work()
    return time.perf_counter() - started, value


def _render(scenes: int, workers: int) -> tuple[float, None]:
    with tempfile.TemporaryDirectory() as folder:
        return _timed(lambda: render_dataset(folder, num_scenes=scenes, seed=0, workers=workers,
                                             progress=False))


@lru_cache
def _trainer(name: str, outputs: str, folder: str) -> Trainer:
    params = Run(name, outputs=Path(outputs)).params()
    return Trainer(params, IclevrDataset(folder, params.image_size, params.in_memory))


def _train(name: str, outputs: str, folder: str, steps: int) -> tuple[float, None]:
    trainer = _trainer(name, outputs, folder)

    def work() -> None:
        for _ in range(steps):
            float(trainer.update())

    return _timed(work)


def operations(model: ClassConditionedUnet) -> float:
    """Return the floating-point operations of a forward and a backward pass for one image."""
    x_t = torch.zeros(2, *model.x_shape, device=model.device)
    labels = torch.zeros(2, model.config.num_classes, device=model.device)
    with FlopCounterMode(display=False) as counter:
        output = model(x_t, 0, labels)
        torch.autograd.grad(output.sum(), list(model.parameters()), allow_unused=True)
    return counter.get_total_flops() / 2


def _multiply(kind: str, device: str) -> tuple[float, None]:
    a = torch.ones(SIDE, SIDE, dtype=getattr(torch, kind),
                   device=device_of(Params(device=device)))

    def work() -> None:
        for _ in range(PRODUCTS):
            product = a @ a
        float(product[0, 0])

    return _timed(work)


@lru_cache
def _plain(name: str, outputs: str, folder: str) -> tuple[Any, ...]:
    params = Run(name, outputs=Path(outputs)).params()
    model = make_model(params).to(device_of(params)).train()
    dataset = IclevrDataset(folder, params.image_size, in_memory=False)
    images = DataLoader(dataset, params.batch_size, shuffle=True,
                        drop_last=len(dataset) >= params.batch_size)
    return model, _forever(images), torch.optim.AdamW(model.parameters()), DDPMScheduler(
        params.num_train_timesteps, beta_schedule=params.beta_schedule)


def _forever(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def _train_plain(name: str, outputs: str, folder: str, steps: int) -> tuple[float, None]:
    """The loop of most tutorials: fp32, epsilon, AdamW, each image read when it is needed."""
    model, batches, optimizer, scheduler = _plain(name, outputs, folder)

    def work() -> None:
        for _ in range(steps):
            images, labels = (part.to(model.device) for part in next(batches))
            timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(images),),
                                      device=images.device)
            epsilon = torch.randn_like(images)
            output = model(scheduler.add_noise(images, epsilon, timesteps), timesteps, labels)
            loss = F.mse_loss(output, epsilon)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss.item()

    return _timed(work)


@lru_cache
def _trained(name: str, outputs: str) -> tuple[Any, ...]:
    run = Run(name, outputs=Path(outputs))
    params = run.params().replace(evaluator_guidance=0.0)
    labels = torch.cat([ConditionDataset(file).labels for file in ("test", "new_test")])
    return params, *load_trained(run, params), labels


def _sample(name: str, outputs: str) -> tuple[float, Any]:
    params, model, scheduler, labels = _trained(name, outputs)
    seconds, images = _timed(lambda: sample(
        model, scheduler, labels, image_seeds(params.seed, len(labels)),
        **sampling_options(params)))
    return seconds, images.numpy()


def _sample_loop(name: str, outputs: str, count: int) -> tuple[float, Any]:
    """The original's way: one image after the other, all timesteps, fp32, no guidance."""
    params, model, scheduler, labels = _trained(name, outputs)
    seconds, images = _timed(lambda: sample(
        model, scheduler, labels[:count], image_seeds(params.seed, count), sampler="ddpm",
        num_inference_steps=params.num_train_timesteps, batch_size=1))
    return seconds * len(labels) / count, images.numpy()
