"""Training of the stand-in evaluator on rendered scenes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cddpm_core.config.device import SideBySide, computes_bf16
from cddpm_core.config.progress import progress as progress_bar
from cddpm_core.config.seeds import stream_seed, torch_generator
from cddpm_core.data.images import to_float
from cddpm_core.data.labels import COLOURS, OBJECTS, SHAPES
from cddpm_core.evaluation.augmentation import augment, degrade, move, uniform
from cddpm_core.evaluation.evaluator import Evaluator
from cddpm_core.evaluation.score import score
from cddpm_core.evaluation.stand_in import Located, rounded_state
from cddpm_core.training.optimizers import KernelMuon, lr_factor

__all__ = ["train_stand_in"]

# Half as many spheres, because the difficulty is to distinguish cubes from cylinders.
_PROBABILITIES = np.array([0.5 if name.endswith("sphere") else 1.0 for name in OBJECTS])
_PROBABILITIES /= _PROBABILITIES.sum()


def train_stand_in(*, seed: int = 0, num_images: int, epochs: int, batch_size: int = 64,
                   heldout_images: int = 2000, progress: bool = True,
                   device: str | torch.device = "cpu") -> Evaluator:
    """Return an evaluator trained on rendered scenes of 1 to 5 objects, increasingly degraded.

    Two auxiliary heads, which are not kept, are trained to locate: colours and shapes on the 8x8
    map, objects on the 4x4 map. Without them it learns later which colour belongs to which shape.
    The weights are the average over the end of training, rounded to bfloat16.

    ``heldout`` accuracies are from ``heldout_images`` images of held-out scenes, at most
    ``num_images``: ``micro`` and ``macro`` with 1 to 3 objects, like those to be scored, and
    ``augmented_micro`` after `augment`; ``crowded_...`` with 1 to 5 objects.
    """
    # numba only where scenes are rendered, not where a stand-in is loaded.
    from cddpm_core.scenes.dataset import render_set

    device = torch.device(device)
    images, labels, centres = map(torch.from_numpy, render_set(
        num_images, seed, "evaluator", probabilities=_PROBABILITIES, progress=progress))
    generator = torch_generator(seed, "evaluator order")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "evaluator weights"))
        model = Located().train().to(device)
    average = AveragedModel(model.network, multi_avg_fn=get_ema_multi_avg_fn(0.998),
                            use_buffers=True)
    optimizers = _optimizers(model)
    side_by_side = SideBySide(2 if device.type == "cpu" else 1)
    steps = epochs * -(-num_images // batch_size)
    factor = partial(lr_factor, total_steps=steps, warmup_steps=steps // 10, decay_start=0.25)
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, factor) for each in optimizers]
    with progress_bar(total=steps, desc="training the evaluator", unit="step",
                      disable=not progress) as bar:
        for step, rows in enumerate(_batches(num_images, batch_size, epochs, generator)):
            moved, positions = move(to_float(images[rows]), centres[rows], generator)
            pristine = uniform(0, 1, len(rows), generator) < 0.75 - 0.5 * step / steps
            batch = torch.where(pristine, moved, degrade(moved, generator)).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=computes_bf16(device)):
                # Channels last is a tenth faster here, and the convolutions keep to it.
                outputs = model(batch.contiguous(memory_format=torch.channels_last))
            targets = (labels[rows], _by_attribute(_on_map(positions, 8)), _on_map(positions, 4))
            losses = [F.binary_cross_entropy_with_logits(x.float(), y.to(device), reduction="sum")
                      for x, y in zip(outputs, targets, strict=True)]
            loss = sum(losses) / len(rows)
            for each in optimizers:
                each.zero_grad()
            loss.backward()
            side_by_side(lambda each: each.step(), optimizers)
            for each in schedules:
                each.step()
            if step >= steps * 3 // 4:  # the average starts late: early weights do not count
                average.update_parameters(model.network)
            bar.set_postfix_str(f"loss {loss.item():.2f}", refresh=False)
            bar.update()
    network = average.module
    network.load_state_dict(rounded_state(network))
    evaluator = Evaluator(network, "stand-in", sha256="", device=device)  # not a file yet
    evaluator.heldout = _held_out(evaluator, seed, min(heldout_images, num_images))
    return evaluator


def _optimizers(model: Located) -> list[torch.optim.Optimizer]:
    """Return two Muons for the kernels of the blocks, to step side by side, and AdamW."""
    inner = [weight for name, weight in model.network.named_parameters()
             if weight.ndim == 4 and name != "stem.0.weight"]
    chosen = {id(weight) for weight in inner}
    rest = [weight for weight in model.parameters() if id(weight) not in chosen]
    return [*(KernelMuon(inner[i::2], lr=0.02) for i in range(2)),
            torch.optim.AdamW(rest, lr=1e-3, weight_decay=0.05, fused=True)]


def _batches(count: int, batch_size: int, epochs: int,
             generator: torch.Generator) -> Iterator[torch.Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(count, generator=generator).split(batch_size)


def _on_map(centres: torch.Tensor, cells: int) -> torch.Tensor:
    """Return ``(B, 24, cells, cells)`` with a 1 in the cell of each object's centre, in pixels."""
    count, objects, _ = centres.shape
    image, name = torch.nonzero(~centres[..., 0].isnan(), as_tuple=True)
    column, row = (centres[image, name] * cells / 64).long().clamp(0, cells - 1).unbind(1)
    found = torch.zeros(count, objects, cells, cells)
    found[image, name, row, column] = 1.0
    return found


def _by_attribute(objects: torch.Tensor) -> torch.Tensor:
    """Return the colours and shapes present, ``(B, 11, ...)``, of objects ``(B, 24, ...)``."""
    grouped = objects.unflatten(1, (len(SHAPES), len(COLOURS)))
    return torch.cat([grouped.amax(1), grouped.amax(2)], dim=1)


def _held_out(evaluator: Evaluator, seed: int, count: int) -> dict[str, float]:
    from cddpm_core.scenes.dataset import render_set
    from cddpm_core.scenes.scene import MAX_OBJECTS

    found: dict[str, float] = {"images": count}
    for max_objects, prefix in ((3, ""), (MAX_OBJECTS, "crowded_")):
        images, labels, _ = render_set(count, seed, "evaluator held-out", max_objects)
        conditions = [tuple(OBJECTS[i] for i in np.flatnonzero(row)) for row in labels]
        x = to_float(images)
        plain = score(evaluator(x), conditions)
        generator = torch_generator(seed, "evaluator held-out")
        augmented = score(evaluator(augment(x, generator)), conditions)
        found[f"{prefix}micro"], found[f"{prefix}macro"] = plain["micro"], plain["macro"]
        found[f"{prefix}augmented_micro"] = augmented["micro"]
    return found
