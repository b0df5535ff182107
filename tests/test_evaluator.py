"""The evaluators: loading the lab's, training and caching the stand-in, and scoring."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cddpm_core import evaluator as module
from cddpm_core.errors import UserError
from cddpm_core.evaluator import (
    Evaluator,
    augment,
    build_resnet18,
    load_official,
    score,
    stand_in,
    train_stand_in,
)
from cddpm_core.labels import OBJECTS

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
REAL_OBJECTS = ("purple sphere", "brown cylinder", "red sphere", "brown cube", "blue cylinder")


def probabilities(*rows: dict[str, float]) -> torch.Tensor:
    table = torch.zeros(len(rows), len(OBJECTS))
    for row, values in zip(table, rows, strict=True):
        for name, value in values.items():
            row[OBJECTS.index(name)] = value
    return table


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("official") / "checkpoint.pth"
    torch.save({"model": build_resnet18().state_dict(), "epoch": 3}, path)
    return path


# the network and the official weights


def test_network_is_the_labs(images: torch.Tensor) -> None:
    model = build_resnet18().eval()
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
    return {**build_resnet18().state_dict(), "fc.0.weight": torch.zeros(10, 512)}


def _without_bias() -> dict[str, torch.Tensor]:
    state = build_resnet18().state_dict()
    del state["fc.0.bias"]
    return state


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "no such file"),
        (b"not a checkpoint", "found no checkpoint"),
        (b"", "found no checkpoint"),
        ({"model": Foreign()}, "objects other than tensors"),
        ({"weights": torch.zeros(1)}, "found keys ['weights'] without 'model'"),
        ([1, 2], "found list without 'model'"),
        ({"model": [1]}, "found 'model' of type list"),
        ({"model": _shrunk()}, "found 'fc.0.weight' of shape (10, 512) for (24, 512)"),
        ({"model": _without_bias()}, "found no weights 'fc.0.bias'"),
        ({"model": {**build_resnet18().state_dict(), "x": torch.zeros(1)}}, "weights 'x'"),
    ],
)
def test_a_wrong_checkpoint_is_one_sentence(tmp_path: Path, content, found: str) -> None:
    path = tmp_path / "checkpoint.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError) as caught:
        load_official(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ") and found in sentence and "expected" in sentence
    assert "\n" not in sentence


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_official(tmp_path)


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 3, 32, 32), (2, 1, 64, 64)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"expected images of shape \(B, 3, 64, 64\)"):
        Evaluator(build_resnet18(), "stand-in", "")(torch.zeros(shape))


def test_batches_do_not_matter(images: torch.Tensor) -> None:
    evaluator = Evaluator(build_resnet18(), "stand-in", "")
    many = images.repeat(60, 1, 1, 1)
    torch.testing.assert_close(evaluator(many)[-5:], evaluator(images), atol=1e-5, rtol=1e-4)
    assert evaluator(images[:0]).shape == (0, 24)


# scores


def test_micro_counts_objects_and_macro_images() -> None:
    given = probabilities(
        {"red cube": 0.9, "blue cube": 0.8},
        {"red cube": 0.9, "gray sphere": 0.7, "cyan cylinder": 0.6, "blue cube": 0.1},
    )
    result = score(given, [("red cube",), ("red cube", "gray sphere", "blue cube")])
    assert result["objects"] == 4
    assert result["micro"] == pytest.approx(3 / 4)
    assert result["macro"] == pytest.approx((1 + 2 / 3) / 2)
    second = result["conditions"][1]
    assert second["predicted"] == ["red cube", "gray sphere", "cyan cylinder"]
    assert second["hits"] == [True, True, False]
    assert second["accuracy"] == pytest.approx(2 / 3)
    assert second["probabilities"] == pytest.approx([0.9, 0.7, 0.1])
    assert result["per_object"]["red cube"] == {"hits": 2, "total": 2}
    assert result["per_colour"]["blue"] == {"hits": 0, "total": 1}
    assert result["per_shape"]["cube"] == {"hits": 2, "total": 3}
    assert result["per_count"] == {"1": {"hits": 1, "total": 1}, "3": {"hits": 2, "total": 3}}
    assert json.loads(json.dumps(result)) == result


def test_perfect_and_hopeless_scores() -> None:
    sets = [(name,) for name in OBJECTS]
    assert score(torch.eye(24), sets)["micro"] == 1.0
    assert score(torch.eye(24).roll(1, 0).numpy(), sets)["macro"] == 0.0


@pytest.mark.parametrize(
    ("given", "sets", "found"),
    [
        (torch.zeros(2, 24), [("red cube",)], r"found \(2, 24\)"),
        (torch.zeros(1, 23), [("red cube",)], r"found \(1, 23\)"),
        (torch.zeros(0, 24), [], "at least one row"),
        (torch.full((1, 24), float("nan")), [("red cube",)], "NaN"),
        (torch.zeros(1, 24), [("red cuba",)], "did you mean 'red cube'"),
        (torch.zeros(1, 24), [()], "row 0"),
    ],
)
def test_a_wrong_question_is_refused(given, sets, found: str) -> None:
    with pytest.raises(UserError, match=found):
        score(given, sets)


# the stand-in


def test_augmentation_stays_in_range_and_repeats(images: torch.Tensor) -> None:
    first, again, other = (
        augment(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == images.shape and first.abs().max() <= 1
    torch.testing.assert_close(first, again)
    assert not torch.equal(first, other)


def test_centres_move_with_the_image() -> None:
    images, centres = torch.full((16, 3, 64, 64), -1.0), torch.full((16, 2, 2), float("nan"))
    images[:, :, 20:24, 40:44] = 1.0
    centres[:, 0] = torch.tensor([42.0, 22.0])
    moved, places = module._move(images, centres, torch.Generator().manual_seed(0))
    for image, place in zip(moved, places, strict=True):
        rows, columns = torch.nonzero(image[0] > 0.5, as_tuple=True)
        spot = torch.stack([columns.float().mean() + 0.5, rows.float().mean() + 0.5])
        torch.testing.assert_close(spot, place[0], atol=0.8, rtol=0)
        assert place[1].isnan().all()


TINY = {"seed": 0, "num_images": 40, "epochs": 1, "batch_size": 20, "progress": False}


@pytest.fixture
def small_heldout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HELDOUT_IMAGES", 20)


def test_stand_in_trains_and_is_cached(
    tmp_path: Path, images: torch.Tensor, small_heldout: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = stand_in(tmp_path, **TINY)
    assert trained.kind == "stand-in"
    assert set(trained.heldout) == {"images"} | {
        prefix + key for prefix in ("", "crowded_")
        for key in ("micro", "macro", "augmented_micro")}
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == [
        "evaluator.json",
        "evaluator.safetensors",
    ]
    monkeypatch.setattr(module, "train_stand_in", pytest.fail)
    cached = stand_in(tmp_path, **TINY)
    assert cached.sha256 == trained.sha256 and cached.heldout == trained.heldout
    torch.testing.assert_close(cached(images), trained(images))


def test_training_repeats_for_a_seed(small_heldout: None) -> None:
    first, again = (train_stand_in(**TINY) for _ in range(2))
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-2)


@pytest.mark.parametrize("file", ["evaluator.safetensors", "evaluator.json"])
def test_a_damaged_cache_is_trained_again(
    tmp_path: Path, small_heldout: None, file: str
) -> None:
    trained = stand_in(tmp_path, **TINY)
    (folder,) = tmp_path.iterdir()
    (folder / file).write_bytes((folder / file).read_bytes()[:-100])
    with pytest.warns(UserWarning, match="damaged.*training the stand-in again"):
        again = stand_in(tmp_path, **TINY)
    assert set(again.heldout) == set(trained.heldout)
    assert stand_in(tmp_path, **TINY).sha256 == again.sha256


@pytest.mark.skipif(
    os.environ.get("CDDPM_SLOW") != "1", reason="trains for minutes; set CDDPM_SLOW=1 to run it"
)
def test_the_stand_in_names_what_it_should() -> None:
    evaluator = train_stand_in(progress=False)
    assert evaluator.heldout["micro"] >= 0.99 and evaluator.heldout["macro"] >= 0.99
    assert evaluator.heldout["augmented_micro"] >= 0.97
    files = [REFERENCE / f"real_seq_{i}_320x240.png" for i in range(5)]
    if not files[0].exists():
        pytest.skip("no real i-CLEVR scene in ../shared/reference")
    small = [
        Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
        for file in files
    ]
    frames = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2) / 127.5 - 1
    result = score(evaluator(frames), [REAL_OBJECTS[: k + 1] for k in range(5)])
    assert result["objects"] == 15 and result["micro"] == 1.0
