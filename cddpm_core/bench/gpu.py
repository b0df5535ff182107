"""What a GPU does with the presets that are for it: seed.yaml and full.yaml.

It needs neither a trained run nor the tools of the report, so it also runs where only torch,
diffusers and a few small packages are. Each part writes its results before the next one begins.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cddpm_core.bench.race import train_for
from cddpm_core.bench.run import operations
from cddpm_core.bench.variants import plain_loop
from cddpm_core.config.device import arithmetic_of, device_of
from cddpm_core.config.files import project_root, write_json
from cddpm_core.config.presets import read_params
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import ConditionDataset, IclevrDataset
from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.data.positions import scene_numbers
from cddpm_core.data.source import DataSource, data_source, load_dataset
from cddpm_core.evaluation.fidelity import kernel_distance, sharpness, two_sets
from cddpm_core.evaluation.score import score
from cddpm_core.evaluation.stand_in import load_evaluator
from cddpm_core.runs.run import Run
from cddpm_core.sampling.sample import image_seeds, sample, sampling_options
from cddpm_core.training.trainer import Trainer

__all__ = ["GPU_PARTS", "run_gpu_bench"]

SECONDS = 20.0  # of each measurement of a rate
LAST = 90.0  # seconds kept for the images of full.yaml and their figures


def run_gpu_bench(parts: Sequence[str] = (), minutes: float = 8.0, *, seconds: float = SECONDS,
                  changes: dict[str, Any] | None = None) -> Path:
    """Measure the parts, all by default, and return the path of ``gpu.json``.

    It ends after about so many ``minutes``: full.yaml, the last part, trains as long as is left.
    With ``changes`` of the parameters and fewer ``seconds`` it also ends soon on a CPU. A result of
    a part that is not measured is kept if card and torch are the same.
    """
    ends = time.monotonic() + 60 * minutes
    out, changes = Run("bench"), changes or {}
    device = device_of(Params(**{k: v for k, v in changes.items() if k == "device"}))
    kept, machine = out.read("gpu.json"), _machine(device)
    same = all(kept.get(key) == machine[key] for key in ("card", "torch"))
    results = (kept if same else {}) | machine
    for name in parts or GPU_PARTS:
        results[name] = GPU_PARTS[name](changes, seconds, ends)
        write_json(out / "gpu.json", results)
    return out / "gpu.json"


def _machine(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    side = 8192 if cuda else 1024
    rates = {}
    for kind in dict.fromkeys(("float32", arithmetic_of("auto", device))):
        a = torch.randn(side, side, device=device).to(getattr(torch, kind))
        rates[kind] = 2 * side**3 * _rate(lambda a=a: a @ a, device, 2.0)
    return {"card": torch.cuda.get_device_name(device) if cuda else "CPU",
            "torch": torch.__version__, "matrix_flops_per_second": rates}


def _rate(work: Callable[[], Any], device: torch.device, seconds: float) -> float:
    """Return how often a second ``work`` is done, without its first calls, which compile."""
    for _ in range(3):
        work()
    _wait(device)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        for _ in range(5):
            work()
        count += 5
        _wait(device)
    return count / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _tests(changes: dict[str, Any], seconds: float, ends: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider",
         "tests/test_gpu.py", "tests/training/test_memory.py"],
        cwd=project_root(), capture_output=True, text=True)
    return {"exit_code": done.returncode, "printed": (done.stdout + done.stderr)[-6000:]}


def _params(name: str, changes: dict[str, Any]) -> Params:
    return read_params(f"params/{name}.yaml").replace(**changes)


def _source(params: Params) -> DataSource:
    return data_source(params, Run(params.run).cache)


def _seed(changes: dict[str, Any], seconds: float, ends: float) -> dict[str, Any]:
    """The original's configuration: its own loop in float32, and this package's training."""
    params = _params("seed", changes)
    folder, device = _source(params).folder, device_of(params)
    ours = Trainer(params.replace(mixed_precision="auto", compile="auto"),
                   load_dataset(params, Run(params.run).cache))
    ours.unet.train()
    plain = params.batch_size * _rate(plain_loop(params, folder)[1], device, seconds)
    found = _trained_at(ours, seconds)
    return {"what": "seed.yaml: its loop in float32, against auto arithmetic, compiled",
            "plain_loop": {"images_per_second": plain}, "ours": found,
            "ratio": found["images_per_second"] / plain}


def _trained_at(trainer: Trainer, seconds: float) -> dict[str, Any]:
    """Return the speed of a training, and how long all of it takes at that speed."""
    params = trainer.params
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    rate = params.batch_size * _rate(trainer.update, trainer.device, seconds)
    flops, images = operations(trainer.unet), trainer.total_steps * params.batch_size
    return {"images_per_second": rate, "flops_per_second": rate * flops,
            "arithmetic": arithmetic_of(params.mixed_precision, trainer.device),
            "compiled": trainer.network is not trainer.unet, "images": images,
            "projected_minutes": images / rate / 60, "skipped": trainer.counters.read().skipped,
            "peak_mib": (torch.cuda.max_memory_allocated() / 2**20
                         if trainer.device.type == "cuda" else None)}


def _full(changes: dict[str, Any], seconds: float, ends: float) -> dict[str, Any]:
    """full.yaml: its speed; a training for the time that is left, its accuracy and fidelity."""
    params = _params("full", changes)
    cache = Run(params.run).cache
    source, dataset = _source(params), load_dataset(params, cache)
    trainer = Trainer(params, dataset)
    trainer.unet.train()
    found = {"what": "full.yaml", "speed": _trained_at(trainer, seconds)}
    trainer = Trainer(params, dataset)
    trainer.unet.train()
    left = max(seconds, ends - time.monotonic() - LAST)
    train_for(trainer, left)
    pipeline, evaluator = trainer.averaged(), load_evaluator(params.evaluator, trainer.device)
    options = sampling_options(pipeline, params, evaluator)
    files = [ConditionDataset(file) for file in CONDITION_FILES]
    labels = torch.cat([file.labels for file in files])
    for _ in range(2):  # the first time prepares kernels
        started = time.perf_counter()
        images = sample(pipeline, labels, image_seeds(params.seed, len(labels)), **options)
        taken = time.perf_counter() - started
    parts = images.split([len(file) for file in files])
    return found | {
        "trained": {"minutes": left / 60, "steps": trainer.step,
                    "epochs": trainer.epoch, **dict(trainer.counters.read()._asdict())},
        "sampling": {"seconds_of_64": taken, "images_per_second": len(labels) / taken},
        "micro": {file.name: score(evaluator(part), file.conditions)["micro"]
                  for file, part in zip(files, parts, strict=True)},
        "fidelity": _fidelity(params, pipeline, evaluator, source, options)}


def _fidelity(params: Params, pipeline: Any, evaluator: Any, source: DataSource,
              options: dict[str, Any]) -> dict[str, Any]:
    """Return sharpness and kernel distance to held-out renders of the same labels and positions."""
    heldout = IclevrDataset(source.heldout, params.image_size)
    scenes = scene_numbers([path.name for path in heldout.files], heldout.conditions)
    rows, _ = two_sets(scenes, params.analysis_images, params.seed)
    renders, labels = heldout.batch(rows)
    images = sample(pipeline, labels, image_seeds(params.seed, len(rows), "fidelity"),
                    positions=heldout.positions[rows] if params.layout else None, **options)
    features = [evaluator.features(each) for each in (images, renders)]
    return {"images": len(rows), "sharpness": sharpness(images) / sharpness(renders),
            "kernel_distance": kernel_distance(*features, scenes[rows], scenes[rows])}


GPU_PARTS: dict[str, Callable[[dict[str, Any], float, float], dict[str, Any]]] = {
    "tests": _tests, "seed": _seed, "full": _full}
