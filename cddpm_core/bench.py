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

from cddpm_core.data import ConditionDataset, IclevrDataset, data_source
from cddpm_core.devices import device_of
from cddpm_core.evaluation import get_evaluator
from cddpm_core.evaluator import Evaluator, score
from cddpm_core.facts import evaluator_facts
from cddpm_core.model import make_model
from cddpm_core.provenance import made_with
from cddpm_core.race import peak_mib, run_race
from cddpm_core.runs import Run, progress, write_json
from cddpm_core.sampling import image_seeds, sample
from cddpm_core.scenes import render_dataset
from cddpm_core.trainer import Trainer
from cddpm_core.training import load_trained

__all__ = ["run_bench"]

COURSE_IMAGES = 18_009  # images of the course's training set, three a scene


def run_bench(run: Run, out: Run, *, repeats: int = 3, scenes: int = 200, steps: int = 12,
              loop_images: int = 2, minutes: float = 3.0) -> dict[str, Any]:
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

    Each of ``rendering``, ``training_vs_plain_loop`` and ``sampling_vs_seed_loop`` has
    the ``ratio`` (median, least and greatest of the turns), the seconds and the peak
    resident memory in MiB of both arms.
    """
    params = run.params()
    load_trained(run, params)  # a run without a trained network is named before any work
    evaluator = get_evaluator(params, run)
    folder = str(data_source(params, run).folder)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with progress(total=6 * repeats, desc="bench", unit="turn") as bar:
        one, all_cores = _take_turns(repeats, bar, (_render, scenes, 1), (_render, scenes, cores))
        plain, ours = _take_turns(repeats, bar, (_train_plain, run.name, str(run.outputs), folder,
                                                 steps),
                                  (_train, run.name, str(run.outputs), folder, steps))
        loop, batch = _take_turns(repeats, bar, (_sample_loop, run.name, str(run.outputs),
                                                 loop_images),
                                  (_sample, run.name, str(run.outputs)))
    images, size = 3 * scenes, steps * params.batch_size
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
                                  "ours": size / median(ours["seconds"])}},
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
    params = run.params()
    labels = torch.cat([ConditionDataset(file).labels for file in ("test", "new_test")])
    return params, *load_trained(run, params), labels


def _sample(name: str, outputs: str) -> tuple[float, Any]:
    params, model, scheduler, labels = _trained(name, outputs)
    seconds, images = _timed(lambda: sample(
        model, scheduler, labels, image_seeds(params.seed, len(labels)), sampler=params.sampler,
        num_inference_steps=params.num_inference_steps, guidance_scale=params.guidance_scale,
        batch_size=params.sample_batch_size, mixed_precision=params.mixed_precision))
    return seconds, images.numpy()


def _sample_loop(name: str, outputs: str, count: int) -> tuple[float, Any]:
    """The original's way: one image after the other, all timesteps, fp32, no guidance."""
    params, model, scheduler, labels = _trained(name, outputs)
    seconds, images = _timed(lambda: sample(
        model, scheduler, labels[:count], image_seeds(params.seed, count), sampler="ddpm",
        num_inference_steps=params.num_train_timesteps, batch_size=1))
    return seconds * len(labels) / count, images.numpy()
