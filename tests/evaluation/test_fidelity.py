"""Fidelity: sharpness, distances of features and of images, and a network that tells sets apart."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.functional import gaussian_blur

from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.data.labels import OBJECTS
from cddpm_core.data.positions import scene_numbers
from cddpm_core.evaluation.fidelity import (
    diversity,
    expected_sharpness,
    fidelity,
    kernel_distance,
    mean_distance,
    sharpness,
    two_sample,
    two_sets,
)
from cddpm_core.evaluation.stand_in import released


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 0.5


@pytest.fixture(scope="module")
def renders(rendered):
    """Renders (36, 3, 32, 32) of `dataset`, small for speed."""
    found = IclevrDataset(rendered, image_size=32)
    return found.batch(range(len(found)))[0]


@pytest.fixture(scope="module")
def scenes(dataset):
    return scene_numbers([path.name for path in dataset.files], dataset.conditions)


def apart(function, a, b, **options):
    """What a function gives if every row is a scene of its own."""
    return function(a, b, range(len(a)), range(len(a), len(a) + len(b)), **options)


def blurred(images):
    return gaussian_blur(images, [5, 5], [1.0, 1.0])


@given(st.lists(st.integers(0, 9), min_size=3, max_size=60), st.integers(1, 50),
       st.integers(0, 3))
def test_two_sets_have_no_scene_in_common(scenes, count, seed):
    first, second = two_sets(scenes, count, seed)
    assert len(first) == min(count, 2 * len(scenes) // 3) and len(second) <= count
    assert len({*first, *second}) == len(first) + len(second)
    assert not {scenes[i] for i in first} & {scenes[i] for i in second}
    again = two_sets(scenes, count, seed)
    assert np.array_equal(first, again[0]) and np.array_equal(second, again[1])


def test_two_sets_are_of_whole_scenes_at_random(scenes):
    first, second = two_sets(scenes, 12, 0)
    assert [len(set(scenes[rows])) for rows in (first, second)] == [4, 4]
    assert set(scenes[first]) != set(scenes[two_sets(scenes, 12, 1)[0]])


@given(st.floats(0.1, 10), st.floats(-0.5, 0.5))
def test_sharpness_grows_with_contrast_and_not_with_brightness(scale, shift):
    images = noise(3, 3, 16, 16)
    assert sharpness(scale * images + shift) == pytest.approx(scale * sharpness(images), rel=1e-4)


@given(st.floats(0.5, 3))
def test_blur_lowers_the_sharpness(sigma):
    images = noise(3, 3, 16, 16)
    assert sharpness(gaussian_blur(images, [5, 5], [sigma, sigma])) < 0.7 * sharpness(images)


def test_sharpness_is_the_slope_of_an_edge_in_levels():
    ramp = torch.linspace(-1, 1, 52)[None, None, None].expand(2, 3, 52, 52)  # 5 levels a pixel
    assert sharpness(ramp) == pytest.approx(5 * 3**0.5, rel=1e-4)
    assert sharpness(ramp.transpose(2, 3)) == pytest.approx(5 * 3**0.5, rel=1e-4)


def test_the_kernel_distance_is_unbiased():
    generator = torch.Generator().manual_seed(2)
    same = [apart(kernel_distance, *torch.randn(2, 20, 8, generator=generator)) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 200**0.5 and min(same) < 0
    a, b = torch.randn(2, 200, 8, generator=generator)
    assert apart(kernel_distance, a + 1, b) > 1
    assert apart(kernel_distance, 9 * a, 9 * b) == pytest.approx(
        apart(kernel_distance, a, b), rel=1e-5)


def test_the_kernel_distance_of_images_of_the_same_scenes_is_unbiased():
    generator, scenes = torch.Generator().manual_seed(3), torch.arange(20).repeat_interleave(3)
    paired, plain = [], []
    for _ in range(200):
        shared = 2 * torch.randn(20, 8, generator=generator)[scenes]
        a, b = shared + torch.randn(2, 60, 8, generator=generator)
        paired.append(kernel_distance(a, b, scenes, scenes))
        plain.append(apart(kernel_distance, a, b))
    assert abs(np.mean(paired)) < 3 * np.std(paired) / 200**0.5
    assert abs(np.mean(plain)) > 10 * np.std(plain) / 200**0.5  # what the pairs would do


@pytest.mark.parametrize("seed", [0, 1])
def test_images_of_one_distribution_cannot_be_told_apart(seed):
    a, b = noise(2, 120, 3, 16, 16, seed=seed)
    assert apart(two_sample, a, b, seed=seed) == pytest.approx(0.5, abs=0.15)


def test_blurred_images_are_told_from_others_and_the_figure_repeats(renders, scenes):
    torch.manual_seed(4)
    found = two_sample(blurred(renders), renders, scenes, scenes)
    assert found > 0.85
    torch.manual_seed(5)
    assert two_sample(blurred(renders), renders, scenes, scenes) == found
    assert torch.initial_seed() == 5


def test_the_network_is_not_asked_about_scenes_that_it_has_seen():
    # Every scene has a look of its own in each set: to know it from training is all there is.
    look = noise(2, 20, 3, 16, 16)
    a, b = look.repeat_interleave(6, 1)
    scenes = torch.arange(20).repeat_interleave(6)
    assert two_sample(a, b, scenes, scenes) == pytest.approx(0.5, abs=0.15)
    assert apart(two_sample, a, b) > 0.9


def test_a_mean_distance_is_in_levels_and_diversity_is_a_ratio_of_two():
    images = noise(8, 3, 8, 8)
    assert mean_distance(torch.stack([images[0], images[0] + 20 / 127.5])) == pytest.approx(20)
    training = torch.cat([2 * images[:3], images[3:]])
    found = diversity(0.5 * training[:3] + 0.3, training)
    assert found["baseline"] > 1 and found["value"] == pytest.approx(0.5 * found["baseline"])
    assert diversity(images[:3], training[:5])["baseline"] is None
    assert diversity(images, images[:1]) == {"value": None, "baseline": None}


def test_renders_of_other_scenes_are_the_baseline(renders, scenes):
    first, second = two_sets(scenes, 18, 0)
    images, others, evaluator = renders[first], renders[second], released()
    soft = blurred(images)
    found = fidelity(evaluator, soft, images, others, scenes[first], scenes[second])
    assert (found["images"], found["baseline_images"]) == (18, 18)
    assert found["sharpness"]["value"] == pytest.approx(sharpness(soft) / sharpness(images))
    assert found["sharpness"]["value"] < 0.8 < found["sharpness"]["baseline"] < 1.25
    features = [evaluator.features(evaluator.resized(x)) for x in (soft, images)]
    assert found["kernel_distance"]["value"] == pytest.approx(
        kernel_distance(*features, scenes[first], scenes[first]))
    for name in ("sharpness", "kernel_distance", "two_sample"):
        assert all(math.isfinite(found[name][key]) for key in ("value", "baseline"))


def test_with_one_scene_there_is_nothing_to_compare(renders, scenes):
    found = fidelity(released(), renders[:3], renders[:3], renders[3:], scenes[:3], scenes[3:])
    for name in ("sharpness", "kernel_distance", "two_sample"):
        assert found[name] == {"value": None, "baseline": None}


def test_the_sharpness_to_expect_is_that_of_images_with_as_many_objects(dataset):
    by_size = {size: sharpness(torch.stack([image for (image, _), names in
                                            zip(dataset, dataset.conditions, strict=True)
                                            if len(names) == size])) for size in (1, 2, 3)}
    one, three = [("red cube",)], [("red cube", "cyan cube", "cyan sphere")]
    assert expected_sharpness(dataset, one) == pytest.approx(by_size[1], rel=1e-5)
    assert expected_sharpness(dataset, one + 3 * three) == pytest.approx(
        (by_size[1] + 3 * by_size[3]) / 4, rel=1e-5)
    crowd = [tuple(OBJECTS[:7])]  # more than any image has
    assert expected_sharpness(dataset, crowd) == pytest.approx(
        sum(by_size.values()) / 3, rel=1e-5)
