"""Closer looks: errors by timestep, reconstructions and nearest images."""

import pytest
import torch

from cddpm_core.evaluation import analysis
from cddpm_core.evaluation.analysis import nearest, quarter_errors, reconstruct
from cddpm_core.evaluation.evaluator import Evaluator, ResNet18
from cddpm_core.evaluation.score import score
from cddpm_core.sampling.pipeline import make_pipeline


class Few:
    """A data set of given images."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def batch(self, rows):
        return self.images[torch.as_tensor(rows)], None


def test_the_nearest_image_is_found_and_its_distance_is_in_levels():
    images = torch.rand(25, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    index, distance = nearest(images[[3, 17]] + 10 / 127.5, Few(images), chunk=4)
    assert index.tolist() == [3, 17]
    assert torch.allclose(distance, torch.tensor(10.0), atol=1e-3)


def test_errors_cover_all_timesteps_and_show_whether_the_label_helps(tiny, tiny_pipeline, dataset):
    images, labels = dataset.batch(range(6))
    found = quarter_errors(tiny_pipeline, images, labels, batch_size=4)
    T = tiny.num_train_timesteps
    assert [part["timesteps"] for part in found] == [
        [i * T // 4, (i + 1) * T // 4 - 1] for i in range(4)]
    assert found == quarter_errors(tiny_pipeline, images, labels, batch_size=4)
    assert all(part["x_0"] != part["x_0_without_label"] for part in found)
    alone = quarter_errors(tiny_pipeline, images, labels, unlabelled=False)
    assert all(set(part) == {"timesteps", "x_0", "epsilon"} for part in alone)
    placed = quarter_errors(tiny_pipeline, images, labels, positions=dataset.positions[:6],
                             batch_size=4)
    assert all(a["x_0"] != b["x_0"] for a, b in zip(placed, found, strict=True))


def test_a_network_that_predicts_the_truth_has_no_error(tiny, dataset, monkeypatch):
    pipeline = make_pipeline(tiny, dataset)
    images, labels = dataset.batch(range(4))
    x_0 = pipeline.codec.encode(images)
    monkeypatch.setattr(analysis, "Denoiser",
                        lambda *_: lambda x_t, t, y, p: x_0 if y.any() else x_0 + 0.5)
    for part in quarter_errors(pipeline, images, labels):
        assert part["x_0"] == 0 and part["epsilon"] < 1e-8
        assert part["x_0_without_label"] == pytest.approx(0.25, rel=1e-4)


def test_reconstructions_begin_with_the_accuracy_of_the_images(tiny_pipeline, images):
    evaluator = Evaluator(ResNet18(), "stand-in", "0" * 64)
    conditions = [["red cube"], ["blue sphere", "gray cube"], ["cyan cylinder"]]
    found = reconstruct(tiny_pipeline, evaluator, images[:3], conditions,
                        strengths=[0.2, 0.6, 0.75, 1.0], sampler="dpm_solver++",
                        num_inference_steps=5)
    # Five steps of 20 timesteps: 19, 18, 15, 10, 3.
    assert [point["timestep"] for point in found] == [0, 3, 10, 19]
    assert found[0]["micro"] == score(evaluator(images[:3]), conditions)["micro"]
    assert all(0 <= point["micro"] <= 1 for point in found)
