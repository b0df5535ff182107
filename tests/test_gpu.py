"""The same on a GPU: a step that waits for nothing, its arithmetic, resuming, sampling."""

import pytest
import torch
from conftest import same

from cddpm_core.config.device import arithmetic_of
from cddpm_core.data.dataset import ConditionDataset
from cddpm_core.sampling.sample import image_seeds, sample, sampling_options
from cddpm_core.training.loop import train
from cddpm_core.training.trainer import Trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(),
                                                  reason="no CUDA device here")]


@pytest.fixture
def small(tiny):
    """A network that a GPU trains in a second, with all kinds of layers."""
    return tiny.replace(device="cuda", class_emb_size=64, attention_head_dim=16, patch_size=2,
                        blocks=[0, 0, 1], channels=[1, 2, 4], batch_size=16, compile="no")


@pytest.fixture
def watched():
    """Raises an error where the host waits for the device."""
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("changes", [
    {}, {"mixed_precision": "fp16"}, {"mixed_precision": "auto", "optimizer": "adam"},
    {"mixed_precision": "auto", "loss_weighting": "min_snr", "gradient_accumulation_steps": 2},
    {"backbone": "unet", "conditioning": "class_embedding", "prediction_type": "v_prediction"},
], ids=lambda changes: "-".join(map(str, changes.values())))
@pytest.mark.parametrize("in_memory", [True, False])
def test_a_step_never_waits_for_the_device(small, dataset, changes, watched, in_memory,
                                           monkeypatch):
    if not in_memory:
        monkeypatch.setattr("cddpm_core.training.batches.HELD", 0)
    trainer = Trainer(small.replace(**changes), dataset)
    trainer.update()
    watched()
    for _ in range(4):
        trainer.update()
    torch.cuda.set_sync_debug_mode("default")
    assert trainer.counters.read().skipped <= 4 and trainer.counters.read().loss > 0


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_weights_follow_those_of_float32(small, dataset, precision):
    trainers = [Trainer(small.replace(mixed_precision=p, label_drop=0.0), dataset)
                for p in ("no", precision)]
    for _ in range(8):
        for trainer in trainers:
            trainer.update()
    one, other = (trainer.counters.read().loss for trainer in trainers)
    assert other == pytest.approx(one, rel=0.05)
    assert arithmetic_of("auto", "cuda") != "float32"


def test_a_compiled_step_is_the_step(small, dataset):
    trainers = [Trainer(small.replace(compile=on, gradient_accumulation_steps=passes), dataset)
                for on, passes in (("no", 1), ("yes", 1), ("yes", 2))]
    for _ in range(6):
        losses = [float(trainer.update()) for trainer in trainers]
        assert losses[1:] == pytest.approx([losses[0]] * 2, rel=0.02)


def test_a_resumed_training_is_the_one_that_never_stopped(small, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for stop in (3, 0):
            train(small.replace(max_steps=stop), dataset, tmp_path / "two")
        train(small, dataset, tmp_path / "one")
    finally:
        torch.use_deterministic_algorithms(False)
    one, two = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["parts"]
                for name in ("one", "two"))
    assert all(same(one[name], two[name]) for name in one if name != "counters")


def test_images_are_those_of_the_cpu(small, dataset):
    trainer = Trainer(small, dataset)
    for _ in range(20):
        trainer.update()
    pipeline, labels = trainer.averaged(), ConditionDataset("test").labels[:8]
    found = []
    for device in ("cuda", "cpu"):
        pipeline.to(device)
        options = sampling_options(pipeline, small)
        found.append(sample(pipeline, labels, image_seeds(0, 8), **options))
    assert (found[0] - found[1]).abs().mean() < 0.02


def test_a_generator_of_the_device_seeds_the_images_of_a_pipeline(small, dataset):
    pipeline = Trainer(small, dataset).averaged()
    images = [pipeline(["red cube"], 2, output_type="pt",
                       generator=torch.Generator("cuda").manual_seed(seed)).images
              for seed in (0, 0, 1)]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])
