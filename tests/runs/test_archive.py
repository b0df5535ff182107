import shutil

import pytest

from cddpm_core.runs import archive
from cddpm_core.runs.archive import archive_stale_training, changed_since_training, record_training
from cddpm_core.training.checkpoint import write_checkpoint

PARTS = ("history.jsonl", "model/unet/weights", "timesteps/T2000/history.jsonl", "checkpoint.pt",
         "training.json")


@pytest.fixture
def params(tiny, folder):
    return tiny.replace(data=str(folder), epochs=2)


@pytest.fixture
def trained(run, params):
    """A run with the files of a training of 3 images."""
    record_training(run, params)
    for name in PARTS[:3]:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    run.update_metrics({"train": {"steps": 1}})
    write_checkpoint(run / "checkpoint.pt", params, {"images": 3, "labels": "l", "pixels": "p"}, 1,
                     {})
    return run


def kept(run):
    return all((run / name).exists() for name in PARTS) and not (run / "previous").exists()


@pytest.mark.parametrize("changes", [
    {}, {"epochs": 4}, {"max_steps": 1}, {"guidance_scale": 5.0}, {"device": "auto"},
    {"evaluator": "a.pth"}, {"title": "x"}, {"num_processes": 2}])
def test_a_training_that_can_go_on_stays(trained, params, changes):
    assert archive_stale_training(trained, params.replace(**changes)) == "" and kept(trained)


@pytest.mark.parametrize("where", ["moved", "linked", "copied", "relative"])
def test_the_same_data_under_another_path_are_the_same(trained, params, folder, tmp_path, where,
                                                       monkeypatch):
    other = tmp_path / "other"
    monkeypatch.chdir(tmp_path)
    {"moved": lambda: folder.rename(other), "linked": lambda: other.symlink_to(folder),
     "copied": lambda: shutil.copytree(folder, other), "relative": lambda: None}[where]()
    data = str(other) if where != "relative" else "set"
    assert archive_stale_training(trained, params.replace(data=data)) == "" and kept(trained)


@pytest.mark.parametrize(("changes", "why"), [
    ({"learning_rate": 0.5}, "learning_rate changed from 0.0012 to 0.5"),
    ({"seed": 4}, "seed changed from 0 to 4"),
    ({"holdout": "test_conditions"}, "holdout changed from 'none' to 'test_conditions'"),
    ({"data": ""}, "the training images changed"),
    ({"batch_size": 1, "epochs": 1}, "batch_size changed from 8 to 1"),
])
def test_a_training_of_other_parameters_is_kept_aside(trained, params, changes, why):
    said = archive_stale_training(trained, params.replace(**changes))
    aside, = (trained / "previous").iterdir()
    assert said == f"the earlier training is kept in {aside} ({why})"
    assert all((aside / name).exists() and not (trained / name).exists() for name in PARTS)
    assert (aside / "metrics.json").exists() and (trained / "metrics.json").exists()
    assert archive_stale_training(trained, params) == ""


def test_images_that_changed_are_others(trained, params, folder):
    labels = folder / "train.json"
    labels.write_text(labels.read_text().replace("red cube", "red sphere"))
    assert "the training images changed" in archive_stale_training(trained, params)


def test_a_training_of_more_epochs_is_kept_aside(trained, params):
    write_checkpoint(trained / "checkpoint.pt", params,
                     {"images": 16, "labels": "l", "pixels": "p"}, 3, {})
    assert archive_stale_training(trained, params) == ""
    assert "it has more than the 1 epochs asked for" in archive_stale_training(
        trained, params.replace(epochs=1))


def test_a_new_training_can_be_forced_repeatedly(trained, params):
    assert "(as asked)" in archive_stale_training(trained, params, force=True)
    assert archive_stale_training(trained, params, force=True) == ""
    (trained / "checkpoint.pt").write_bytes(b"damaged")
    assert archive_stale_training(trained, params, force=True)
    assert len(list((trained / "previous").iterdir())) == 2


def test_changed_code_is_named_and_the_record_is_that_of_the_beginning(trained, params,
                                                                       monkeypatch):
    assert changed_since_training(trained) == []
    modules = archive._modules()
    name = "cddpm_core/model/uvit.py"
    assert name in modules and "cddpm_core/training/trainer.py" in modules
    assert not any(path.endswith(("guidance.py", "samplers.py", "score.py")) for path in modules)
    monkeypatch.setattr(archive, "_modules", lambda: {**modules, name: "other"})
    assert changed_since_training(trained) == [name]
    record_training(trained, params)  # it is resumed
    assert changed_since_training(trained) == [name]
    archive_stale_training(trained, params, force=True)
    record_training(trained, params)
    assert changed_since_training(trained) == []
