"""A run written by release 0.1 stays readable: ``first_release/`` is what its `train` wrote.

It was stopped after 4 of 8 steps, with `PARAMS`, on the images of `small_set`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cddpm_core.data import IclevrDataset
from cddpm_core.errors import UserError
from cddpm_core.labels import OBJECTS
from cddpm_core.params import Params
from cddpm_core.runs import Run
from cddpm_core.trainer import read_checkpoint
from cddpm_core.training import load_trained, train

PARAMS = Params(run="first", class_emb_size=16, blocks=[1], channels=[1], layers_per_block=1,
                transformer_blocks=1, attention_head_dim=4, patch_size=8, batch_size=4, epochs=4,
                num_train_timesteps=20, num_inference_steps=5, lr_warmup_steps=1,
                evaluate_every=0, mixed_precision="no", device="cpu", evaluator_epochs=4,
                loss_weighting="velocity", sampler="sde_dpm_solver++", guidance_scale=4.0,
                ema_decay=0.998, timestep_shift=1.3, layout=False, ordered_tokens=False,
                evaluator_images=30000, layout_choices=1, guidance_interval=[0.0, 1.0])


def small_set(folder: Path) -> Path:
    """Write 8 images of noise with labels, in the lab's layout."""
    (folder / "iclevr").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"iclevr/{i}.png")
    labels = {f"{i}.png": [OBJECTS[i], OBJECTS[i + 8]] for i in range(8)}
    (folder / "train.json").write_text(json.dumps(labels))
    (folder / "objects.json").write_text(json.dumps({n: i for i, n in enumerate(OBJECTS)}))
    return folder


@pytest.fixture
def first(tmp_path) -> Run:
    shutil.copytree(Path(__file__).with_name("first_release"), tmp_path / "first")
    return Run("first", outputs=tmp_path)


def test_its_parameters_numbers_and_history_are_read(first):
    assert first.params() == PARAMS
    train_result = first.read("metrics.json")["train"]
    assert train_result["steps"] == 4 and not train_result["finished"]
    assert first.read("status.json")["stages"]["train"]["state"] == "done"
    assert [line["step"] for line in first.history()] == [4]


def test_its_model_draws(first):
    model, scheduler = load_trained(first, first.params())
    assert scheduler.config.num_train_timesteps == 20
    with torch.no_grad():
        output = model(torch.zeros(1, *model.x_shape), 3, torch.eye(24)[:1])
    assert output.shape == (1, *model.x_shape) and output.isfinite().all()


def test_its_training_goes_on(first, tmp_path):
    dataset = IclevrDataset(small_set(tmp_path / "data"))
    assert train(first.params(), dataset, first)["finished"]
    assert read_checkpoint(first / "checkpoint.pt")["step"] == 8
    assert [line["step"] for line in first.history()] == [4, 8]


@pytest.mark.parametrize("name", ["metrics.json", "status.json", "checkpoint.pt"])
def test_files_of_a_later_format_are_refused_in_one_sentence(first, name):
    read = {"checkpoint.pt": lambda: read_checkpoint(first / name)}.get(
        name, lambda: first.read(name))
    read()
    if name == "checkpoint.pt":
        torch.save({**read_checkpoint(first / name), "schema": 2}, first / name)
    else:
        (first / name).write_text(json.dumps({**first.read(name), "schema": 2}))
    with pytest.raises(UserError, match=f"{name}: expected schema 1, found 2; it was written by"):
        read()
