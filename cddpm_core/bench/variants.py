"""The work of each variant of `bench.run` in one turn, each in a process of its own.

Each function returns the seconds it took, and the sampled images or the last loss. What it needs is
loaded in the first turn and kept.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F
from torch.utils.data import DataLoader

from cddpm_core.config.device import device_of
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import ConditionDataset, IclevrDataset
from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.runs.run import Run
from cddpm_core.sampling.pipeline import load_pipeline, make_pipeline
from cddpm_core.sampling.sample import image_seeds, sample, sampling_options
from cddpm_core.scenes.dataset import render_dataset
from cddpm_core.training.trainer import Trainer

__all__ = ["PRODUCT", "multiply", "plain_loop", "render", "sample_in_batches", "sample_one_by_one",
           "timed", "train", "train_plain"]

SIDE, PRODUCTS = 2048, 8  # square matrices, and how often they are multiplied
PRODUCT = 2 * PRODUCTS * SIDE**3  # floating-point operations of that


def timed(work: Callable[[], Any], times: int = 1) -> tuple[float, Any]:
    """Return the seconds that so many calls take, and the value of the last."""
    started = time.perf_counter()
    for _ in range(times):
        value = work()
    return time.perf_counter() - started, value


def render(scenes: int, workers: int) -> tuple[float, None]:
    """Render and write scenes of three images each."""
    with tempfile.TemporaryDirectory() as folder:
        return timed(lambda: render_dataset(folder, num_scenes=scenes, seed=0, workers=workers,
                                            progress=False))


@lru_cache
def _trainer(name: str, outputs: str, folder: str) -> Trainer:
    # More epochs: the turns may take more steps than the run, and its learning rate ends at 0.
    params = Run(name, outputs=Path(outputs)).params().replace(epochs=1_000_000)
    return Trainer(params, IclevrDataset(folder, params.image_size, params.in_memory,
                                         missing=params.missing))


def train(name: str, outputs: str, folder: str, steps: int) -> tuple[float, Any]:
    """Take training steps with the parameters of a run, starting with a new network."""
    trainer = _trainer(name, outputs, folder)
    return timed(lambda: float(trainer.update()), steps)


def multiply(kind: str, device: str) -> tuple[float, None]:
    """Multiply large square matrices; `PRODUCT` counts the operations."""
    a = torch.ones(SIDE, SIDE, dtype=getattr(torch, kind),
                   device=device_of(Params(device=device)))

    def work() -> None:
        for _ in range(PRODUCTS):
            product = a @ a
        float(product[0, 0])

    return timed(work)


def plain_loop(params: Params, folder: str | Path) -> tuple[torch.nn.Module, Callable[[], None]]:
    """Return a network, and a step of the usual tutorial loop that trains it.

    The loop: fp32, epsilon, AdamW, images read when needed. The network is that of the parameters,
    on images in [-1, 1].
    """
    params = params.replace(standardise=False, data_scale=1.0)
    dataset = IclevrDataset(folder, params.image_size, in_memory=False, missing=params.missing)
    network = make_pipeline(params, dataset).unet.to(device_of(params)).train()
    batches = _forever(DataLoader(dataset, params.batch_size, shuffle=True,
                                  drop_last=len(dataset) >= params.batch_size))
    optimizer = torch.optim.AdamW(network.parameters())
    scheduler = DDPMScheduler(params.num_train_timesteps, beta_schedule=params.beta_schedule)

    def step() -> None:
        images, labels = (part.to(network.device) for part in next(batches))
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(images),),
                                  device=images.device)
        epsilon = torch.randn_like(images)
        output = network(scheduler.add_noise(images, epsilon, timesteps), timesteps, labels)
        loss = F.mse_loss(output, epsilon)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return network, step


def _forever(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


@lru_cache
def _plain(name: str, outputs: str, folder: str) -> tuple[torch.nn.Module, Callable[[], None]]:
    return plain_loop(Run(name, outputs=Path(outputs)).params(), folder)


def train_plain(name: str, outputs: str, folder: str, steps: int) -> tuple[float, Any]:
    """Take steps of `plain_loop`."""
    return timed(_plain(name, outputs, folder)[1], steps)


@lru_cache
def _trained(name: str, outputs: str) -> tuple[Any, ...]:
    run = Run(name, outputs=Path(outputs))
    params = run.params().replace(evaluator_guidance=0.0)
    labels = torch.cat([ConditionDataset(file).labels for file in CONDITION_FILES])
    return params, load_pipeline(run / "model", device_of(params)), labels


def sample_in_batches(name: str, outputs: str) -> tuple[float, Any]:
    """Sample all conditions with the sampler of the run."""
    params, pipeline, labels = _trained(name, outputs)
    seconds, images = timed(lambda: sample(
        pipeline, labels, image_seeds(params.seed, len(labels)),
        **sampling_options(pipeline, params)))
    return seconds, images.numpy()


def sample_one_by_one(name: str, outputs: str, count: int) -> tuple[float, Any]:
    """Sample the first ``count`` conditions one by one: ancestral, all T steps, no guidance.

    The time is scaled to all conditions.
    """
    params, pipeline, labels = _trained(name, outputs)
    seconds, images = timed(lambda: sample(
        pipeline, labels[:count], image_seeds(params.seed, count), sampler="ddpm", batch_size=1,
        layout_choices=params.layout_choices))
    return seconds * len(labels) / count, images.numpy()
