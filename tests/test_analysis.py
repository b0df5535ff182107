import numpy as np
import pytest
import torch
from conftest import awake
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.analysis import (
    confusion,
    frechet_distance,
    kernel_distance,
    mean_distance,
    missed_pairs,
    nearest,
    quartile_errors,
    restored,
)
from cddpm_core.evaluator import Evaluator, build_resnet18, score
from cddpm_core.labels import COLOURS, OBJECTS, SHAPES
from cddpm_core.model import make_model
from cddpm_core.schedule import make_scheduler


def scored(*pairs):
    """The score of an evaluator that saw the second label set where the first was asked for."""
    probabilities = torch.zeros(len(pairs), len(OBJECTS))
    for row, (_, seen) in enumerate(pairs):
        probabilities[row, [OBJECTS.index(name) for name in seen]] = 1.0
    return score(probabilities, [asked for asked, _ in pairs])


def test_a_missed_object_is_paired_with_the_most_alike():
    found = scored((["red cube", "blue sphere"], ["blue cube", "red sphere"]),
                   (["gray cube", "red cylinder"], ["gray cube", "red sphere"]),
                   (["cyan cube"], ["yellow sphere"]))
    assert [(name, seen) for name, seen, _ in missed_pairs(found)] == [
        ("red cube", "blue cube"), ("blue sphere", "red sphere"),
        ("red cylinder", "red sphere"), ("cyan cube", "yellow sphere")]


def test_confusion_tells_colours_bound_to_the_wrong_object_from_alien_ones():
    found = confusion([scored((["red cube", "blue sphere"], ["blue cube", "red sphere"]),
                              (["gray cube"], ["green cube"]),
                              (["gray cube", "red cylinder"], ["gray cube", "red sphere"])),
                       scored((["cyan cube"], ["yellow sphere"]))])
    assert (found["bound"], found["alien"], found["other"]) == (2, 1, 1)
    colour, shape = np.array(found["colour"]), np.array(found["shape"])
    assert colour[COLOURS.index("red"), COLOURS.index("blue")] == 1
    assert colour[COLOURS.index("gray"), COLOURS.index("green")] == 1
    # Both gray cubes were found or seen as cubes; the colour of the cylinder was right.
    assert colour.trace() == 2 and shape.trace() == 4 and found["reshaped"] == 1
    assert shape[SHAPES.index("cylinder"), SHAPES.index("sphere")] == 1


@given(st.lists(st.tuples(st.sets(st.sampled_from(OBJECTS), min_size=1, max_size=3),
                          st.randoms(use_true_random=False)), min_size=1, max_size=5))
def test_every_object_asked_for_is_somewhere(asked):
    pairs = [(sorted(names), random.sample(OBJECTS, len(names))) for names, random in asked]
    found, total = confusion([scored(*pairs)]), sum(len(names) for names, _ in pairs)
    hits = sum(sum(condition["hits"]) for condition in scored(*pairs)["conditions"])
    colour, shape = np.array(found["colour"]), np.array(found["shape"])
    assert colour.sum() == shape.sum() == total
    recoloured = found["bound"] + found["alien"]
    assert hits + recoloured + found["reshaped"] + found["other"] == total
    assert total - colour.trace() == recoloured + found["other"]
    assert total - shape.trace() == found["reshaped"] + found["other"]


class Few:
    """A data set of the images it is given."""

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


def test_the_frechet_distance_of_few_features_is_that_of_the_root_of_the_covariances():
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


def test_errors_by_quarter_cover_all_timesteps_and_tell_a_label_that_helps(tiny):
    model, scheduler = awake(make_model(tiny)), make_scheduler(tiny)
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5
    labels = torch.eye(24)[:6]
    found = quartile_errors(model, scheduler, images, labels, batch_size=4)
    T = tiny.num_train_timesteps
    assert [part["timesteps"] for part in found] == [
        [i * T // 4, (i + 1) * T // 4 - 1] for i in range(4)]
    assert found == quartile_errors(model, scheduler, images, labels, batch_size=4)
    assert all(part["x_0"] > 0 and part["epsilon"] > 0 for part in found)
    alone = quartile_errors(model, scheduler, images, labels, unlabelled=False)
    assert all(set(part) == {"timesteps", "x_0", "epsilon"} for part in alone)
    with torch.no_grad():
        model.class_embedding.weight.zero_()
        for name, weight in model.named_parameters():
            if "object_tokens" in name:
                weight.zero_()
    for part in quartile_errors(model, scheduler, images, labels):
        assert part["x_0"] == pytest.approx(part["x_0_without_label"], rel=1e-3)


def test_images_drawn_again_begin_with_their_own_accuracy(tiny, images):
    evaluator = Evaluator(build_resnet18(), "stand-in", "0" * 64)
    label_sets = [["red cube"], ["blue sphere", "gray cube"], ["cyan cylinder"]]
    found = restored(awake(make_model(tiny)), make_scheduler(tiny), evaluator, images[:3],
                     label_sets, strengths=[0.2, 0.6, 0.75, 1.0], sampler="dpm_solver++",
                     num_inference_steps=5)
    # Five steps of 20 timesteps: 19, 15, 11, 7, 3.
    assert [point["timestep"] for point in found] == [0, 3, 11, 19]
    assert found[0]["micro"] == score(evaluator(images[:3]), label_sets)["micro"]
    assert all(0 <= point["micro"] <= 1 for point in found)
