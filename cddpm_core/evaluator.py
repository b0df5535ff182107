"""The network that names the objects in an image, and the accuracy it gives a set of images.

Two evaluators share one interface: the lab's own, whose weights the user brings, and
a stand-in of the same architecture trained on rendered scenes. A score compares the k
highest outputs with the k labels of an image. Micro accuracy counts hits over all
objects (the lab's evaluator on one batch); macro is the mean over images of hits / k.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn
from torchvision.models import ResNet, resnet18

from cddpm_core.errors import UserError
from cddpm_core.labels import COLOURS, OBJECTS, SHAPES, check_names
from cddpm_core.runs import progress as progress_bar
from cddpm_core.scenes import MAX_OBJECTS, RENDERER_VERSION, render_set

__all__ = [
    "OFFICIAL_SHA256",
    "Evaluator",
    "augment",
    "build_resnet18",
    "load_official",
    "score",
    "stand_in",
    "train_stand_in",
]

OFFICIAL_SHA256 = "38a27369dac0ad64302bec2ee8d98bd6f27de17f4bde60ebcd2e3ff7981e9d63"
RECIPE_VERSION = 3  # of `train_stand_in`: raised when the same settings give other weights
HELDOUT_IMAGES = 1000
_HELDOUT_SEED = 2**32  # added to the seed: beyond every seed that a run may choose


def build_resnet18() -> ResNet:
    """Return an untrained ResNet-18 with 24 sigmoid outputs, as the lab's evaluator has."""
    model = resnet18(weights=None)
    model.fc = nn.Sequential(nn.Linear(512, len(OBJECTS)), nn.Sigmoid())
    return model


def _features(model: ResNet, images: torch.Tensor) -> torch.Tensor:
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    x = model.layer4(model.layer3(model.layer2(model.layer1(x))))
    return model.avgpool(x).flatten(1)


class Evaluator:
    """A trained network: ``evaluator(images)`` gives the probability of each object.

    ``kind`` is ``official`` or ``stand-in``; ``sha256`` is the hash of the weights'
    file; ``known`` says whether it is a hash that can be vouched for; ``heldout`` has
    the stand-in's accuracies on rendered scenes it never saw, and is None otherwise.
    """

    def __init__(
        self,
        model: ResNet,
        kind: str,
        sha256: str,
        *,
        known: bool = True,
        heldout: dict[str, float] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.kind, self.sha256, self.known, self.heldout = kind, sha256, known, heldout
        self.device = torch.device(device)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return CPU probabilities ``(B, 24)`` for images ``(B, 3, 64, 64)`` in [-1, 1]."""
        return self._batched(self.model, images, len(OBJECTS))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the last layer's inputs ``(B, 512)``, also on the CPU, for such images."""
        return self._batched(lambda x: _features(self.model, x), images, 512)

    @torch.no_grad()
    def _batched(self, function: Callable, images: torch.Tensor, width: int) -> torch.Tensor:
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, 64, 64):
            raise UserError(
                f"evaluator: expected images of shape (B, 3, 64, 64), found {tuple(images.shape)}"
            )
        self.model.eval()
        parts = [function(x.to(self.device).float()).cpu() for x in images.split(256) if len(x)]
        return torch.cat(parts) if parts else torch.empty(0, width)


def load_official(path: str | Path, device: str | torch.device = "cpu") -> Evaluator:
    """Return the lab's evaluator from its ``checkpoint.pth``; `UserError` if that is not it.

    ``known`` is false when the file's SHA-256 is not the published one.
    """
    path = Path(path)
    expected = "expected the lab's evaluator checkpoint with ResNet-18 weights under 'model'"
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, {expected}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), {expected}") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = "GLOBAL" in str(error)
        found = "objects other than tensors, which are not loaded" if refused else "no checkpoint"
        raise UserError(f"{path}: found {found}, {expected}") from None
    except Exception:  # torch.load meets foreign bytes with errors of many types
        raise UserError(f"{path}: found no checkpoint that torch can read, {expected}") from None
    if not isinstance(content, dict) or "model" not in content:
        found = f"keys {list(content)[:5]}" if isinstance(content, dict) else type(content).__name__
        raise UserError(f"{path}: found {found} without 'model', {expected}")
    model = build_resnet18()
    problem = _mismatch(content["model"], model.state_dict())
    if problem:
        raise UserError(f"{path}: found {problem}, {expected}")
    model.load_state_dict(content["model"])
    return Evaluator(model, "official", sha256, known=sha256 == OFFICIAL_SHA256, device=device)


def _mismatch(found: Any, expected: dict[str, torch.Tensor]) -> str:
    """Return what is wrong with a state dict, or the empty string."""
    if not isinstance(found, dict):
        return f"'model' of type {type(found).__name__}"
    for name, tensor in expected.items():
        if not isinstance(found.get(name), torch.Tensor):
            return f"no weights {name!r}"
        if found[name].shape != tensor.shape:
            return f"{name!r} of shape {tuple(found[name].shape)} for {tuple(tensor.shape)}"
    surplus = sorted(set(found) - set(expected))
    return f"weights {surplus[0]!r} that the network has not" if surplus else ""


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images ``(B, 3, 64, 64)`` in [-1, 1] as a generator might have drawn them.

    Each image is, with some chance each: mirrored; shifted by up to 3 pixels and scaled
    by up to 8 %; changed in contrast, level and tint; blurred; brought down to 32x32
    and up again; given noise and grain.
    """
    moved, _ = _move(images, torch.zeros(len(images), 0, 2), generator)
    return _degrade(moved, generator)


def _move(
    images: torch.Tensor, centres: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images mirrored, scaled and shifted at random, and their centres ``(B, K, 2)``."""
    count, half = len(images), images.shape[-1] / 2
    scale = _uniform(0.92, 1.08, count, generator).view(-1, 1).repeat(1, 2)
    scale[:, 0] *= torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    shift = (torch.rand(count, 2, generator=generator) - 0.5) * 6 / half
    theta = torch.cat([torch.diag_embed(scale), shift[:, :, None]], dim=2)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return moved, half * (1 + (centres / half - 1 - shift[:, None]) / scale[:, None])


def _degrade(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count = len(images)
    mean = images.mean((1, 2, 3), keepdim=True)
    x = mean + (images - mean) * _uniform(0.8, 1.2, count, generator)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * _uniform(0.8, 1.2, count, generator)
    x = x + _uniform(-0.08, 0.08, count, generator)
    x = x + 0.02 * torch.randn(count, 3, 1, 1, generator=generator)

    blurred = _blur(x, _uniform(0.3, 1.2, count, generator).flatten())
    x = torch.where(_uniform(0, 1, count, generator) < 0.35, blurred, x)
    small = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
    small = F.interpolate(small, scale_factor=2, mode="bilinear")
    x = torch.where(_uniform(0, 1, count, generator) < 0.3, small, x)

    noisy = _uniform(0, 1, count, generator) < 0.5
    noise = torch.randn(x.shape, generator=generator)
    grain = torch.randn(count, 3, 32, 32, generator=generator)
    x = x + noisy * _uniform(0, 0.08, count, generator) * noise
    x = x + noisy * _uniform(0, 0.06, count, generator) * F.interpolate(
        grain, scale_factor=2, mode="bilinear"
    )
    return x.clamp(-1, 1)


def _blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Return each image convolved with a 7x7 Gaussian of its own width in pixels."""
    count, channels, height, width = images.shape
    offsets = torch.arange(-3.0, 4.0)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    x = F.pad(images, (3, 3, 3, 3), mode="reflect").reshape(1, -1, height + 6, width + 6)
    x = F.conv2d(x, kernel[:, None, :, None], groups=count * channels)
    x = F.conv2d(x, kernel[:, None, None, :], groups=count * channels)
    return x.reshape(images.shape)


def _to_float(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def train_stand_in(
    *,
    seed: int = 0,
    num_images: int = 12000,
    epochs: int = 5,
    batch_size: int = 32,
    progress: bool = True,
    device: str | torch.device = "cpu",
) -> Evaluator:
    """Return an evaluator trained on rendered scenes of 1 to 5 objects, more and more degraded.

    Besides the 24 outputs, two heads that are thrown away afterwards learn what stands
    where: colours and shapes on the 8x8 map of layer 2, objects on the 4x4 map of layer
    3. Without them so short a training does not learn which colour goes with which shape.
    ``heldout`` figures come from scenes it never trained on, 1,000 images of 1 to 3
    objects like those it is to score: ``micro`` and ``macro`` as rendered,
    ``augmented_micro`` after `augment`; ``crowded_...`` from 1,000 of 1 to 5 objects.
    """
    device = torch.device(device)
    images, labels, centres = map(
        torch.from_numpy, render_set(num_images, seed, progress=progress)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_resnet18()
        heads = nn.ModuleList(
            [nn.Conv2d(128, len(COLOURS) + len(SHAPES), 1), nn.Conv2d(256, len(OBJECTS), 1)]
        )
    for layer in (model.fc[0], *heads):
        nn.init.constant_(layer.bias, -4.0)  # most objects are absent, from most places more so
    model, heads = model.to(device).train(), heads.to(device)
    optimizers, share_gradients = _optimizers(model, heads)
    steps = epochs * -(-num_images // batch_size)
    factor = partial(_lr_factor, steps=steps)
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, factor) for each in optimizers]
    bf16 = device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with progress_bar(total=steps, desc="training the evaluator", unit="step",
                      disable=not progress) as bar:
        for step, rows in enumerate(_batches(num_images, batch_size, epochs, generator)):
            moved, places = _move(_to_float(images[rows]), centres[rows], generator)
            pristine = _uniform(0, 1, len(rows), generator) < 0.75 - 0.5 * step / steps
            batch = torch.where(pristine, moved, _degrade(moved, generator)).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                x = model.maxpool(model.relu(model.bn1(model.conv1(batch))))
                middle = model.layer2(model.layer1(x))
                late = model.layer3(middle)
                features = model.avgpool(model.layer4(late)).flatten(1)
                outputs = (model.fc[0](features), heads[0](middle), heads[1](late))
            targets = (labels[rows], _by_attribute(_on_map(places, 8)), _on_map(places, 4))
            loss = sum(
                F.binary_cross_entropy_with_logits(x.float(), y.to(device), reduction="sum")
                for x, y in zip(outputs, targets, strict=True)
            ) / len(rows)
            model.zero_grad()
            heads.zero_grad()
            loss.backward()
            share_gradients()
            for each in (*optimizers, *schedules):
                each.step()
            bar.set_postfix_str(f"loss {loss.item():.2f}", refresh=False)
            bar.update()
    sha256 = hashlib.sha256(save_safetensors(_plain_state(model))).hexdigest()
    evaluator = Evaluator(model, "stand-in", sha256, device=device)
    evaluator.heldout = _held_out(evaluator, seed)
    return evaluator


def _optimizers(
    model: ResNet, heads: nn.Module
) -> tuple[list[torch.optim.Optimizer], Callable[[], None]]:
    """Return Muon for the kernels of layers 1 to 3, AdamW for the rest, and what to call first.

    torch's Muon takes matrices only: it is given views of the kernels, and the function
    gives the views the kernels' gradients. In layer 4 Muon would cost more than the network.
    """
    inner = [
        weight
        for layer in (model.layer1, model.layer2, model.layer3)
        for weight in layer.parameters()
        if weight.ndim == 4
    ]
    chosen = {id(weight) for weight in inner}
    rest = [w for w in (*model.parameters(), *heads.parameters()) if id(w) not in chosen]
    views = [nn.Parameter(weight.detach().view(len(weight), -1)) for weight in inner]

    def share_gradients() -> None:
        for weight, view in zip(inner, views, strict=True):
            view.grad = weight.grad.view_as(view)

    return [
        torch.optim.Muon(views, lr=0.02, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=1e-3, weight_decay=0.05, fused=True),
    ], share_gradients


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


def _held_out(evaluator: Evaluator, seed: int) -> dict[str, float]:
    """Accuracies on scenes of 1 to 3 objects, like those it scores, and on crowded ones."""
    found: dict[str, float] = {"images": HELDOUT_IMAGES}
    for most, prefix in ((3, ""), (MAX_OBJECTS, "crowded_")):
        images, labels, _ = render_set(HELDOUT_IMAGES, seed + _HELDOUT_SEED, most)
        sets = [tuple(OBJECTS[i] for i in np.flatnonzero(row)) for row in labels]
        x = _to_float(torch.from_numpy(images))
        plain = score(evaluator(x), sets)
        changed = score(evaluator(augment(x, torch.Generator().manual_seed(seed))), sets)
        found[f"{prefix}micro"], found[f"{prefix}macro"] = plain["micro"], plain["macro"]
        found[f"{prefix}augmented_micro"] = changed["micro"]
    return found


def stand_in(
    cache: str | Path,
    *,
    seed: int = 0,
    num_images: int = 12000,
    epochs: int = 5,
    batch_size: int = 32,
    progress: bool = True,
    device: str | torch.device = "cpu",
) -> Evaluator:
    """Return the stand-in of these settings from ``cache``, trained and stored there if absent."""
    training = {"seed": seed, "num_images": num_images, "epochs": epochs, "batch_size": batch_size}
    settings = {**training, "renderer": RENDERER_VERSION, "recipe": RECIPE_VERSION}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(cache) / key
    if (folder / "evaluator.json").exists():
        try:
            return _load_stand_in(folder, device)
        except UserError as error:
            warnings.warn(f"{error}; training the stand-in again", stacklevel=2)
    evaluator = train_stand_in(**training, progress=progress, device=device)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "evaluator.safetensors", save_safetensors(_plain_state(evaluator.model)))
    about = {"settings": settings, "heldout": evaluator.heldout, "sha256": evaluator.sha256}
    _write(folder / "evaluator.json", (json.dumps(about, indent=1) + "\n").encode())
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


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def score(
    probabilities: torch.Tensor | np.ndarray, label_sets: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Return the accuracies of probabilities ``(N, 24)`` against N label sets, as plain JSON.

    ``micro``, ``macro`` in [0, 1] and ``objects``; ``conditions``, one entry an image:
    its labels, the k predicted names from the most probable down, whether each label
    is a hit, the accuracy and the probabilities of its labels; and hits and totals
    ``per_object``, ``per_colour``, ``per_shape`` and ``per_count`` (number of labels).
    """
    probabilities = torch.as_tensor(probabilities).detach().float().cpu()
    if tuple(probabilities.shape) != (len(label_sets), len(OBJECTS)) or not len(label_sets):
        raise UserError(
            f"score: expected probabilities of shape ({len(label_sets)}, {len(OBJECTS)}) with at "
            f"least one row for {len(label_sets)} label sets, found {tuple(probabilities.shape)}"
        )
    if not torch.isfinite(probabilities).all():
        raise UserError("score: expected finite probabilities, found NaN or infinity")
    conditions = []
    tallies: dict[str, dict[str, dict[str, int]]] = {
        "per_object": {}, "per_colour": {}, "per_shape": {}, "per_count": {},
    }  # fmt: skip
    for row, (values, names) in enumerate(zip(probabilities, label_sets, strict=True)):
        labels = check_names(names, f"score: row {row}")
        order = torch.argsort(values, descending=True, stable=True)[: len(labels)]
        predicted = [OBJECTS[i] for i in order.tolist()]
        hits = [name in predicted for name in labels]
        for name, hit in zip(labels, hits, strict=True):
            colour, shape = name.split()
            groups = (name, colour, shape, str(len(labels)))
            for tally, group in zip(tallies.values(), groups, strict=True):
                entry = tally.setdefault(group, {"hits": 0, "total": 0})
                entry["hits"] += hit
                entry["total"] += 1
        conditions.append({
            "labels": list(labels),
            "predicted": predicted,
            "hits": hits,
            "accuracy": sum(hits) / len(hits),
            "probabilities": [values[OBJECTS.index(name)].item() for name in labels],
        })  # fmt: skip
    total = sum(len(entry["labels"]) for entry in conditions)
    return {
        "micro": sum(sum(entry["hits"]) for entry in conditions) / total,
        "macro": sum(entry["accuracy"] for entry in conditions) / len(conditions),
        "objects": total,
        "conditions": conditions,
        **tallies,
    }
