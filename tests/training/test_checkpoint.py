import copy
import shutil

import pytest
import torch
from conftest import same

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import keys_affecting
from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.training.checkpoint import check_checkpoint, read_checkpoint, write_checkpoint
from cddpm_core.training.trainer import Trainer


@pytest.fixture(scope="module")
def made(tiny, dataset, tmp_path_factory):
    """The file of a checkpoint after two steps."""
    trainer = Trainer(tiny, dataset)
    for _ in range(2):
        trainer.update()
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    trainer.save(path)
    return path


@pytest.fixture(scope="module")
def state(made):
    """What that checkpoint holds; not to be changed."""
    return read_checkpoint(made)


@pytest.fixture
def copied(made, tmp_path):
    """A copy of the file, to be changed."""
    return shutil.copy(made, tmp_path / "checkpoint.pt")


@pytest.fixture(scope="module")
def trainer(tiny, dataset):
    """A training to continue from checkpoints that it refuses."""
    return Trainer(tiny, dataset)


@pytest.mark.parametrize("changes", [
    {}, {"optimizer": "adam", "ema_decay": 0, "loss_weighting": "min_snr"},
    {"optimizer": "adamw", "backbone": "unet", "conditioning": "class_embedding"},
    {"mixed_precision": "bf16", "layout": False},
], ids=lambda changes: "-".join(map(str, changes.values())))
def test_nothing_of_a_training_is_lost(tiny, dataset, tmp_path, changes):
    one = Trainer(tiny.replace(**changes), dataset)
    for _ in range(3):
        one.update()
    one.counters.seconds = 7.0
    one.save(tmp_path / "checkpoint.pt")
    held = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["parts"]
    assert held.keys() == one.parts.keys()
    other = Trainer(one.params, dataset)
    other.load(tmp_path / "checkpoint.pt")
    assert other.step == 3 and other.counters.read() == one.counters.read()
    for _ in range(2):
        for name, part in one.parts.items():
            assert same(part.state_dict(), other.parts[name].state_dict()), name
        assert torch.equal(one.update(), other.update())


def test_a_checkpoint_is_that_of_its_parameters_data_and_length(tiny, dataset, rendered, made,
                                                                state):
    assert state["step"] == 2 and state["parts"].keys() >= {"model", "ema", "balance", "counters"}
    assert state["params"].keys() == set(keys_affecting("weights", "data"))
    check_checkpoint(made, state, tiny, dataset.fingerprint, total_steps=2)
    # What does not affect the weights may change.
    other = tiny.replace(title="another", sampler="ddim", guidance_scale=2, evaluate_every=1,
                         checkpoint_minutes=9, sample_batch_size=3, max_steps=2, num_scenes=7)
    read = IclevrDataset(rendered, in_memory=False)
    check_checkpoint(made, state, other, read.fingerprint, total_steps=9)


@pytest.mark.parametrize("key", keys_affecting("weights"))
def test_a_checkpoint_of_another_configuration_is_refused(tiny, dataset, made, state, key):
    found = {**state, "params": {**state["params"], key: "something else"}}
    with pytest.raises(UserError) as error:
        check_checkpoint(made, found, tiny, dataset.fingerprint, total_steps=9)
    assert str(error.value).startswith(
        f"{made}: checkpoint of another configuration, {key} is 'something else' there and "
        f"{getattr(tiny, key)!r} here")


@pytest.mark.parametrize(("key", "value", "words"), [
    ("images", 35, "checkpoint of another data set, 36 images there and 35 here"),
    ("labels", "0" * 64, "checkpoint of another data set, other labels"),
    ("pixels", "0" * 64, "checkpoint of another data set, other pixels"),
])
def test_a_checkpoint_of_other_data_is_refused(tiny, dataset, made, state, key, value, words):
    with pytest.raises(UserError, match=words):
        check_checkpoint(made, state, tiny, {**dataset.fingerprint, key: value}, total_steps=9)


@pytest.mark.parametrize("step", [-1, 10])
def test_a_checkpoint_of_more_steps_than_asked_for_is_refused(tiny, dataset, made, state, step):
    with pytest.raises(UserError, match=f"checkpoint of step {step}, beyond the 9 that epochs 2"):
        check_checkpoint(made, {**state, "step": step}, tiny, dataset.fingerprint, total_steps=9)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 hardly a zip", None])
def test_a_damaged_checkpoint_is_one_sentence(copied, trainer, content):
    copied.write_bytes(copied.read_bytes()[:-2000] if content is None else content)
    with pytest.raises(UserError) as error:
        trainer.load(copied)
    assert f"{copied}: not a readable checkpoint" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("change", "words"), [
    (lambda state: [1, 2], "not a checkpoint of this library, params, images"),
    (lambda state: {}, "not a checkpoint of this library, params, images"),
    (lambda state: {**state, "step": "3"}, "not a checkpoint of this library, step not in it"),
    (lambda state: {**state, "schema": 99}, "expected schema 1, found 99"),
    (lambda state: {**state, "params": {**state["params"], "blocks": "all"}},
     "blocks: expected a list of int, found 'all'"),
])
def test_another_file_in_place_of_a_checkpoint_is_one_sentence(tmp_path, state, change, words):
    path = tmp_path / "checkpoint.pt"
    torch.save(change(state), path)
    with pytest.raises(UserError) as error:
        read_checkpoint(path)
    assert f"{path}: " in str(error.value) and words in str(error.value)
    assert "\n" not in str(error.value)


SPOILS = {
    "a weight missing": lambda parts: parts["model"].pop("class_embedding.bias"),
    "a weight of another shape": lambda parts: parts["model"].update(
        {"class_embedding.bias": torch.zeros(3)}),
    "an average of other weights": lambda parts: parts["ema"]["model"].update(
        {"class_embedding.bias": torch.zeros(3)}),
    "no average": lambda parts: parts.pop("ema"),
    "an optimiser of other weights": lambda parts: parts.update(
        optimizer_0=parts["optimizer_1"], optimizer_1=parts["optimizer_0"]),
    "an optimiser without groups": lambda parts: parts["optimizer_2"]["param_groups"].clear(),
    "errors of other timesteps": lambda parts: parts["balance"].update(means=torch.ones(5)),
    "other counters": lambda parts: parts["counters"].pop("step"),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_checkpoint_of_another_network_is_one_sentence(tiny, dataset, state, tmp_path, spoil):
    parts = copy.deepcopy(state["parts"])
    SPOILS[spoil](parts)
    path = tmp_path / "checkpoint.pt"
    torch.save({**state, "parts": parts}, path)
    with pytest.raises(UserError, match="checkpoint (of another network|without 'ema')") as error:
        Trainer(tiny, dataset).load(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_full_disk_leaves_the_checkpoint_before(tiny, dataset, copied, monkeypatch):
    def full(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed")

    whole = copied.read_bytes()
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot be written .* is the disk full\? The checkpoint"):
        write_checkpoint(copied, tiny, dataset.fingerprint, 3, {})
    assert copied.read_bytes() == whole and list(copied.parent.iterdir()) == [copied]
