"""What the arms of `bench` do in a turn, each in a process of its own.

Each returns the seconds it took, and the images it drew or None. What it needs is loaded in the
first turn and kept.
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

from cddpm_core.data import ConditionDataset, IclevrDataset
from cddpm_core.devices import device_of
from cddpm_core.model import load_model, make_model
from cddpm_core.params import Params
from cddpm_core.runs import Run
from cddpm_core.sampling import image_seeds, sample, sampling_options
from cddpm_core.scenes import render_dataset
from cddpm_core.trainer import Trainer
from cddpm_core.training import load_trained

__all__ = ["PRODUCT", "draw", "draw_one_by_one", "multiply", "render", "train", "train_plain"]

SIDE, PRODUCTS = 2048, 8  # square matrices, and how often they are multiplied
PRODUCT = 2 * PRODUCTS * SIDE**3  # floating-point operations of that


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    value = work()
    return time.perf_counter() - started, value


def render(scenes: int, workers: int) -> tuple[float, None]:
    """Scenes of three images each, rendered and written."""
    with tempfile.TemporaryDirectory() as folder:
        return _timed(lambda: render_dataset(folder, num_scenes=scenes, seed=0, workers=workers,
                                             progress=False))


@lru_cache
def _trainer(name: str, outputs: str, folder: str) -> Trainer:
    # Turns may take more steps than the run did, whose learning rate would end with it.
    params = Run(name, outputs=Path(outputs)).params().replace(epochs=1_000_000)
    return Trainer(params, IclevrDataset(folder, params.image_size, params.in_memory))


def train(name: str, outputs: str, folder: str, steps: int) -> tuple[float, None]:
    """Steps of the run's own training, beginning with a new network."""
    trainer = _trainer(name, outputs, folder)

    def work() -> None:
        for _ in range(steps):
            float(trainer.update())

    return _timed(work)


def multiply(kind: str, device: str) -> tuple[float, None]:
    """As many products of large square matrices as `PRODUCT` counts the operations of."""
    a = torch.ones(SIDE, SIDE, dtype=getattr(torch, kind),
                   device=device_of(Params(device=device)))

    def work() -> None:
        for _ in range(PRODUCTS):
            product = a @ a
        float(product[0, 0])

    return _timed(work)


@lru_cache
def _plain(name: str, outputs: str, folder: str) -> tuple[Any, ...]:
    run = Run(name, outputs=Path(outputs))
    params = run.params()
    # The run's network over whole images: that some rows never vary is for the run to use.
    layouts = load_model(run / "model/unet").config.num_layouts
    model = make_model(params, num_layouts=layouts).to(device_of(params)).train()
    dataset = IclevrDataset(folder, params.image_size, in_memory=False)
    images = DataLoader(dataset, params.batch_size, shuffle=True,
                        drop_last=len(dataset) >= params.batch_size)
    return model, _forever(images), torch.optim.AdamW(model.parameters()), DDPMScheduler(
        params.num_train_timesteps, beta_schedule=params.beta_schedule)


def _forever(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


def train_plain(name: str, outputs: str, folder: str, steps: int) -> tuple[float, None]:
    """The loop of most tutorials: fp32, epsilon, AdamW, each image read when it is needed."""
    model, batches, optimizer, scheduler = _plain(name, outputs, folder)

    def work() -> None:
        for _ in range(steps):
            images, labels = (part.to(model.device) for part in next(batches))
            images = model.standardise(images)
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


def draw(name: str, outputs: str) -> tuple[float, Any]:
    """All conditions with the run's sampler."""
    params, model, scheduler, labels = _trained(name, outputs)
    seconds, images = _timed(lambda: sample(
        model, scheduler, labels, image_seeds(params.seed, len(labels)),
        **sampling_options(params)))
    return seconds, images.numpy()


def draw_one_by_one(name: str, outputs: str, count: int) -> tuple[float, Any]:
    """The original's way, of the first conditions, its time scaled to all of them.

    One image after the other, all timesteps, fp32, no guidance.
    """
    params, model, scheduler, labels = _trained(name, outputs)
    seconds, images = _timed(lambda: sample(
        model, scheduler, labels[:count], image_seeds(params.seed, count), sampler="ddpm",
        num_inference_steps=params.num_train_timesteps, batch_size=1,
        layout_choices=params.layout_choices))
    return seconds * len(labels) / count, images.numpy()
