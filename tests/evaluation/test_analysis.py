"""Closer looks: errors by timestep, reconstructions, nearest images and distances of features."""

import numpy as np
import pytest
import torch

from cddpm_core.evaluation import analysis
from cddpm_core.evaluation.analysis import (
    frechet_distance,
    kernel_distance,
    mean_distance,
    nearest,
    quartile_errors,
    reconstruct,
)
from cddpm_core.evaluation.evaluator import Evaluator, build_resnet18
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
    assert mean_distance(torch.stack([images[0], images[0] + 20 / 127.5])) == pytest.approx(20)


def test_distances_of_gaussians_are_what_the_formula_says():
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(1500, 3, generator=generator)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    # Means 2 apart and standard deviations of 1 and 3 along each of three axes.
    b = 3 * torch.randn(1500, 3, generator=generator) + torch.tensor([2.0, 0, 0])
    assert frechet_distance(a, b) == pytest.approx(4 + 3 * 4, rel=0.08)


def test_the_frechet_distance_of_few_features_has_the_root_of_the_covariances():
    a, b = torch.randn(2, 6, 20, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    c_a, c_b = (np.cov(x.numpy(), rowvar=False) for x in (a, b))
    # The eigenvalues of a product of covariances are real and not negative.
    roots = np.sqrt(np.linalg.eigvals(c_a @ c_b).real.clip(0)).sum()
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(c_a + c_b) - 2 * roots
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)


def test_the_kernel_distance_is_unbiased():
    generator = torch.Generator().manual_seed(2)
    same = [kernel_distance(*torch.randn(2, 20, 8, generator=generator)) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 200**0.5 and min(same) < 0
    a, b = torch.randn(2, 200, 8, generator=generator)
    assert kernel_distance(a, b + 1) > 1


def test_errors_cover_all_timesteps_and_show_whether_the_label_helps(tiny, tiny_pipeline, dataset):
    images, labels = dataset.batch(range(6))
    found = quartile_errors(tiny_pipeline, images, labels, batch_size=4)
    T = tiny.num_train_timesteps
    assert [part["timesteps"] for part in found] == [
        [i * T // 4, (i + 1) * T // 4 - 1] for i in range(4)]
    assert found == quartile_errors(tiny_pipeline, images, labels, batch_size=4)
    assert all(part["x_0"] != part["x_0_without_label"] for part in found)
    alone = quartile_errors(tiny_pipeline, images, labels, unlabelled=False)
    assert all(set(part) == {"timesteps", "x_0", "epsilon"} for part in alone)
    placed = quartile_errors(tiny_pipeline, images, labels, positions=dataset.positions[:6],
                             batch_size=4)
    assert all(a["x_0"] != b["x_0"] for a, b in zip(placed, found, strict=True))


def test_a_network_that_predicts_the_truth_has_no_error(tiny, dataset, monkeypatch):
    pipeline = make_pipeline(tiny, dataset)
    images, labels = dataset.batch(range(4))
    x_0 = pipeline.codec.encode(images)
    monkeypatch.setattr(analysis, "Denoiser",
                        lambda *_: lambda x_t, t, y, p: x_0 if y.any() else x_0 + 0.5)
    for part in quartile_errors(pipeline, images, labels):
        assert part["x_0"] == 0 and part["epsilon"] < 1e-8
        assert part["x_0_without_label"] == pytest.approx(0.25, rel=1e-4)


def test_reconstructions_begin_with_the_accuracy_of_the_images(tiny_pipeline, images):
    evaluator = Evaluator(build_resnet18(), "stand-in", "0" * 64)
    conditions = [["red cube"], ["blue sphere", "gray cube"], ["cyan cylinder"]]
    found = reconstruct(tiny_pipeline, evaluator, images[:3], conditions,
                        strengths=[0.2, 0.6, 0.75, 1.0], sampler="dpm_solver++",
                        num_inference_steps=5)
    # Five steps of 20 timesteps: 19, 15, 11, 7, 3.
    assert [point["timestep"] for point in found] == [0, 3, 11, 19]
    assert found[0]["micro"] == score(evaluator(images[:3]), conditions)["micro"]
    assert all(0 <= point["micro"] <= 1 for point in found)
