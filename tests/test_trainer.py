import copy
import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import same

from cddpm_core.data import IclevrDataset
from cddpm_core.errors import UserError
from cddpm_core.params import TRAIN_KEYS
from cddpm_core.trainer import Trainer, read_checkpoint
from cddpm_core.training import train


def test_every_image_is_seen_once_an_epoch(tiny, dataset):
    trainer = Trainer(tiny, dataset)
    seen = np.concatenate([trainer._indices(step) for step in range(9)])
    assert trainer.total_steps == 9 and len(seen) == 72
    for epoch in (seen[:36], seen[36:]):
        assert sorted(epoch) == list(range(36))
    assert not np.array_equal(seen[:36], seen[36:])
    fresh = Trainer(tiny, dataset)
    assert np.array_equal(fresh._indices(6), seen[48:56])
    assert np.array_equal(fresh._indices(1), seen[8:16])


def test_last_batch_is_filled_from_the_next_epoch(tiny, dataset):
    trainer = Trainer(tiny.replace(batch_size=10, epochs=1), dataset)
    assert trainer.total_steps == 4
    assert len(trainer._indices(3)) == 10


def test_the_loss_falls_on_a_tiny_set(tiny, dataset):
    # At low noise there is much to gain, and a new U-ViT begins with a prediction of nothing.
    params = tiny.replace(epochs=12, patch_size=4, class_emb_size=64, timestep_shift=-1,
                          loss_weighting="uniform")
    trainer = Trainer(params, dataset)
    losses = [float(trainer.update()) for _ in range(trainer.total_steps)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])


def test_the_average_follows_the_weights(tiny, dataset):
    trainer = Trainer(tiny.replace(ema_decay=0.5), dataset)
    average = None
    for step in range(4):
        trainer.update()
        weight = trainer.model.class_embedding.weight.detach().clone()
        # diffusers begins with a shorter memory, (1 + n) / (10 + n) after n steps.
        decay = min(0.5, (1 + step) / (10 + step)) if step else 0.0
        average = weight if average is None else decay * average + (1 - decay) * weight
    assert torch.allclose(trainer.averaged().class_embedding.weight, average, atol=1e-6)


def test_without_standardising_images_are_the_x_0(tiny, dataset):
    trainer = Trainer(tiny.replace(standardise=False), dataset)
    assert not trainer.model.pixel_mean.any() and trainer.model.pixel_scale == 1


@pytest.mark.parametrize(("drop", "zeros"), [(0.0, 0), (1.0, 8)])
def test_labels_are_dropped_at_the_share_asked_for(tiny, dataset, drop, zeros):
    trainer = Trainer(tiny.replace(label_drop=drop, guidance_scale=1), dataset)
    seen = []
    trainer.model.class_embedding.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    trainer.update()
    assert (seen[0].sum(1) == 0).sum() == zeros


def test_learning_rate_follows_its_schedule(tiny, dataset):
    trainer = Trainer(tiny, dataset)
    rates = []
    for _ in range(9):
        trainer.update()
        rates.append([o.param_groups[0]["lr"] for o in trainer.optimizers])
    muon, half, adamw = zip(*rates, strict=True)
    assert muon == half
    assert muon[:3] == pytest.approx([0.02 / 3, 0.04 / 3, 0.02])
    assert adamw[2] == pytest.approx(tiny.learning_rate)
    assert muon[-1] == pytest.approx(0.02 * (1 - 8 / 9) / 0.5)


OTHER = {"seed": 3, "class_emb_size": 64, "conditioning": "class_embedding", "backbone": "unet",
         "batch_size": 4, "optimizer": "adam", "learning_rate": 0.5, "ema_decay": 0.5,
         "num_train_timesteps": 30, "prediction_type": "v_prediction", "label_drop": 0.7,
         "loss_weighting": "uniform"}


@pytest.mark.parametrize("key", OTHER)
def test_checkpoint_of_another_configuration_is_named(tiny, dataset, run, key):
    train(tiny.replace(max_steps=1), dataset, run)
    with pytest.raises(UserError) as error:
        train(tiny.replace(**{key: OTHER[key]}), dataset, run)
    assert f"checkpoint.pt: checkpoint of another configuration, {key} is" in str(error.value)
    assert repr(OTHER[key]) in str(error.value) and "\n" not in str(error.value)


def test_what_does_not_make_the_weights_may_change(tiny, dataset, run):
    train(tiny.replace(max_steps=1), dataset, run)
    other = tiny.replace(title="another", sampler="ddim", guidance_scale=2, evaluate_every=1,
                         checkpoint_minutes=9, sample_batch_size=3, max_steps=2)
    assert train(other, dataset, run)["steps"] == 2
    assert "title" not in TRAIN_KEYS


def test_checkpoint_of_another_data_set_is_named(tiny, dataset, run, rendered, tmp_path):
    train(tiny.replace(max_steps=1), dataset, run)
    other = shutil.copytree(rendered, tmp_path / "other")
    labels = json.loads((other / "train.json").read_text())
    (other / "train.json").write_text(json.dumps(dict(list(labels.items())[:-1])))
    with pytest.raises(UserError, match="checkpoint of another data set, of 36 images where there "
                                        "are 35 here"):
        train(tiny, IclevrDataset(other), run)
    labels[next(iter(labels))] = ["gray cube", "cyan cube", "red cube"]
    (other / "train.json").write_text(json.dumps(labels))
    with pytest.raises(UserError, match="checkpoint of another data set"):
        train(tiny, IclevrDataset(other), run)
    # The same set at another place is the same set.
    assert train(tiny.replace(max_steps=2), IclevrDataset(rendered, in_memory=False),
                 run)["steps"] == 2


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 hardly a zip", None])
def test_damaged_checkpoint_is_one_sentence(tiny, dataset, run, content):
    train(tiny.replace(max_steps=1), dataset, run)
    path = run / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:-2000] if content is None else content)
    with pytest.raises(UserError) as error:
        train(tiny, dataset, run)
    assert f"{path}: not a readable checkpoint" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{"step": 3}, [1, 2], {}])
def test_another_file_in_place_of_the_checkpoint_is_one_sentence(run, content):
    run.folder.mkdir(parents=True)
    torch.save(content, run / "checkpoint.pt")
    with pytest.raises(UserError, match="not a checkpoint of this library"):
        read_checkpoint(run / "checkpoint.pt")


def test_checkpoint_with_other_weights_is_one_sentence(tiny, dataset, run):
    train(tiny.replace(max_steps=1), dataset, run)
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    state["model"].pop("class_embedding.bias")
    torch.save(state, run / "checkpoint.pt")
    with pytest.raises(UserError, match="checkpoint of another network"):
        train(tiny, dataset, run)


def test_a_step_without_a_finite_loss_changes_nothing_but_the_count(tiny, dataset, poison):
    poison.update({2, 3})
    trainer = Trainer(tiny, dataset)
    for _ in range(2):
        trainer.update()
    before = copy.deepcopy([trainer.model.state_dict(), trainer.ema.state_dict(),
                            [o.state_dict()["state"] for o in trainer.optimizers]])
    for count in (1, 2):
        assert trainer.update().isnan()
        assert (trainer.step, trainer.skipped, trainer.in_a_row) == (2 + count, count, count)
    assert same(before, [trainer.model.state_dict(), trainer.ema.state_dict(),
                         [o.state_dict()["state"] for o in trainer.optimizers]])
    assert trainer.update().isfinite() and trainer.in_a_row == 0 and trainer.skipped == 2
    assert not same(before[0], trainer.model.state_dict())


def test_an_infinite_gradient_is_skipped_though_the_loss_is_finite(tiny, dataset):
    trainer = Trainer(tiny, dataset)
    trainer.model.class_embedding.bias.register_hook(lambda grad: grad * math.inf)
    before = copy.deepcopy(trainer.model.state_dict())
    assert trainer.update().isfinite() and trainer.skipped == 1
    assert same(before, trainer.model.state_dict())


def test_images_with_more_objects_than_tokens_are_one_sentence(tiny, dataset, rendered, tmp_path):
    other = shutil.copytree(rendered, tmp_path / "other")
    labels = json.loads((other / "train.json").read_text())
    labels[next(iter(labels))] = ["gray cube", "cyan cube", "red cube", "blue cube"]
    (other / "train.json").write_text(json.dumps(labels))
    with pytest.raises(UserError, match="one names 4 objects, expected at most 3"):
        Trainer(tiny.replace(conditioning="object_tokens"), IclevrDataset(other))


@pytest.mark.parametrize("changes", [{"optimizer": "adamw"}, {}, {"backbone": "unet"}],
                         ids=["adamw", "muon", "unet"])
def test_a_batch_in_two_parts_is_the_batch_as_a_whole(tiny, dataset, changes):
    params = tiny.replace(batch_size=33, **changes)
    halves, whole = Trainer(params, dataset), Trainer(params, dataset)
    assert halves.side_by_side.parts == 2 and Trainer(tiny, dataset).side_by_side.parts == 1
    whole.side_by_side.parts = 1
    for _ in range(2):
        assert float(halves.update()) == pytest.approx(float(whole.update()), rel=1e-4)
        for one, other in zip(halves.weights, whole.weights, strict=True):
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None:
                assert (one.grad - other.grad).norm() < 1e-3 * other.grad.norm() + 1e-6


@pytest.mark.parametrize(("precision", "near"), [("no", 1e-4), ("bf16", 0.05)])
def test_a_batch_in_two_parts_is_the_same_every_time_and_on_one_core(tiny, dataset, precision,
                                                                     near):
    before = torch.get_num_threads()
    params = tiny.replace(batch_size=32, mixed_precision=precision)
    trainers = [Trainer(params, dataset) for _ in range(3)]
    for trainer, threads in zip(trainers, (2, 2, 1), strict=True):
        torch.set_num_threads(threads)
        for _ in range(3):
            trainer.update()
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    first, again, alone = (dict(trainer.model.state_dict()) for trainer in trainers)
    assert same(first, again)
    assert all(torch.allclose(first[key], alone[key], atol=near) for key in first)


def test_a_compiled_network_trains_like_the_model(tiny, dataset, monkeypatch):
    # The compiler's own code takes a minute; tracing and differentiating for it is what is used.
    compile, before = torch.compile, torch.get_num_threads()
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend="aot_eager"))
    torch.set_num_threads(2)  # so that both halves of a batch ask for it at once
    plain, compiled = (Trainer(tiny.replace(batch_size=32, compile=on), dataset)
                       for on in (False, True))
    assert plain.network is plain.model and compiled.network is not compiled.model
    for _ in range(3):
        assert float(compiled.update()) == pytest.approx(float(plain.update()), rel=1e-4)
    torch.set_num_threads(before)
    one, other = (dict(trainer.averaged().state_dict()) for trainer in (plain, compiled))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[key], other[key], atol=1e-4) for key in one)


def test_a_compiler_that_fails_is_one_sentence(tiny, dataset, monkeypatch):
    def broken(graph, inputs):
        raise OSError("no g++ here")

    def unknown(model):
        raise RuntimeError("torch.compile is not supported on Python 3.99")

    compile, params = torch.compile, tiny.replace(compile=True)
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend=broken))
    with pytest.raises(UserError, match=r"^compile: .*no g\+\+ here.*expected a working compiler"):
        Trainer(params, dataset).update()
    monkeypatch.setattr(torch, "compile", unknown)
    with pytest.raises(UserError, match=r"^compile: .*Python 3.99.*expected a working compiler"):
        Trainer(params, dataset)
