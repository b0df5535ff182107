import copy
import math

import numpy as np
import pytest
import torch
from conftest import same
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cddpm_core.config.errors import UserError
from cddpm_core.training.state import LossScale
from cddpm_core.training.trainer import Trainer


def test_every_image_is_seen_once_an_epoch(tiny, dataset):
    tiny = tiny.replace(image_sampling="uniform")
    trainer = Trainer(tiny, dataset)
    seen = np.concatenate([trainer.batches.indices(step) for step in range(9)])
    assert trainer.total_steps == 9 and len(seen) == 72
    for epoch in (seen[:36], seen[36:]):
        assert sorted(epoch) == list(range(36))
    assert not np.array_equal(seen[:36], seen[36:])
    fresh = Trainer(tiny, dataset)  # from any step on
    assert np.array_equal(fresh.batches.indices(6), seen[48:56])
    assert np.array_equal(fresh.batches.indices(1), seen[8:16])
    uneven = Trainer(tiny.replace(batch_size=10, epochs=1), dataset)
    assert uneven.total_steps == 4 and len(uneven.batches.indices(3)) == 10


def test_the_loss_falls_on_a_tiny_set(tiny, dataset):
    # At low noise there is much to gain, and a new U-ViT begins with a prediction of nothing.
    params = tiny.replace(epochs=8, patch_size=4, class_emb_size=64, timestep_shift=-1,
                          loss_weighting="uniform")
    trainer = Trainer(params, dataset)
    losses = [float(trainer.update()) for _ in range(trainer.total_steps)]
    assert np.mean(losses[-8:]) < 0.6 * np.mean(losses[:3])


@pytest.mark.parametrize("decay", [0.5, 0.0])
def test_the_average_follows_the_weights(tiny, dataset, decay):
    trainer = Trainer(tiny.replace(ema_decay=decay), dataset)
    average = None
    for step in range(4):
        trainer.update()
        weight = trainer.unet.class_embedding.weight.detach().clone()
        # It begins with a shorter memory, (1 + n) / (10 + n) after n steps.
        factor = min(decay, (1 + step) / (10 + step)) if step else 0.0
        average = weight if average is None else factor * average + (1 - factor) * weight
    pipeline = trainer.averaged()
    assert torch.allclose(pipeline.unet.class_embedding.weight, average, atol=1e-6)
    assert pipeline.codec is trainer.pipeline.codec and not pipeline.unet.training
    assert torch.equal(trainer.unet.class_embedding.weight, weight)


@pytest.mark.parametrize(("drop", "count"), [(0.0, 0), (0.5, None), (1.0, 8)])
def test_labels_and_positions_are_dropped_at_the_fraction_asked_for(tiny, dataset, drop, count):
    trainer = Trainer(tiny.replace(label_drop=drop, guidance_scale=1), dataset)
    seen = []
    trainer.unet.register_forward_pre_hook(lambda _, given: seen.append(given[2:]))
    for _ in range(1 if count is not None else 8):
        trainer.update()
    dropped = [int((part.flatten(1) == 0).all(1).sum()) for part, _ in seen]
    unknown = [int(part.flatten(1).isnan().all(1).sum()) for _, part in seen]
    if count is not None:
        assert sum(dropped) == sum(unknown) == count
    else:
        assert 20 <= sum(dropped) <= 44 and 20 <= sum(unknown) <= 44 and dropped != unknown


def test_the_learning_rate_follows_its_schedule(tiny, dataset):
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


def states(trainer) -> dict:
    """The states of all parts but the counters."""
    parts = {name: part.state_dict() for name, part in trainer.parts.items() if name != "counters"}
    for name, state in parts.items():
        if name.startswith("optimizer"):
            parts[name] = state["state"]
    return copy.deepcopy(parts)


def test_a_step_without_a_finite_loss_changes_nothing_but_the_counters(tiny, dataset, poison):
    poison.update({2, 3})
    trainer = Trainer(tiny, dataset)
    for _ in range(2):
        trainer.update()
    before = states(trainer)
    for count in (1, 2):
        assert trainer.update().isnan()
        assert trainer.step == 2 + count
        assert trainer.counters.read()[:3] == (count, count, count)
    assert same(before, states(trainer))
    assert trainer.update().isfinite() and trainer.counters.read()[:3] == (2, 0, 2)
    assert not same(before["model"], states(trainer)["model"])


def test_an_infinite_gradient_is_skipped_though_the_loss_is_finite(tiny, dataset):
    trainer = Trainer(tiny, dataset)
    trainer.update()  # the state of the optimisers is made in the first step
    trainer.unet.class_embedding.bias.register_hook(lambda grad: grad * math.inf)
    before = states(trainer)
    assert trainer.update().isfinite() and trainer.counters.read().skipped == 1
    assert same(before, states(trainer))


@pytest.mark.parametrize("changes", [
    {"optimizer": "adamw"}, {}, {"gradient_accumulation_steps": 3},
    {"backbone": "unet", "conditioning": "class_embedding"},
    {"gradient_accumulation_steps": 99, "batch_size": 8, "loss_weighting": "min_snr"},
], ids=lambda changes: "-".join(map(str, changes.values())))
def test_a_batch_in_parts_is_the_batch_as_a_whole(tiny, dataset, changes):
    params = tiny.replace(**{"batch_size": 33, **changes})
    split, whole = (Trainer(p, dataset)
                    for p in (params, params.replace(gradient_accumulation_steps=1)))
    assert split.side_by_side.parts == (2 if params.batch_size >= 8 else 1)
    whole.side_by_side.parts = 1
    for _ in range(2):
        assert float(split.update()) == pytest.approx(float(whole.update()), rel=1e-4)
        for one, other in zip(split.weights, whole.weights, strict=True):
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None:
                assert (one.grad - other.grad).norm() < 1e-3 * other.grad.norm() + 1e-6
    if split.balance:
        assert torch.allclose(split.balance.means, whole.balance.means, rtol=1e-3)


class Waits(TorchDispatchMode):
    """Records what would wait for a device: scalars read, shapes that values decide."""

    ASK = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__.lstrip("_").startswith(
                tuple(name.lstrip("_") for name in self.ASK)):
            self.found.append(str(function))
        return function(*args, **kwargs or {})


class Copies(TorchFunctionMode):
    """Records calls that copy a tensor to the host, which on a CPU do nothing."""

    ASK = {"cpu", "numpy", "tolist", "item", "__bool__", "__float__", "__int__", "__index__"}

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in self.ASK:
            self.found.append(function.__name__)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("changes", [
    {}, {"optimizer": "adam", "loss_weighting": "min_snr", "gradient_accumulation_steps": 3},
    {"backbone": "unet", "conditioning": "class_embedding", "prediction_type": "v_prediction"},
], ids=lambda changes: "-".join(map(str, changes.values())))
def test_a_step_never_waits_for_the_device(tiny, dataset, changes):
    trainer = Trainer(tiny.replace(**changes), dataset)
    trainer.loss_scale = LossScale("cpu")  # as in float16
    trainer.update()  # the state of the optimisers is made in the first step
    with Waits() as waits, Copies() as copies:
        trainer.update()
        assert not waits.found and not copies.found
        float(trainer.counters._tally[0])
    assert waits.found and copies.found


def test_a_scaled_loss_gives_the_same_weights(tiny, dataset):
    plain, scaled = Trainer(tiny, dataset), Trainer(tiny, dataset)
    scaled.loss_scale = LossScale("cpu")
    for _ in range(3):
        assert float(scaled.update()) == pytest.approx(float(plain.update()), rel=1e-6)
    for one, other in zip(plain.weights, scaled.weights, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    scaled.unet.class_embedding.bias.register_hook(lambda grad: grad * math.inf)
    before = states(scaled)
    scaled.update()
    assert before.pop("loss_scale")["scale"] == 2 * scaled.loss_scale.scale
    after = states(scaled)
    assert after.pop("loss_scale")["since"] == 0 and same(before, after)


@pytest.fixture
def threads():
    """Sets the number of cores that torch uses, until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("precision", "near"), [("no", 1e-4), ("bf16", 0.05)])
def test_a_batch_in_halves_is_the_same_every_time_and_on_one_core(tiny, dataset, precision, near,
                                                                  threads):
    params = tiny.replace(batch_size=32, mixed_precision=precision)
    trainers = [Trainer(params, dataset) for _ in range(3)]
    for trainer, cores in zip(trainers, (2, 2, 1), strict=True):
        threads(cores)
        for _ in range(3):
            trainer.update()
        assert torch.get_num_threads() == cores
    first, again, alone = (dict(trainer.unet.state_dict()) for trainer in trainers)
    assert same(first, again)
    assert all(torch.allclose(first[key], alone[key], atol=near) for key in first)


def test_a_compiled_network_trains_like_the_network(tiny, dataset, monkeypatch, threads):
    # The compiler's own code takes a minute; tracing and differentiating for it is what is used.
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend="aot_eager"))
    threads(2)  # so that both halves of a batch ask for it at once
    params = tiny.replace(batch_size=32, blocks=[1], channels=[1], transformer_blocks=1)
    plain, compiled = (Trainer(params.replace(compile=on), dataset) for on in ("no", "yes"))
    assert plain.network is plain.unet and compiled.network is not compiled.unet
    for _ in range(2):
        assert float(compiled.update()) == pytest.approx(float(plain.update()), rel=1e-4)
    one, other = (dict(trainer.averaged().unet.state_dict()) for trainer in (plain, compiled))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[key], other[key], atol=1e-4) for key in one)


def test_a_compiler_that_fails_is_one_sentence(tiny, dataset, monkeypatch):
    def broken(graph, inputs):
        raise OSError("no g++ here")

    def unknown(model):
        raise RuntimeError("torch.compile is not supported on Python 3.99")

    compile = torch.compile
    params = tiny.replace(compile="yes", blocks=[1], channels=[1], transformer_blocks=1)
    monkeypatch.setattr(torch, "compile", lambda model: compile(model, backend=broken))
    with pytest.raises(UserError, match=r"^compile: .*no g\+\+ here.*expected a working compiler"):
        Trainer(params, dataset).update()
    monkeypatch.setattr(torch, "compile", unknown)
    with pytest.raises(UserError, match=r"^compile: .*Python 3.99.*expected a working compiler"):
        Trainer(params, dataset)
