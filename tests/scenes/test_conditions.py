import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.data.dataset import ConditionDataset
from cddpm_core.data.images import to_float
from cddpm_core.data.labels import OBJECTS
from cddpm_core.evaluation.score import score
from cddpm_core.evaluation.stand_in import released
from cddpm_core.scenes.conditions import render_conditions, scene_for


@settings(max_examples=20)
@given(st.lists(st.sampled_from(OBJECTS), min_size=1, max_size=3, unique=True), st.integers(0, 9))
def test_a_scene_has_the_objects_in_the_order_of_the_condition(names, seed):
    scene = scene_for(names, seed)
    assert [o.name for o in scene.objects] == names
    assert scene.objects == scene_for(names, seed).objects
    assert scene.objects != scene_for(names, seed, 1).objects


def test_an_evaluator_finds_the_objects_and_the_images_repeat():
    conditions = ConditionDataset("test").conditions
    images = render_conditions(conditions)
    assert images.shape == (32, 64, 64, 3) and images.dtype == np.uint8
    assert score(released()(to_float(images)), conditions)["micro"] >= 0.98
    assert np.array_equal(images[:2], render_conditions(conditions[:2]))
    assert not np.array_equal(images[:2], render_conditions(conditions[:2], seed=1))


def test_an_unknown_object_is_a_user_error():
    with pytest.raises(UserError, match="red cuhe"):
        scene_for(["red cuhe"], 0)
    with pytest.raises(UserError, match="1 to 5"):
        scene_for(OBJECTS[:6], 0)
