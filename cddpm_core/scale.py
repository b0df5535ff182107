"""How cost grows: seconds an image and peak memory, against the size of what is computed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from statistics import median
from typing import Any

import torch

from cddpm_core.data import ConditionDataset, IclevrDataset
from cddpm_core.devices import device_of
from cddpm_core.errors import UserError
from cddpm_core.model import model_for
from cddpm_core.params import Params
from cddpm_core.race import in_its_own_process
from cddpm_core.runs import Run, progress
from cddpm_core.sampling import image_seeds, sample, sampling_options
from cddpm_core.scenes import render_dataset
from cddpm_core.schedule import make_scheduler
from cddpm_core.trainer import Trainer

__all__ = ["run_scale"]

SCENES = 40  # rendered to have pictures of any size; the rows drawn are those that vary in them


def run_scale(run: Run, *, factors: Sequence[float] = (0.5, 1, 2), steps: int = 6
              ) -> dict[str, list[dict[str, Any]]]:
    """Return the cost of ``training`` and of ``sampling`` as one thing at a time grows.

    For training that is the width of the network (``class_emb_size``), the side of the
    images, and the batch, four times as far; for sampling the steps and the batch. Each is
    multiplied by ``factors``, where the configuration of ``run`` and the memory allow it. An arm
    has a process of its own and takes ``steps`` training steps, or draws a batch half as often,
    after a first round that is not counted; their median counts. Networks are untrained, which
    costs the same, and draw the rows that vary in a few rendered scenes, whatever the data of the
    run.

    An arm is a dict with ``grows``, ``value``, ``seconds_per_image``, ``parameters`` and
    ``peak_mib``.
    """
    params = run.params().replace(evaluator_guidance=0.0, epochs=1_000_000)
    squares = [factor**2 for factor in factors]
    with tempfile.TemporaryDirectory() as folder:
        render_dataset(folder, num_scenes=SCENES, seed=0, progress=False)
        work = {"training": (_train, [*_grown(params, "class_emb_size", factors),
                                      *_grown(params, "image_size", factors),
                                      *_grown(params, "batch_size", squares)]),
                "sampling": (_sample, [*_grown(params, "num_inference_steps", factors),
                                       *_grown(params, "sample_batch_size", squares)])}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in work}
        with progress(total=sum(len(arms) for _, arms in work.values()), desc="scale",
                      unit="arm") as bar:
            for name, (measure, arms) in work.items():
                for key, arm in arms:
                    about = {"grows": key, "value": getattr(arm, key)}
                    try:
                        made = in_its_own_process(measure, arm, folder, steps)
                        found[name].append({**about, **made})
                    except (BrokenProcessPool, RuntimeError) as error:
                        if not _no_memory(error):
                            raise
                    bar.update()
    return found


def _no_memory(error: Exception) -> bool:
    """Whether a process was killed or refused memory; a CPU's refusal is a plain `RuntimeError`."""
    return (isinstance(error, BrokenProcessPool | torch.OutOfMemoryError)
            or "allocate memory" in str(error))


def _grown(params: Params, key: str, factors: Sequence[float]) -> list[tuple[str, Params]]:
    """The parameters with one of them multiplied, as far as they go together."""
    found = []
    for factor in factors:
        try:
            found.append((key, params.replace(**{key: round(getattr(params, key) * factor)})))
        except UserError:
            continue
    return found


def _median_seconds(work: Callable[[], Any], times: int) -> float:
    """The median of so many rounds, after one that loads and compiles."""
    seconds = []
    for _ in range(1 + times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:])


def _train(params: Params, folder: str, steps: int) -> dict[str, float]:
    trainer = Trainer(params, IclevrDataset(folder, params.image_size))
    seconds = _median_seconds(lambda: float(trainer.update()), steps)
    return {"seconds_per_image": seconds / params.batch_size,
            "parameters": sum(w.numel() for w in trainer.weights)}


def _sample(params: Params, folder: str, steps: int) -> dict[str, float]:
    model = model_for(params, IclevrDataset(folder, params.image_size))
    model, count = model.to(device_of(params)), params.sample_batch_size
    labels = ConditionDataset("test").labels
    labels = labels[torch.arange(count) % len(labels)]
    scheduler, options = make_scheduler(params), sampling_options(params)
    seconds = _median_seconds(lambda: sample(model, scheduler, labels, image_seeds(0, count),
                                             **options), max(1, steps // 2))
    return {"seconds_per_image": seconds / count,
            "parameters": sum(w.numel() for w in model.parameters())}
