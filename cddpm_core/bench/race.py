"""Recipes that train for the same minutes on the same images: how many objects each learns.

Unlike the ratios of `bench.run` these are accuracies and sharpness, each from one training from
scratch. Each variant has its own process, so that its peak memory can be measured. A race of an
hour a variant takes most of a day, so what a variant found is kept, and an interrupted race goes on
with the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from cddpm_core.bench.process import in_its_own_process
from cddpm_core.config.device import device_of
from cddpm_core.config.files import project_root, write_json
from cddpm_core.config.presets import read_yaml
from cddpm_core.config.progress import progress
from cddpm_core.config.schema import Params, resolve
from cddpm_core.data.dataset import ConditionDataset, IclevrDataset
from cddpm_core.data.labels import CONDITION_FILES, OBJECTS, read_train, to_multi_hot
from cddpm_core.data.source import data_source, left_out
from cddpm_core.evaluation.evaluator import Evaluator
from cddpm_core.evaluation.fidelity import expected_sharpness, sharpness
from cddpm_core.evaluation.score import evaluator_facts, score
from cddpm_core.evaluation.stand_in import load_evaluator
from cddpm_core.runs.run import Run
from cddpm_core.sampling.sample import image_seeds, sample, sampling_options
from cddpm_core.training.trainer import Trainer

__all__ = ["run_race", "train_for"]

PEER = "denoising_diffusion_pytorch"
DDIM_STEPS = 25  # of the other recipes; with more, sampling on a CPU takes longer than training
SINGLES = [(name,) for name in OBJECTS for _ in range(2)]  # each object twice
LOOKS = (1 / 8, 1 / 4, 1 / 2, 1)  # fractions of the time after which images are sampled


def run_race(run: Run, out: Run, *, minutes: float) -> dict[str, Any]:
    """Return ``recipe_vs_seed_recipe`` and ``against_peer`` after ``minutes`` of training each.

    The first compares the recipe of ``run``, its learning rate stretched over the minutes, with
    the original recipe (noise prediction on raw pixels, Adam 1e-5, batch 8) and with the same at a
    usual learning rate (2e-4, batch 64), both with the network of ``params/tutorial.yaml`` and
    `DDIM_STEPS`. The second trains on images of one object and samples each object twice: the
    recipe of the run, and the class-conditional network of denoising-diffusion-pytorch with its
    own objective, optimiser settings and guidance, if it is installed. A failure of that package
    is noted under ``missing``. The time to read the images, to find the positions of their objects
    and to sample at the `LOOKS` is not counted for any variant. ``chance`` is the score of random
    labels.

    ``race.json`` of the run ``out`` has the results so far, after each variant. Variants that are
    there already, with the same parameters, images and minutes, are not trained again.
    """
    ours = run.params().replace(evaluator_guidance=0.0)
    tutorial = resolve(read_yaml(project_root() / "params/tutorial.yaml")).replace(
        sampler="ddim", num_inference_steps=DDIM_STEPS, device=ours.device, seed=ours.seed,
        image_size=ours.image_size, holdout=ours.holdout)
    as_written = tutorial.replace(batch_size=8, learning_rate=1e-5)
    both = [tuple(names) for file in CONDITION_FILES for names in ConditionDataset(file).conditions]
    evaluator = load_evaluator(ours.evaluator)
    folder = str(data_source(ours, run.cache).folder)
    recipe = ("the recipe of this run: its network, optimiser, objective, steps and guidance"
              + (", with the positions of the objects" if ours.layout else ""))
    on_all = {
        "ours": (recipe, _ours, ours, False),
        "seed_recipe": ("noise prediction on raw pixels, Adam 1e-5, batch 8, fp32; the network of "
                        f"tutorial.yaml, {DDIM_STEPS} DDIM steps", _ours, as_written, False),
        "sane_seed_recipe": ("the same with Adam 2e-4, batch 64", _ours, tutorial, False)}
    on_single = {
        "ours": (recipe, _ours, ours, True),
        "peer": ("denoising-diffusion-pytorch: Unet(dim=32), Adam 1e-4, batch 16, fp32, guidance "
                 f"6, {DDIM_STEPS} DDIM steps with eta 1; the better of its last and its averaged "
                 "weights", _peer, ours, True)}
    missing = {}
    if find_spec(PEER) is None:
        del on_single["peer"]
        missing["missing"] = f"{PEER.replace('_', '-')} is not installed: pip install '.[bench]'"
    races = {"recipe_vs_seed_recipe": (on_all, both), "against_peer": (on_single, SINGLES)}
    kept = out.read("race.json")
    found: dict[str, Any] = {}
    with progress(total=len(on_all) + len(on_single), desc="recipes", unit="recipe") as bar:
        for name, (variants, conditions) in races.items():
            before = kept.get(name, {}).get("variants", {})
            results: dict[str, Any] = {}
            found[name] = {"minutes": minutes, "evaluator": evaluator_facts(evaluator),
                           "variants": results, "chance": _chance(conditions),
                           **(missing if variants is on_single else {})}
            for variant, (what, train, params, single) in variants.items():
                given = {"params": params.to_dict(), "folder": Path(folder).name,
                         "evaluator": evaluator_facts(evaluator), "minutes": minutes}
                if before.get(variant, {}).get("given") == given:
                    results[variant] = before[variant]
                    bar.update()
                    continue
                try:
                    made = in_its_own_process(train, params, folder, single, minutes, conditions)
                    results[variant] = {"what": what, "given": given,
                                        **_scored(made, evaluator, conditions)}
                except Exception as error:  # whatever the other package may raise
                    if variant != "peer":
                        raise
                    found[name]["missing"] = (f"{PEER.replace('_', '-')} failed: "
                                              f"{type(error).__name__}: {str(error)[:200]}")
                kept[name] = {**found[name], "variants": {**before, **results}}
                write_json(out / "race.json", kept)
                bar.update()
    return found


def _scored(made: dict[str, Any], evaluator: Evaluator,
            conditions: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What was made, with the score of the best of its sets of images at each look."""
    looks = []
    for minutes, sets in made.pop("sampled"):
        scored, images = max(
            ((score(evaluator(images), conditions), images)
             for images in map(torch.from_numpy, sets)), key=lambda found: found[0]["micro"])
        looks.append({"minutes": minutes, "micro": scored["micro"], "macro": scored["macro"],
                      "objects": scored["objects"],
                      "sharpness": sharpness(images) / made["expected_sharpness"]})
    return {**made, **looks[-1], "looks": looks}


def _chance(conditions: Sequence[Sequence[str]]) -> float:
    """The fraction of objects found if all names are equally likely to be seen."""
    return sum(len(names) ** 2 for names in conditions) / len(OBJECTS) / sum(map(len, conditions))


def _dataset(params: Params, folder: str, single: bool) -> IclevrDataset:
    hidden = left_out(params)
    if single:
        labels = read_train(Path(folder) / "train.json").values()
        hidden |= {frozenset(names) for names in labels if len(names) > 1}
    return IclevrDataset(folder, params.image_size, leave_out=hidden, missing=params.missing)


def train_for(trainer: Trainer, seconds: float, looks: Iterable[float] = (),
              look: Callable[[float], None] = lambda spent: None) -> None:
    """Train for so long; the schedule of the learning rate ends at the same time.

    At each fraction of the time in ``looks``, ascending, ``look`` is called with the seconds spent
    so far, to which those of its calls do not count.
    """
    def step(spent: float) -> None:
        if spent:
            # At least one more step: the first ones are slow, and the schedule must not end early.
            left = trainer.step * (seconds / spent - 1)
            trainer.total_steps = trainer.step + max(1, round(left))
        float(trainer.update())  # waits for the device

    _for_seconds(step, seconds, looks, look)


def _for_seconds(step: Callable[[float], None], seconds: float, looks: Iterable[float],
                 look: Callable[[float], None]) -> None:
    """Call ``step`` with the seconds spent so far until they are over."""
    spent, marks = 0.0, list(looks)
    while spent < seconds:
        started = time.perf_counter()
        step(spent)
        spent += time.perf_counter() - started
        while marks and spent >= marks[0] * seconds:
            marks.pop(0)
            look(spent)


def _ours(params: Params, folder: str, single: bool, minutes: float,
          conditions: Sequence[Sequence[str]]) -> dict[str, Any]:
    dataset = _dataset(params, folder, single)
    trainer = Trainer(params, dataset)
    labels, sampled = torch.stack([to_multi_hot(names) for names in conditions]), []

    def look(spent: float) -> None:
        pipeline = trainer.averaged()
        images = sample(pipeline, labels, image_seeds(0, len(labels)),
                        **sampling_options(pipeline, params))
        sampled.append((spent / 60, [images.numpy()]))

    train_for(trainer, 60 * minutes, LOOKS, look)
    return {"steps": trainer.step, "images": trainer.step * params.batch_size,
            "parameters": trainer.unet.num_parameters(), "sampled": sampled,
            "expected_sharpness": expected_sharpness(dataset, conditions)}


def _peer(params: Params, folder: str, single: bool, minutes: float,
          conditions: Sequence[Sequence[str]]) -> dict[str, Any]:
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
    classes = torch.tensor([OBJECTS.index(name) for name, in conditions], device=device)
    steps, sampled, generator = 0, [], torch.Generator().manual_seed(0)

    def step(spent: float) -> None:
        nonlocal steps
        rows = torch.randint(0, len(dataset), (16,), generator=generator).numpy()
        images, labels = (part.to(device) for part in dataset.batch(rows))
        loss = model((images + 1) / 2, classes=labels.argmax(1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()
        steps += 1

    def look(spent: float) -> None:
        # Its average is meant for long trainings; in a short one it is mostly the first weights.
        with torch.random.fork_rng():
            sets = [(2 * weights.eval().sample(classes, cond_scale=6.0).cpu() - 1).numpy()
                    for weights in (average.ema_model, model)]
        model.train()
        sampled.append((spent / 60, sets))

    _for_seconds(step, 60 * minutes, LOOKS, look)
    return {"steps": steps, "images": 16 * steps,
            "parameters": sum(w.numel() for w in model.parameters()), "sampled": sampled,
            "expected_sharpness": expected_sharpness(dataset, conditions)}
