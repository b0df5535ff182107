import hashlib
import json
import shutil

import pytest
from conftest import LABELS

from cddpm_core.data import ConditionDataset, IclevrDataset
from cddpm_core.errors import UserError
from cddpm_core.labels import read_train
from cddpm_core.params import Params
from cddpm_core.sources import data_source, left_out


def test_held_out_label_sets_are_not_trained_on(folder):
    asked = [set(names) for file in ("test", "new_test")
             for names in ConditionDataset(file).label_sets]
    other = ("red cube", "gray cube")
    assert set(other) not in asked
    labels = dict(zip(LABELS, (sorted(asked[5], reverse=True), other, list(asked[-1])),
                      strict=True))
    (folder / "train.json").write_text(json.dumps(labels))
    dataset = IclevrDataset(folder, leave_out=left_out(Params(holdout="test_conditions")))
    assert dataset.label_sets == [other] and len(dataset) == len(dataset.pixels) == 1
    assert len(IclevrDataset(folder, leave_out=left_out(Params()))) == 3
    del labels[list(LABELS)[1]]
    (folder / "train.json").write_text(json.dumps(labels))
    with pytest.raises(UserError, match="expected label sets that are not left out"):
        IclevrDataset(folder, leave_out=asked)


def test_a_users_folder_is_real_data(folder, run):
    found = data_source(Params(data=str(folder)), run)
    assert (found.kind, found.folder, found.heldout) == ("real", folder, None)
    assert found.sha256 == hashlib.sha256((folder / "train.json").read_bytes()).hexdigest()
    assert "real" in found.describe()
    assert not run.cache.exists()


def test_a_users_folder_may_start_with_a_tilde(folder, run, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert data_source(Params(data="~/set"), run).folder == folder


def test_a_users_folder_without_images_is_one_sentence(folder, run):
    shutil.rmtree(folder / "iclevr")
    with pytest.raises(UserError, match="3 of the 3 images"):
        data_source(Params(data=str(folder)), run)


def test_embedded_data_is_rendered_once_and_split(run):
    params = Params(num_scenes=2, heldout_scenes=1)
    found = data_source(params, run)
    assert found.kind == "rendered" and "rendered" in found.describe()
    train, heldout = (read_train(part / "train.json") for part in (found.folder, found.heldout))
    assert (len(train), len(heldout)) == (6, 3)
    assert len(IclevrDataset(found.folder)) == 6
    before = {path: path.stat().st_mtime_ns for path in found.folder.rglob("*.png")}
    assert data_source(params, run) == found
    assert {path: path.stat().st_mtime_ns for path in found.folder.rglob("*.png")} == before
    other = data_source(params.replace(data_seed=1), run)
    assert other.folder != found.folder and other.sha256 != found.sha256
