import numpy as np
import pytest
import torch
from conftest import awake
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cddpm_core.data import ConditionDataset
from cddpm_core.errors import UserError
from cddpm_core.evaluation import draw_and_score, get_evaluator, save_images, to_uint8
from cddpm_core.evaluator import OFFICIAL_SHA256, Evaluator, build_resnet18
from cddpm_core.images import load_image, to_tensor
from cddpm_core.model import make_model
from cddpm_core.schedule import make_scheduler


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Evaluator(build_resnet18(), "stand-in", "0" * 64)


def test_every_pixel_survives_the_way_to_floats_and_back():
    pixels = np.arange(256 * 3, dtype=np.uint8).reshape(1, 16, 16, 3)
    assert np.array_equal(to_uint8(to_tensor(pixels)).numpy(), pixels)


@given(st.floats(-3, 3))
def test_pixels_are_rounded_to_the_nearest(value):
    found = to_uint8(torch.full((3, 2, 2), value))
    exact = (min(max(value, -1), 1) + 1) * 127.5
    assert found.dtype == torch.uint8 and found.shape == (2, 2, 3)
    assert (found.float() - exact).abs().max() <= 0.5 + 1e-4


def test_images_are_saved_under_their_place_in_the_file(tmp_path):
    images = torch.linspace(-1, 1, 12).view(12, 1, 1, 1).expand(12, 3, 64, 64)
    save_images(images, tmp_path / "images/test")
    found = sorted(path.name for path in (tmp_path / "images/test").iterdir())
    assert found == sorted(f"{i}.png" for i in range(12))
    for index in range(12):
        with Image.open(tmp_path / f"images/test/{index}.png") as image:
            assert image.mode == "RGB" and image.size == (64, 64) and image.format == "PNG"
        pixels = load_image(tmp_path / f"images/test/{index}.png")
        assert np.array_equal(pixels, to_uint8(images[index]).numpy())


def test_channels_and_rows_keep_their_places(tmp_path):
    image = torch.full((1, 3, 64, 64), -1.0)
    image[0, 0, 5, 9] = 1
    save_images(image, tmp_path)
    pixels = load_image(tmp_path / "0.png")
    assert pixels[5, 9].tolist() == [255, 0, 0] and pixels.sum() == 255


def test_images_are_written_over_those_of_before(tmp_path):
    save_images(torch.zeros(2, 3, 8, 8), tmp_path)
    save_images(torch.ones(2, 3, 8, 8), tmp_path)
    assert load_image(tmp_path / "1.png", 8).min() == 255


@pytest.mark.parametrize("image_size", [64, 32])
def test_drawing_and_scoring_is_repeatable(tiny, evaluator, image_size):
    params = tiny.replace(image_size=image_size, guidance_scale=2, sample_batch_size=20)
    model, scheduler = make_model(params).eval(), make_scheduler(params)
    conditions = ConditionDataset("test")
    images, scored = draw_and_score(model, scheduler, evaluator, conditions, params)
    torch.manual_seed(5)
    again, rescored = draw_and_score(model, scheduler, evaluator, conditions, params)
    assert torch.equal(images, again)
    assert images.shape == (32, 3, image_size, image_size)
    assert scored.pop("images_per_second") > 0 and rescored.pop("images_per_second") > 0
    assert scored == rescored
    assert scored["objects"] == 72 and len(scored["conditions"]) == 32
    assert 0 <= scored["micro"] <= 1 and 0 <= scored["macro"] <= 1


def test_seed_and_sampler_of_the_parameters_are_those_used(tiny, evaluator, tmp_path):
    (tmp_path / "two.json").write_text('[["red cube"], ["cyan sphere"]]')
    conditions = ConditionDataset(tmp_path / "two.json")
    model, scheduler = awake(make_model(tiny)).eval(), make_scheduler(tiny)

    def draw(**changes):
        params = tiny.replace(**changes)
        return draw_and_score(model, scheduler, evaluator, conditions, params)[0]

    plain = draw()
    assert torch.allclose(plain, draw(sample_batch_size=1), atol=1e-4)
    for changes in ({"seed": 1}, {"sampler": "ddim"}, {"num_inference_steps": 3},
                    {"guidance_scale": 9}):
        assert not torch.allclose(plain, draw(**changes), atol=1e-4), changes


def test_a_users_evaluator_is_the_official_one(tiny, run, evaluator, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": evaluator.model.state_dict()}, path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given_as in (str(path), "~/checkpoint.pth"):
        found = get_evaluator(tiny.replace(evaluator=given_as), run)
        assert found.kind == "official" and found.sha256 != OFFICIAL_SHA256 and not found.known
    images = torch.zeros(1, 3, 64, 64)
    assert torch.allclose(found(images), evaluator(images))
    with pytest.raises(UserError, match="nowhere.pth: no such file"):
        get_evaluator(tiny.replace(evaluator=str(tmp_path / "nowhere.pth")), run)
