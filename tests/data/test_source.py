import hashlib
import json
import shutil

import pytest
from conftest import LABELS

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params
from cddpm_core.data import source
from cddpm_core.data.dataset import ConditionDataset
from cddpm_core.data.labels import read_train
from cddpm_core.data.source import data_source, left_out, load_dataset


def test_test_conditions_are_held_out_in_any_order_of_names(folder, tmp_path):
    asked = [set(names) for file in ("test", "new_test")
             for names in ConditionDataset(file).conditions]
    other = ("red cube", "gray cube")
    assert set(other) not in asked
    labels = dict(zip(LABELS, (sorted(asked[5], reverse=True), other, list(asked[-1])),
                      strict=True))
    (folder / "train.json").write_text(json.dumps(labels))
    params = Params(data=str(folder), holdout="test_conditions")
    dataset = load_dataset(params, tmp_path / "cache")
    assert dataset.conditions == [other] and len(dataset) == len(dataset.pixels) == 1
    assert len(load_dataset(params.replace(holdout="none"), tmp_path / "cache")) == 3
    assert not left_out(params.replace(holdout="none"))
    del labels[list(LABELS)[1]]
    (folder / "train.json").write_text(json.dumps(labels))
    with pytest.raises(UserError, match="expected conditions that are not left out, found none"):
        load_dataset(params, tmp_path / "cache")


def test_the_courses_labels_make_it_real(folder, tmp_path, monkeypatch):
    labels = {frozenset(names) for names in LABELS.values()}
    monkeypatch.setattr(source, "COURSE", (len(LABELS), len(labels)))
    assert data_source(Params(data=str(folder)), tmp_path).kind == "real"


def test_the_course_has_so_many_images_and_conditions(lab):
    labels = read_train(lab / "train.json").values()
    assert (len(labels), len(set(map(frozenset, labels)))) == source.COURSE


@pytest.mark.parametrize("tilde", [False, True])
def test_a_users_folder_is_given(folder, tmp_path, monkeypatch, tilde):
    monkeypatch.setenv("HOME", str(folder.parent))
    found = data_source(Params(data="~/set" if tilde else str(folder)), tmp_path / "cache")
    assert (found.kind, found.folder, found.heldout) == ("given", folder, None)
    assert found.sha256 == hashlib.sha256((folder / "train.json").read_bytes()).hexdigest()
    assert not (tmp_path / "cache").exists()


def test_a_users_folder_without_images_is_one_sentence(folder, tmp_path):
    shutil.rmtree(folder / "iclevr")
    with pytest.raises(UserError, match="3 of the 3 images"):
        data_source(Params(data=str(folder)), tmp_path)


def test_embedded_data_are_rendered_once_and_split(tmp_path):
    params = Params(num_scenes=2, heldout_scenes=1)
    found = data_source(params, tmp_path)
    assert found.kind == "rendered"
    train, heldout = (read_train(part / "train.json") for part in (found.folder, found.heldout))
    assert (len(train), len(heldout)) == (6, 3)
    assert len(load_dataset(params, tmp_path)) == 6
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert data_source(params, tmp_path) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == before
    other = data_source(params.replace(data_seed=1), tmp_path)
    assert other.folder != found.folder and other.sha256 != found.sha256
