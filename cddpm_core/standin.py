"""The stand-in evaluator: the lab's architecture, trained on rendered scenes and cached."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import ResNet

from cddpm_core.augment import augment, degrade, move, to_float, uniform
from cddpm_core.devices import SideBySide, computes_bf16
from cddpm_core.errors import UserError
from cddpm_core.evaluator import Evaluator, build_resnet18, score
from cddpm_core.labels import COLOURS, OBJECTS, SHAPES
from cddpm_core.optim import KernelMuon
from cddpm_core.params import Params
from cddpm_core.runs import atomic, write_json
from cddpm_core.runs import progress as progress_bar
from cddpm_core.scenes import MAX_OBJECTS, RENDERER_VERSION, render_set

__all__ = ["stand_in", "train_stand_in"]

RECIPE_VERSION = 6  # of `train_stand_in`: raised when the same settings give other weights
HELDOUT_IMAGES = 2000
# Half as many spheres: what is hard is to tell cubes from cylinders.
_CHANCES = np.array([0.5 if name.endswith("sphere") else 1.0 for name in OBJECTS])
_CHANCES /= _CHANCES.sum()
_HELDOUT_SEED = 2**32  # added to the seed: beyond every seed that a run may choose


def train_stand_in(
    *,
    seed: int = 0,
    num_images: int = Params.evaluator_images,
    epochs: int = Params.evaluator_epochs,
    batch_size: int = 64,
    progress: bool = True,
    device: str | torch.device = "cpu",
) -> Evaluator:
    """Return an evaluator trained on rendered scenes of 1 to 5 objects, more and more degraded.

    Besides the 24 outputs, two heads that are thrown away afterwards learn what stands
    where: colours and shapes on the 8x8 map of layer 2, objects on the 4x4 map of layer
    3. Without them so short a training does not learn which colour goes with which shape.
    ``heldout`` figures come from scenes it never trained on, 2,000 images of 1 to 3
    objects like those it is to score: ``micro`` and ``macro`` as rendered,
    ``augmented_micro`` after `augment`; ``crowded_...`` from 2,000 of 1 to 5 objects. After
    training on fewer images than that, they are over as many.
    """
    device = torch.device(device)
    images, labels, centres = map(
        torch.from_numpy, render_set(num_images, seed, chances=_CHANCES, progress=progress)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_resnet18()
        heads = nn.ModuleList(
            [nn.Conv2d(128, len(COLOURS) + len(SHAPES), 1), nn.Conv2d(256, len(OBJECTS), 1)]
        )
    # Of layer 4 only the first convolution and the shortcut are trained: the second convolution of
    # the first block, and the second block, pass their input on. On maps of 2x2 places they cost
    # much for the accuracy they add.
    last = model.layer4[0]
    nn.init.dirac_(last.conv2.weight).requires_grad_(False)
    nn.init.zeros_(model.layer4[1].bn2.weight)
    for layer in (model.fc[0], *heads):
        nn.init.constant_(layer.bias, -4.0)  # most objects are absent, from most places more so
    model, heads = model.to(device).train(), heads.to(device)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.995), use_buffers=True)
    optimizers = _optimizers(model, heads)
    together = SideBySide(2 if device.type == "cpu" else 1)
    steps = epochs * -(-num_images // batch_size)
    factor = partial(_lr_factor, steps=steps)
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, factor) for each in optimizers]
    with progress_bar(total=steps, desc="training the evaluator", unit="step",
                      disable=not progress) as bar:
        for step, rows in enumerate(_batches(num_images, batch_size, epochs, generator)):
            moved, places = move(to_float(images[rows]), centres[rows], generator)
            pristine = uniform(0, 1, len(rows), generator) < 0.75 - 0.5 * step / steps
            batch = torch.where(pristine, moved, degrade(moved, generator))
            # Channels last is a tenth faster here, and the convolutions keep to it.
            batch = batch.to(device, memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=computes_bf16(device)):
                x = model.maxpool(model.relu(model.bn1(model.conv1(batch))))
                middle = model.layer2(model.layer1(x))
                late = model.layer3(middle)
                passed = last.bn2(last.relu(last.bn1(last.conv1(late)))) + last.downsample(late)
                features = model.avgpool(last.relu(passed)).flatten(1)
                outputs = (model.fc[0](features), heads[0](middle), heads[1](late))
            targets = (labels[rows], _by_attribute(_on_map(places, 8)), _on_map(places, 4))
            loss = sum(
                F.binary_cross_entropy_with_logits(x.float(), y.to(device), reduction="sum")
                for x, y in zip(outputs, targets, strict=True)
            ) / len(rows)
            for each in optimizers:
                each.zero_grad()
            loss.backward()
            together(lambda each: each.step(), optimizers)
            for each in schedules:
                each.step()
            if step >= steps // 2:  # the first weights would weigh too much otherwise
                average.update_parameters(model)
            bar.set_postfix_str(f"loss {loss.item():.2f}", refresh=False)
            bar.update()
    sha256 = hashlib.sha256(save_safetensors(_plain_state(average.module))).hexdigest()
    evaluator = Evaluator(average.module, "stand-in", sha256, device=device)
    evaluator.heldout = _held_out(evaluator, seed, num_images)
    return evaluator


def _optimizers(model: ResNet, heads: nn.Module) -> list[torch.optim.Optimizer]:
    """Return two Muons for the kernels of layers 1 to 3, to step side by side, and AdamW.

    In layer 4 Muon would cost more than the network.
    """
    inner = [
        weight
        for layer in (model.layer1, model.layer2, model.layer3)
        for weight in layer.parameters()
        if weight.ndim == 4
    ]
    chosen = {id(weight) for weight in inner}
    rest = [w for w in (*model.parameters(), *heads.parameters()) if id(w) not in chosen]
    return [
        *(KernelMuon(inner[i::2], lr=0.02, weight_decay=0.0, ns_steps=4) for i in range(2)),
        torch.optim.AdamW(rest, lr=1e-3, weight_decay=0.05, fused=True),
    ]


def _lr_factor(step: int, steps: int) -> float:
    """Up over the first tenth, level, and down to zero over the last three quarters."""
    return min(1.0, (step + 1) / (0.1 * steps), (steps - step) / (0.75 * steps))


def _batches(
    count: int, batch_size: int, epochs: int, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(count, generator=generator).split(batch_size)


def _on_map(centres: torch.Tensor, cells: int) -> torch.Tensor:
    """Return ``(B, 24, cells, cells)`` with a 1 where an object's centre lies, from pixels."""
    count, objects, _ = centres.shape
    image, name = torch.nonzero(~centres[..., 0].isnan(), as_tuple=True)
    column, row = (centres[image, name] * cells / 64).long().clamp(0, cells - 1).unbind(1)
    found = torch.zeros(count, objects, cells, cells)
    found[image, name, row, column] = 1.0
    return found


def _by_attribute(objects: torch.Tensor) -> torch.Tensor:
    """Return ``(B, 11, ...)`` colours and shapes present, from objects ``(B, 24, ...)``."""
    grouped = objects.unflatten(1, (len(SHAPES), len(COLOURS)))
    return torch.cat([grouped.amax(1), grouped.amax(2)], dim=1)


def _plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _held_out(evaluator: Evaluator, seed: int, num_images: int) -> dict[str, float]:
    """Accuracies on scenes of 1 to 3 objects, like those it scores, and on crowded ones."""
    count = min(HELDOUT_IMAGES, num_images)
    found: dict[str, float] = {"images": count}
    for most, prefix in ((3, ""), (MAX_OBJECTS, "crowded_")):
        images, labels, _ = render_set(count, seed + _HELDOUT_SEED, most)
        sets = [tuple(OBJECTS[i] for i in np.flatnonzero(row)) for row in labels]
        x = to_float(torch.from_numpy(images))
        plain = score(evaluator(x), sets)
        changed = score(evaluator(augment(x, torch.Generator().manual_seed(seed))), sets)
        found[f"{prefix}micro"], found[f"{prefix}macro"] = plain["micro"], plain["macro"]
        found[f"{prefix}augmented_micro"] = changed["micro"]
    return found


def stand_in(
    cache: str | Path,
    *,
    seed: int = 0,
    num_images: int = Params.evaluator_images,
    epochs: int = Params.evaluator_epochs,
    batch_size: int = 64,
    progress: bool = True,
    device: str | torch.device = "cpu",
    train: bool = True,
) -> Evaluator | None:
    """Return the stand-in of these settings from ``cache``, trained and stored there if absent.

    None instead of a training if ``train`` is false.
    """
    training = {"seed": seed, "num_images": num_images, "epochs": epochs, "batch_size": batch_size}
    settings = {**training, "renderer": RENDERER_VERSION, "recipe": RECIPE_VERSION}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(cache) / key
    if (folder / "evaluator.json").exists():
        try:
            return _load_stand_in(folder, device)
        except UserError as error:
            warnings.warn(f"{error}; to be trained again", stacklevel=2)
    if not train:
        return None
    evaluator = train_stand_in(**training, progress=progress, device=device)
    with atomic(folder / "evaluator.safetensors") as temporary:
        temporary.write_bytes(save_safetensors(_plain_state(evaluator.model)))
    write_json(folder / "evaluator.json", {
        "settings": settings, "heldout": evaluator.heldout, "sha256": evaluator.sha256})
    return evaluator


def _load_stand_in(folder: Path, device: str | torch.device) -> Evaluator:
    path = folder / "evaluator.safetensors"
    try:
        about = json.loads((folder / "evaluator.json").read_text(encoding="utf-8"))
        weights = path.read_bytes()
        sha256, heldout = about["sha256"], about["heldout"]
        if hashlib.sha256(weights).hexdigest() != sha256:
            raise UserError(f"{path}: damaged, its SHA-256 is not the one evaluator.json gives")
        model = build_resnet18()
        model.load_state_dict(load_safetensors(weights))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder}: damaged evaluator files ({error})") from None
    return Evaluator(model, "stand-in", sha256, heldout=heldout, device=device)
