import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.errors import UserError
from cddpm_core.labels import (
    COLOURS,
    CONDITION_FILES,
    OBJECTS,
    SHAPES,
    condition_file,
    from_multi_hot,
    read_conditions,
    read_objects,
    read_train,
    to_multi_hot,
)

label_sets = st.lists(st.sampled_from(OBJECTS), min_size=1, max_size=5, unique=True)


def test_index_is_eight_times_shape_plus_colour():
    for s, shape in enumerate(SHAPES):
        for c, colour in enumerate(COLOURS):
            assert OBJECTS[8 * s + c] == f"{colour} {shape}"


@given(label_sets)
def test_multi_hot_round_trip(names):
    multi_hot = to_multi_hot(names)
    assert multi_hot.shape == (24,) and multi_hot.dtype == torch.float32
    assert (multi_hot > 0.5).sum() == len(names) and (multi_hot > 0).sum() == len(names)
    assert from_multi_hot(multi_hot) == tuple(names)
    assert from_multi_hot(multi_hot.bfloat16()) == tuple(names)


@given(label_sets)
def test_names_without_an_order_come_by_their_index(names):
    plain = (to_multi_hot(names) > 0).float()
    assert from_multi_hot(plain) == tuple(sorted(names, key=OBJECTS.index))


@pytest.mark.parametrize("name", CONDITION_FILES)
def test_shipped_conditions_are_the_labs(lab, name):
    shipped = json.loads(condition_file(name).read_text())
    assert shipped == json.loads((lab / f"{name}.json").read_text())


def test_label_files_of_the_lab(lab):
    train = read_train(lab / "train.json")
    assert len(train) == 18009
    assert read_objects(lab / "objects.json") == {name: i for i, name in enumerate(OBJECTS)}


@pytest.mark.parametrize(("name", "objects"), [("test", 72), ("new_test", 84)])
def test_condition_files_hold_what_the_scores_count(name, objects):
    conditions = read_conditions(condition_file(name))
    assert len(conditions) == 32 and sum(map(len, conditions)) == objects


@pytest.mark.parametrize(("content", "words"), [
    ('[["red spere"]]', "unknown label 'red spere' (did you mean 'red sphere'"),
    ("[[]]", "row 0: the label list is empty"),
    ("[", "malformed JSON at line 1"),
    ("{}", "expected a non-empty list"),
    ('[["red cube", "red cube"]]', "named twice"),
    ('[[3]]', "unknown label 3"),
    ('["red cube"]', "expected a list of object names, found 'red cube'"),
])
def test_bad_conditions_are_named_in_one_sentence(tmp_path, content, words):
    path = tmp_path / "test.json"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_conditions(path)
    assert words in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "words"), [
    ('{"a.png": ["red cub"]}', "'a.png': unknown label 'red cub'"),
    ('{"a.png": []}', "the label list is empty"),
    ("[]", "expected a non-empty object"),
])
def test_bad_train_file(tmp_path, content, words):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(UserError, match=words.replace("'", ".")):
        read_train(tmp_path / "train.json")


def test_objects_with_another_index_are_refused(tmp_path):
    wrong = {name: i for i, name in enumerate(OBJECTS)} | {"red cube": 7}
    (tmp_path / "objects.json").write_text(json.dumps(wrong))
    with pytest.raises(UserError, match="'red cube' has index 7, expected 1"):
        read_objects(tmp_path / "objects.json")


def test_unknown_condition_file_suggests_the_near_one():
    with pytest.raises(UserError, match="did you mean 'new_test'"):
        condition_file("newtest")
