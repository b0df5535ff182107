import io

import numpy as np
import pytest
import torch
from conftest import awake
from PIL import Image

from cddpm_core.evaluation.stand_in import released
from cddpm_core.report.explore import explorer, generate
from cddpm_core.sampling.pipeline import make_pipeline


@pytest.fixture(scope="module")
def evaluator():
    return released()


@pytest.fixture
def parts(tiny, dataset, evaluator):
    pipeline = make_pipeline(tiny, dataset)
    awake(pipeline.unet)
    return pipeline, evaluator


def found(widget, name):
    """The widgets of a class, or with a description, below another."""
    here = [widget] if (name in getattr(widget, "_dom_classes", ()) or
                        getattr(widget, "description", None) == name) else []
    return here + [w for child in getattr(widget, "children", ()) for w in found(child, name)]


def test_what_is_generated_has_image_score_and_trajectory(parts, tiny):
    made = generate(*parts, ["red cube", "cyan sphere"], tiny)
    assert made["image"].shape == (3, 64, 64) and made["image"].abs().max() <= 1
    assert made["score"]["labels"] == ["red cube", "cyan sphere"]
    assert all(0 <= value <= 1 for value in made["score"]["probabilities"])
    # x_t above x_0, one pair for each moment: at most five steps and the image itself.
    columns, rows = (side // 66 for side in made["trajectory"].size)
    assert rows == 2 and columns == 6
    assert torch.equal(made["image"], generate(*parts, ["red cube", "cyan sphere"], tiny)["image"])
    other = generate(*parts, ["red cube", "cyan sphere"], tiny.replace(seed=4))
    assert not torch.equal(made["image"], other["image"])


def picture(widget):
    return np.asarray(Image.open(io.BytesIO(widget.value)))


def test_every_control_samples_again(parts, tiny):
    panel = explorer(*parts, tiny)
    (image,), (moments,), (said,) = (found(panel, f"sampled-{n}")
                                     for n in ("image", "trajectory", "score"))
    assert "red sphere" in said.value and "released stand-in evaluator" in said.value
    before = picture(image)
    assert before.shape == (256, 256, 3)
    for name, value in (("object 2", "gray cube"), ("seed", 5), ("guidance", 4.0), ("steps", 3),
                        ("sampler", "dpm_solver++")):
        found(panel, name)[0].value = value
        now = picture(image)
        assert not np.array_equal(before, now), name
        before = now
    assert "gray cube" in said.value and picture(moments).shape[1] == 4 * 66 + 2


def test_an_invalid_choice_is_explained_beside_the_controls(tiny, dataset, evaluator):
    tiny = tiny.replace(num_train_timesteps=34)
    panel = explorer(make_pipeline(tiny, dataset), evaluator, tiny)
    (image,), (said,) = (found(panel, f"sampled-{n}") for n in ("image", "score"))
    before = image.value
    found(panel, "object 1")[0].value = "–"
    assert said.value == "Choose at least one object." and image.value == before
    found(panel, "object 3")[0].value = "blue cylinder"
    found(panel, "steps")[0].value = 7
    found(panel, "sampler")[0].value = "unipc"
    assert "unipc cannot divide 34 timesteps into 7 steps, expected another number" in said.value


def test_a_preset_with_the_ancestral_sampler_starts_with_a_faster_one(parts, tiny):
    panel = explorer(*parts, tiny.replace(sampler="ddpm", num_inference_steps=20))
    assert found(panel, "sampler")[0].value == "sde_dpm_solver++"
