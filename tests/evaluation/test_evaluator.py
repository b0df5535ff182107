"""The evaluator: its outputs, its likelihood, and loading the lab's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cddpm_core.config.errors import UserError
from cddpm_core.evaluation import evaluator as module
from cddpm_core.evaluation.evaluator import Evaluator, ResNet18, load_official


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("official") / "checkpoint.pth"
    torch.save({"model": ResNet18().state_dict(), "epoch": 3}, path)
    return path


def test_network_is_the_labs(images: torch.Tensor) -> None:
    model = ResNet18().eval()
    assert [type(layer).__name__ for layer in model.fc] == ["Linear", "Sigmoid"]
    assert model.fc[0].weight.shape == (24, 512)
    evaluator = Evaluator(model, "stand-in", "")
    given = evaluator(images)
    assert given.shape == (5, 24) and (given > 0).all() and (given < 1).all()
    torch.testing.assert_close(given, model(images))
    features = evaluator.features(images)
    assert features.shape == (5, 512)
    torch.testing.assert_close(model.fc(features), given)


def test_official_weights_load(checkpoint: Path, images: torch.Tensor) -> None:
    evaluator = load_official(checkpoint)
    assert evaluator.kind == "official" and evaluator.heldout is None
    assert len(evaluator.sha256) == 64 and not evaluator.known
    assert evaluator(images).shape == (5, 24)


def test_the_published_hash_is_known(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OFFICIAL_SHA256", load_official(checkpoint).sha256)
    assert load_official(checkpoint).known


class Foreign:
    """Something that ``weights_only`` refuses."""


def _shrunk() -> dict[str, torch.Tensor]:
    return {**ResNet18().state_dict(), "fc.0.weight": torch.zeros(10, 512)}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "no such file"),
        ({"model": Foreign()}, "found a whole pickled model"),
        ({"model": _shrunk()}, "found 'fc.0.weight' of shape (10, 512) for (24, 512)"),
    ],
)
def test_a_wrong_checkpoint_is_one_sentence(tmp_path: Path, content, found: str) -> None:
    path = tmp_path / "checkpoint.pth"
    if content is not None:
        torch.save(content, path)
    with pytest.raises(UserError) as caught:
        load_official(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ") and found in sentence and "expected" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 1, 64, 64)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"expected images of shape \(B, 3, H, W\)"):
        Evaluator(ResNet18(), "stand-in", "")(torch.zeros(shape))


def test_images_of_another_size_are_resized(images: torch.Tensor) -> None:
    evaluator = Evaluator(ResNet18(), "stand-in", "")
    large = torch.nn.functional.interpolate(images, (96, 128))
    assert torch.equal(evaluator(large), evaluator(evaluator.resized(large)))
    assert torch.equal(evaluator.features(large), evaluator.features(evaluator.resized(large)))


def test_batches_do_not_matter(images: torch.Tensor) -> None:
    evaluator = Evaluator(ResNet18(), "stand-in", "")
    many = images.repeat(60, 1, 1, 1)
    torch.testing.assert_close(evaluator(many)[-5:], evaluator(images), atol=1e-5, rtol=1e-4)
    assert evaluator(images[:0]).shape == (0, 24)


def test_the_likelihood_covers_all_objects_and_is_differentiable(checkpoint: Path) -> None:
    evaluator = load_official(checkpoint)
    images = (torch.rand(3, 3, 64, 64) * 2 - 1).requires_grad_()
    labels = torch.zeros(3, 24)
    labels[0, [1, 5]], labels[1, 7] = 1, 1
    found = evaluator.log_likelihood(images, labels)
    p = evaluator(images.detach())
    expected = (labels * p.log() + (1 - labels) * (1 - p).log()).sum(1)
    assert torch.allclose(found, expected, atol=1e-4)
    gradient, = torch.autograd.grad(found.sum(), images)
    assert gradient.shape == images.shape and (gradient.flatten(1).abs().sum(1) > 0).all()
    with torch.no_grad():
        evaluator.model.fc[0].bias.fill_(100.0)  # certain of all objects, but none is asked for
    certain = evaluator.log_likelihood(images, torch.zeros(3, 24))
    gradient, = torch.autograd.grad(certain.sum(), images)
    assert certain.isfinite().all() and (gradient.flatten(1).abs().sum(1) > 0).all()
    wide = torch.zeros(1, 3, 128, 128)
    assert evaluator.log_likelihood(wide, labels[:1]).shape == (1,)
