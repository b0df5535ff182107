"""Recipes given the same minutes on the same images: how many objects each has learned to draw.

Unlike the ratios of `bench` these are accuracies, each from one training that starts from
nothing. An arm has a process of its own, so that its peak memory can be told.
"""

from __future__ import annotations

import multiprocessing
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cddpm_core.data import ConditionDataset, IclevrDataset
from cddpm_core.devices import device_of
from cddpm_core.evaluation import get_evaluator
from cddpm_core.evaluator import Evaluator, score
from cddpm_core.facts import evaluator_facts
from cddpm_core.labels import OBJECTS, read_train, to_multi_hot
from cddpm_core.params import Params, resolve
from cddpm_core.presets import read_yaml
from cddpm_core.runs import Run, progress, project_root
from cddpm_core.sampling import image_seeds, sample, sampling_options
from cddpm_core.sources import data_source, left_out
from cddpm_core.trainer import Trainer

__all__ = ["in_its_own_process", "peak_mib", "run_race", "train_for"]

PEER = "denoising_diffusion_pytorch"
DDIM_STEPS = 25  # of the others, which on a CPU would draw for longer than they train in more
SINGLES = [(name,) for name in OBJECTS for _ in range(2)]  # each object twice


def run_race(run: Run, *, minutes: float,
             save: Callable[[dict[str, Any]], None] = lambda found: None) -> dict[str, Any]:
    """Return ``recipe_vs_seed_recipe`` and ``against_peer`` for ``minutes`` of training an arm.

    The first sets the recipe of ``run``, its learning rate stretched over the minutes, against
    the original's (noise prediction on raw pixels, Adam 1e-5, batch 8) and against that with a
    sane learning rate (2e-4, batch 64), both with the network of ``params/tutorial.yaml`` and
    `DDIM_STEPS`. The second trains on one-object images alone, and draws each object twice:
    the run's recipe, and the class-conditional network of denoising-diffusion-pytorch with that
    package's own objective, optimiser settings and guidance, if it is installed. A failure of
    that package is noted under ``missing``. Reading the images, and finding where their objects
    stand, is not counted in any arm. ``chance`` is what a guess of the labels would score.
    ``save`` is called with what there is after each arm.
    """
    ours = run.params().replace(evaluator_guidance=0.0)
    tutorial = resolve(read_yaml(project_root() / "params/tutorial.yaml")).replace(
        sampler="ddim", num_inference_steps=DDIM_STEPS, device=ours.device, seed=ours.seed,
        image_size=ours.image_size, holdout=ours.holdout)
    as_written = tutorial.replace(batch_size=8, learning_rate=1e-5)
    conditions = [tuple(names) for file in ("test", "new_test")
                  for names in ConditionDataset(file).label_sets]
    evaluator, folder = get_evaluator(ours, run), str(data_source(ours, run).folder)
    recipe = ("this run's recipe: its network, optimiser, objective, steps and guidance"
              + (", and the places of the objects" if ours.layout else ""))
    all_arms = {
        "ours": (recipe, _ours, ours, False, conditions),
        "seed_recipe": ("noise prediction on raw pixels, Adam 1e-5, batch 8, fp32; the network of "
                        f"tutorial.yaml, {DDIM_STEPS} DDIM steps", _ours, as_written, False,
                        conditions),
        "sane_seed_recipe": ("the same with Adam 2e-4, batch 64", _ours, tutorial, False,
                             conditions)}
    single_arms = {
        "ours": (recipe, _ours, ours, True, SINGLES),
        "peer": ("denoising-diffusion-pytorch: Unet(dim=32), Adam 1e-4, batch 16, fp32, guidance "
                 f"6, {DDIM_STEPS} DDIM steps with eta 1; the better of its last and its averaged "
                 "weights",
                 _peer, ours, True, SINGLES)}
    if find_spec(PEER) is None:
        del single_arms["peer"]
    found: dict[str, Any] = {}
    with progress(total=len(all_arms) + len(single_arms), desc="recipes", unit="arm") as bar:
        for name, arms in (("recipe_vs_seed_recipe", all_arms), ("against_peer", single_arms)):
            found[name] = {"minutes": minutes, "evaluator": evaluator_facts(evaluator), "arms": {},
                           "chance": _chance(conditions if arms is all_arms else SINGLES)}
            for arm, (what, train, params, single, sets) in arms.items():
                try:
                    made = in_its_own_process(train, params, folder, single, minutes, sets)
                    found[name]["arms"][arm] = {"what": what, **_scored(made, evaluator, sets)}
                except Exception as error:  # whatever another package may raise
                    if arm != "peer":
                        raise
                    found[name]["missing"] = (f"{PEER.replace('_', '-')} failed: "
                                              f"{type(error).__name__}: {str(error)[:200]}")
                save(found)
                bar.update()
    if "peer" not in single_arms:
        found["against_peer"]["missing"] = (f"{PEER.replace('_', '-')} is not installed: "
                                            "pip install '.[bench]'")
    return found


def peak_mib() -> float:
    """Return the most memory this process has had: resident, or on a GPU that of its tensors."""
    if torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    if sys.platform == "linux":  # where ru_maxrss begins with the size of the parent
        status = Path("/proc/self/status").read_text()
        return round(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 2**10, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def in_its_own_process(work: Callable, *arguments: Any) -> dict[str, Any]:
    """Return the dict that ``work`` of the arguments returns, and ``peak_mib`` of its process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        made = pool.submit(work, *arguments).result()
        return {**made, "peak_mib": pool.submit(peak_mib).result()}


def _scored(made: dict[str, Any], evaluator: Evaluator,
            sets: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What was made, with the score of the best of the sets of images it drew."""
    scored = max((score(evaluator(evaluator.resized(torch.from_numpy(images))), sets)
                  for images in made.pop("drawn")), key=lambda found: found["micro"])
    return {**made, "micro": scored["micro"], "macro": scored["macro"],
            "objects": scored["objects"]}


def _chance(sets: Sequence[Sequence[str]]) -> float:
    """The share of objects that is found where all names are equally likely to be seen."""
    return sum(len(names) ** 2 for names in sets) / len(OBJECTS) / sum(map(len, sets))


def _dataset(params: Params, folder: str, single: bool) -> IclevrDataset:
    hidden = left_out(params)
    if single:
        labels = read_train(Path(folder) / "train.json").values()
        hidden |= {frozenset(names) for names in labels if len(names) > 1}
    return IclevrDataset(folder, params.image_size, leave_out=hidden)


def train_for(trainer: Trainer, seconds: float) -> None:
    """Take steps for so long; the learning rate ends its schedule with them."""
    started, spent = time.perf_counter(), 0.0
    trainer.model.train()
    while spent < seconds:
        trainer.update()
        spent = time.perf_counter() - started
        # The first steps are slow, and no schedule ends before the time does.
        trainer.total_steps = trainer.step + max(1, round(trainer.step * (seconds / spent - 1)))


def _ours(params: Params, folder: str, single: bool, minutes: float,
          sets: Sequence[Sequence[str]]) -> dict[str, Any]:
    trainer = Trainer(params, _dataset(params, folder, single))
    train_for(trainer, 60 * minutes)
    labels = torch.stack([to_multi_hot(names) for names in sets])
    drawn = sample(trainer.averaged(), trainer.scheduler, labels, image_seeds(0, len(labels)),
                   **sampling_options(params))
    return {"steps": trainer.step, "images": trainer.step * params.batch_size,
            "parameters": sum(w.numel() for w in trainer.weights), "drawn": [drawn.numpy()]}


def _peer(params: Params, folder: str, single: bool, minutes: float,
          sets: Sequence[Sequence[str]]) -> dict[str, Any]:
    from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    torch.manual_seed(0)
    dataset, device = _dataset(params, folder, single), device_of(params)
    model = GaussianDiffusion(
        Unet(dim=32, dim_mults=(1, 2, 4, 8), num_classes=len(OBJECTS), cond_drop_prob=0.5),
        image_size=params.image_size, sampling_timesteps=DDIM_STEPS).to(device)
    # Batch, optimiser and average as that package's Trainer has them by default.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99))
    average = EMA(model, beta=0.995, update_every=10)
    started, steps, generator = time.perf_counter(), 0, torch.Generator().manual_seed(0)
    while time.perf_counter() - started < 60 * minutes:
        rows = torch.randint(0, len(dataset), (16,), generator=generator).numpy()
        images, labels = (part.to(device) for part in dataset.batch(rows))
        loss = model((images + 1) / 2, classes=labels.argmax(1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        steps += 1
    classes = torch.tensor([OBJECTS.index(name) for name, in sets], device=device)
    # Its average is made for long trainings, and in a short one mostly of the first weights.
    drawn = [(2 * weights.eval().sample(classes, cond_scale=6.0).cpu() - 1).numpy()
             for weights in (average.ema_model, model)]
    return {"steps": steps, "images": 16 * steps,
            "parameters": sum(w.numel() for w in model.parameters()), "drawn": drawn}
