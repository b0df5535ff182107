import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.data.labels import (
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

conditions = st.lists(st.sampled_from(OBJECTS), min_size=1, max_size=5, unique=True)


def test_the_index_is_eight_times_shape_plus_colour():
    for s, shape in enumerate(SHAPES):
        for c, colour in enumerate(COLOURS):
            assert OBJECTS[8 * s + c] == f"{colour} {shape}"


@given(conditions)
def test_multi_hot_round_trip(names):
    multi_hot = to_multi_hot(names)
    assert multi_hot.shape == (24,) and multi_hot.dtype == torch.float32
    assert (multi_hot > 0.5).sum() == len(names) and (multi_hot > 0).sum() == len(names)
    assert from_multi_hot(multi_hot) == tuple(names)
    assert from_multi_hot(multi_hot.bfloat16()) == tuple(names)
    # Names without an order come in the order of their indices.
    assert from_multi_hot((multi_hot > 0).float()) == tuple(sorted(names, key=OBJECTS.index))


@pytest.mark.parametrize("name", CONDITION_FILES)
def test_shipped_conditions_are_the_labs(lab, name):
    shipped = json.loads(condition_file(name).read_text())
    assert shipped == json.loads((lab / f"{name}.json").read_text())


def test_label_files_of_the_lab(lab):
    assert len(read_train(lab / "train.json")) == 18009
    assert read_objects(lab / "objects.json") == {name: i for i, name in enumerate(OBJECTS)}


INDICES = {name: i for i, name in enumerate(OBJECTS)}
BAD = [
    *((read, content, words) for read in (read_train, read_conditions, read_objects)
      for content, words in ((b"", "malformed JSON at line 1"), (b"[", "malformed JSON at line 1"),
                             (b"9" * 5000, "cannot be read"), (b"[" * 100_000, "cannot be read"),
                             (b"\xff\xfe\x00", "cannot be read"), (None, "no such file"))),
    (read_conditions, '[["red spere"]]', "unknown label 'red spere' (did you mean 'red sphere'"),
    (read_conditions, "[[]]", "row 0: the label list is empty"),
    (read_conditions, "{}", "expected a non-empty list"),
    (read_conditions, '[["red cube", "red cube"]]', "named twice"),
    (read_conditions, "[[3]]", "unknown label 3"),
    (read_conditions, '["red cube"]', "expected a list of object names, found 'red cube'"),
    (read_train, '{"a.png": ["red cub"]}', "'a.png': unknown label 'red cub'"),
    (read_train, '{"a.png": []}', "the label list is empty"),
    (read_train, "{}", "expected a non-empty object"),
    (read_train, "[]", "expected a non-empty object"),
    (read_train, '{"a.png": "red cube"}', "expected a list of object names"),
    (read_objects, "[]", "expected names with indices, found list"),
    (read_objects, json.dumps(INDICES | {"red cube": 7}), "index 7, which is that of 'red cube'"),
    (read_objects, json.dumps(INDICES | {"red cube": "1"}), "has index '1', expected 1"),
    (read_train, '[["a.png", ["red cube"]]]', "file name to label list, found [['a.png'"),
    (read_conditions, '{"0": ["red cube"]}', "expected a non-empty list of label lists, found {"),
    (read_train, '{"a.png": ["red cube"], "a.png": ["gray cube"]}', "'a.png' is there twice"),
    (read_objects, json.dumps(INDICES | {"red cub": 24}), "unknown object 'red cub' (did you mean"),
    (read_objects, json.dumps(dict(list(INDICES.items())[:-1])), "'yellow cylinder' is missing"),
]


@pytest.mark.parametrize(("read", "content", "words"), BAD)
def test_a_bad_label_file_is_one_sentence(tmp_path, read, content, words):
    path = tmp_path / "labels.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as error:
        read(path)
    assert words in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("indices", [
    dict(reversed(INDICES.items())), {name: 23 - i for name, i in INDICES.items()},
    {name: i + 1 for name, i in INDICES.items()}])
def test_objects_may_come_in_another_order(tmp_path, indices):
    (tmp_path / "objects.json").write_text(json.dumps(indices))
    assert read_objects(tmp_path / "objects.json") == indices


def test_an_unknown_condition_file_suggests_the_near_one():
    with pytest.raises(UserError, match="did you mean 'new_test'"):
        condition_file("newtest")
