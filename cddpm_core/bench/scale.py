"""How cost scales: seconds per image and peak memory against the size of what is computed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from statistics import median
from typing import Any

import torch

from cddpm_core.bench.process import in_its_own_process
from cddpm_core.bench.variants import timed
from cddpm_core.config.device import device_of
from cddpm_core.config.errors import UserError
from cddpm_core.config.progress import progress
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import ConditionDataset, IclevrDataset
from cddpm_core.runs.run import Run
from cddpm_core.sampling.pipeline import make_pipeline
from cddpm_core.sampling.sample import image_seeds, sample, sampling_options
from cddpm_core.scenes.dataset import render_dataset
from cddpm_core.training.trainer import Trainer

__all__ = ["run_scale"]

SCENES = 40  # rendered as training images of any size


def run_scale(run: Run, *, factors: Sequence[float] = (0.5, 1, 2), steps: int = 6
              ) -> dict[str, list[dict[str, Any]]]:
    """Return the cost of ``training`` and of ``sampling`` as one size at a time varies.

    For training the sizes are the width of the network (``class_emb_size``), the side of the
    images, and the batch size; for sampling the number of steps and the batch size. Each is
    multiplied by ``factors``, batch sizes by their squares, where the configuration of ``run``
    and the memory allow it. Each variant has its own process. It takes ``steps`` training steps,
    or samples half as many batches, after a first round that is not counted; the median counts.
    Networks are untrained, which costs the same, and see rendered scenes, whatever the run's data.

    A variant is a dict with ``varied``, ``value``, ``seconds_per_image``, ``parameters`` and
    ``peak_mib``.
    """
    params = run.params().replace(evaluator_guidance=0.0, epochs=1_000_000)
    squares = [factor**2 for factor in factors]
    with tempfile.TemporaryDirectory() as folder:
        render_dataset(folder, num_scenes=SCENES, seed=0, progress=False)
        work = {"training": (_train, [*_scaled(params, "class_emb_size", factors),
                                      *_scaled(params, "image_size", factors),
                                      *_scaled(params, "batch_size", squares)]),
                "sampling": (_sample, [*_scaled(params, "num_inference_steps", factors),
                                       *_scaled(params, "sample_batch_size", squares)])}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in work}
        with progress(total=sum(len(variants) for _, variants in work.values()), desc="scale",
                      unit="variant") as bar:
            for name, (measure, variants) in work.items():
                for key, variant in variants:
                    about = {"varied": key, "value": getattr(variant, key)}
                    try:
                        made = in_its_own_process(measure, variant, folder, steps)
                        found[name].append({**about, **made})
                    except (BrokenProcessPool, RuntimeError) as error:
                        if not _no_memory(error):
                            raise
                    bar.update()
    return found


def _no_memory(error: Exception) -> bool:
    """Whether a process was killed or refused memory; on a CPU that is a plain `RuntimeError`."""
    return (isinstance(error, BrokenProcessPool | torch.OutOfMemoryError)
            or "allocate memory" in str(error))


def _scaled(params: Params, key: str, factors: Sequence[float]) -> list[tuple[str, Params]]:
    """The parameters with one of them multiplied, where the result is valid."""
    found = []
    for factor in factors:
        try:
            found.append((key, params.replace(**{key: round(getattr(params, key) * factor)})))
        except UserError:
            continue
    return found


def _median_seconds(work: Callable[[], Any], times: int) -> float:
    """The median of so many rounds, after one that loads and compiles."""
    return median([timed(work)[0] for _ in range(1 + times)][1:])


def _train(params: Params, folder: str, steps: int) -> dict[str, float]:
    trainer = Trainer(params, IclevrDataset(folder, params.image_size))
    seconds = _median_seconds(lambda: float(trainer.update()), steps)
    return {"seconds_per_image": seconds / params.batch_size,
            "parameters": trainer.averaged().unet.num_parameters()}


def _sample(params: Params, folder: str, steps: int) -> dict[str, float]:
    pipeline = make_pipeline(params, IclevrDataset(folder, params.image_size))
    pipeline, count = pipeline.to(device_of(params)), params.sample_batch_size
    labels = ConditionDataset("test").labels
    labels = labels[torch.arange(count) % len(labels)]
    options = sampling_options(pipeline, params)
    seconds = _median_seconds(lambda: sample(pipeline, labels, image_seeds(0, count), **options),
                              max(1, steps // 2))
    return {"seconds_per_image": seconds / count, "parameters": pipeline.unet.num_parameters()}
