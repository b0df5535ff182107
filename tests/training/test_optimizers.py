import copy

import pytest
import torch
from conftest import same
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cddpm_core.config.schema import Params
from cddpm_core.model.network import make_network
from cddpm_core.sampling.pipeline import make_pipeline
from cddpm_core.training import optimizers
from cddpm_core.training import optimizers as module
from cddpm_core.training.optimizers import KernelMuon, make_optimizers, orthogonalised


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.SiLU(), nn.Flatten(),
                             nn.Linear(8 * 4 * 4, 5, bias=False))


def images(seed: int) -> torch.Tensor:
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def steps(model, optimizer, seeds):
    for seed in seeds:
        model(images(seed)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("bf16", [True, False])
def test_muon_is_that_of_torch_on_kernels_seen_as_matrices(monkeypatch, bf16):
    monkeypatch.setattr(module, "computes_bf16", lambda device: bf16)
    ours, theirs = network(), network()
    views = [torch.nn.Parameter(weight.detach().flatten(1)) for weight in theirs.parameters()]
    muon = KernelMuon(ours.parameters(), lr=0.05)
    other = torch.optim.Muon(views, lr=0.05, weight_decay=0.0, ns_steps=4)
    for seed in range(3):
        for model in (ours, theirs):
            model(images(seed)).square().mean().backward()
        for view, weight in zip(views, theirs.parameters(), strict=True):
            view.grad = weight.grad.flatten(1).clone()
        for optimizer in (muon, other):
            optimizer.step()
        ours.zero_grad()
        theirs.zero_grad()
    for a, b, before in zip(ours.parameters(), theirs.parameters(), network().parameters(),
                            strict=True):
        assert (a - b).norm() < 0.05 * (a - before).norm()  # in bfloat16 both round


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_singular_values_of_a_step_stay_near_1_at_most(power, kind):
    """Also those of a matrix whose singular values fall by orders of magnitude."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 64, generator=generator)).Q for n in (64, 288))
    matrix = left * torch.arange(1.0, 65.0) ** -power @ right.T
    values = torch.linalg.svdvals(orthogonalised(matrix[None].to(kind)).float())
    assert values.max() < 1.3


def test_muon_takes_kernels_of_one_shape_together(monkeypatch):
    def alike():
        generator = torch.Generator().manual_seed(0)
        return [torch.nn.Parameter(torch.randn(shape, generator=generator))
                for shape in ((4, 6), (6, 4, 3), (4, 6), (6, 4, 3), (4, 6))]

    def shapes(kernels):  # as on an accelerator
        return [[k for k in kernels if k.shape == shape] for shape in {k.shape for k in kernels}]

    one, other = alike(), alike()
    separate, together = KernelMuon(one, lr=0.1), KernelMuon(other, lr=0.1)
    batches = module._batches
    for seed in range(3):
        for kernels in (one, other):
            generator = torch.Generator().manual_seed(seed)
            for kernel in kernels:
                kernel.grad = torch.randn(kernel.shape, generator=generator)
        for optimizer, how in ((separate, batches), (together, shapes)):
            monkeypatch.setattr(module, "_batches", how)
            optimizer.step()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_a_step_with_found_inf_changes_nothing(name, tiny, dataset):
    model = make_pipeline(tiny, dataset).unet
    optimizers = make_optimizers(model, tiny.replace(optimizer=name))
    for wrong in (0.0, 1.0, 0.0):
        before = copy.deepcopy([model.state_dict(), [o.state_dict() for o in optimizers]])
        for weight in model.parameters():
            weight.grad = torch.full_like(weight, torch.nan if wrong else 0.1)
        for optimizer in optimizers:
            optimizer.found_inf = torch.tensor(wrong)
            optimizer.step()
        after = [model.state_dict(), [o.state_dict() for o in optimizers]]
        assert same(before, after) == bool(wrong)
        assert all(weight.isfinite().all() for weight in model.parameters())


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 99))
def test_orthogonalised_is_the_iteration_step_by_step(rows, columns, seed):
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    a, b, c = 3.4445, -4.7750, 2.0315
    u, values, v = torch.linalg.svd((matrix / matrix.norm()).double(), full_matrices=False)
    for _ in range(4):
        values = a * values + b * values**3 + c * values**5
    expected = (u * values @ v).float()
    found = orthogonalised(torch.stack([matrix, 3 * matrix]))
    assert all(torch.allclose(each, expected, atol=1e-3) for each in found)


def test_orthogonalised_of_zero_is_zero():
    zero = torch.zeros(1, 3, 5)
    assert torch.equal(orthogonalised(zero), zero)


def test_muon_forgets_gradients():
    model = network()
    muon = KernelMuon(list(model.parameters()), lr=0.1)
    model(images(0)).mean().backward()
    muon.step()
    muon.zero_grad()
    assert all(weight.grad is None for weight in model.parameters())
    before = copy.deepcopy(model.state_dict())
    muon.step()
    assert all(torch.equal(before[key], new) for key, new in model.state_dict().items())


def test_the_state_of_muon_round_trips(tmp_path):
    first = network()
    muon = KernelMuon(list(first.parameters()), lr=0.05)
    steps(first, muon, range(3))
    torch.save(muon.state_dict(), tmp_path / "muon.pt")
    second = network()
    second.load_state_dict(first.state_dict())
    other = KernelMuon(list(second.parameters()), lr=0.7)
    other.load_state_dict(torch.load(tmp_path / "muon.pt", weights_only=True))
    assert other.param_groups[0]["lr"] == 0.05
    steps(first, muon, range(3, 6))
    steps(second, other, range(3, 6))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    third = network()
    third.load_state_dict(first.state_dict())
    fresh = KernelMuon(list(third.parameters()), lr=0.05)
    steps(first, muon, [6])
    steps(third, fresh, [6])
    assert not torch.equal(first[0].weight, third[0].weight)


CONFIGURATIONS = [
    {"optimizer": optimizer, "conditioning": conditioning, "backbone": backbone}
    for optimizer in ("adam", "adamw", "muon")
    for conditioning, backbone in (("class_embedding", "unet"), ("class_embedding", "u_vit"),
                                   ("object_tokens", "u_vit"))]


@pytest.mark.parametrize("changes", CONFIGURATIONS,
                         ids=lambda changes: "-".join(map(str, changes.values())))
def test_every_weight_is_in_exactly_one_optimiser_and_moves(tiny, changes):
    params = tiny.replace(**changes, image_size=16, layers_per_block=1)
    model = make_network(params, layout=True)
    optimizers = make_optimizers(model, params)
    held = [tensor.data_ptr() for o in optimizers
            for group in o.param_groups for tensor in group["params"]]
    assert sorted(held) == sorted(weight.data_ptr() for weight in model.parameters())
    assert len(set(held)) == len(held)
    before = copy.deepcopy(model.state_dict())
    generator = torch.Generator().manual_seed(0)
    labels = torch.eye(24) + torch.eye(24).roll(1, 0)
    for _ in range(4):  # gates that start at zero open one after the other
        output = model(torch.randn(24, 3, 16, 16, generator=generator),
                       torch.arange(24) % 20, labels, torch.full((24, 24, 2), 0.4))
        (output - 1).square().mean().backward()
        for o in optimizers:
            o.step()
            o.zero_grad()
    still = [name for name, weight in model.named_parameters()
             if torch.equal(weight, before[name])]
    # A key's bias adds the same to all cells, which the softmax ignores.
    assert all("to_k.bias" in name for name in still), still


@pytest.mark.parametrize("changes", CONFIGURATIONS[-3:],
                         ids=lambda changes: "-".join(map(str, changes.values())))
def test_muon_trains_the_inner_matrices_alone(tiny, changes):
    params = tiny.replace(**changes)
    model = make_network(params, layout=True)
    *muon, adamw = make_optimizers(model, params)
    names = {weight.data_ptr(): name for name, weight in model.named_parameters()}
    inner = {names[view.data_ptr()] for half in muon for view in half.param_groups[0]["params"]}
    assert all(half.param_groups[0]["lr"] == params.muon_learning_rate for half in muon)
    assert all(group["lr"] == params.learning_rate for group in adamw.param_groups)
    assert not any(part in name for name in inner
                   for part in ("bias", "conv_in", "conv_out", "embedding", "norm", "tokens",
                                "positions", "downsample", "upsample"))
    assert any("conv1" in name for name in inner)
    assert any("attention" in name for name in inner)


def lr_factor(step, total, p):
    return optimizers.lr_factor(step, total, p.lr_schedule, p.lr_warmup_steps, p.lr_decay_start)


rates = st.builds(Params, lr_schedule=st.sampled_from(["constant", "linear", "cosine"]),
                  lr_warmup_steps=st.integers(0, 50), lr_decay_start=st.floats(0, 1))


@given(rates, st.integers(1, 3000), st.data())
def test_the_learning_rate_stays_between_zero_and_its_peak(params, total, data):
    step = data.draw(st.integers(0, total))
    assert 0 <= lr_factor(step, total, params) <= 1
    assert lr_factor(0, total, params) > 0


@given(rates, st.integers(60, 3000))
def test_the_learning_rate_ends_at_zero_unless_constant(params, total):
    end = lr_factor(total, total, params)
    decays = params.lr_schedule == "cosine" or (
        params.lr_schedule == "linear" and params.lr_decay_start < 1)
    assert end == pytest.approx(0 if decays else 1, abs=1e-6)


@given(rates, st.integers(60, 3000))
def test_the_learning_rate_rises_in_the_warm_up_alone(params, total):
    factors = [lr_factor(step, total, params) for step in range(total + 1)]
    warm = params.lr_warmup_steps
    after = factors[warm:]
    assert all(a >= b - 1e-12 for a, b in zip(after, after[1:], strict=False))
    if params.lr_schedule == "constant" or (params.lr_schedule == "linear"
                                            and params.lr_decay_start > warm / total):
        rise = factors[: warm + 1]
        assert rise == sorted(rise) and rise[-1] == pytest.approx(1)


def test_schedules_at_some_steps():
    params = Params(lr_schedule="linear", lr_warmup_steps=9, lr_decay_start=0.5)
    assert [lr_factor(s, 1000, params) for s in (0, 4, 9, 500, 750, 1000)] == pytest.approx(
        [0.1, 0.5, 1, 1, 0.5, 0])
    cosine = params.replace(lr_schedule="cosine", lr_warmup_steps=0)
    assert [lr_factor(s, 1000, cosine) for s in (0, 500, 1000)] == pytest.approx([1, 0.5, 0])
