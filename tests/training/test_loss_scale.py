import pytest
import torch

from cddpm_core.training.loss_scale import LossScale


def test_halves_at_a_gradient_that_is_not_finite_and_doubles_after_many_that_are():
    scale, other = LossScale("cpu"), LossScale("cpu")
    good, bad = torch.tensor(1.0), torch.tensor(0.0)
    scale.update(bad)
    scale.update(bad)
    assert scale.scale == 2**14
    for _ in range(LossScale.GROWS_AFTER - 1):
        scale.update(good)
    other.load_state_dict(scale.state_dict())
    assert scale.scale == 2**14
    scale.update(good)
    assert scale.scale == 2**15
    other.update(bad)
    for _ in range(LossScale.GROWS_AFTER - 1):
        other.update(good)
    assert other.scale == 2**13


def test_gradients_are_divided_by_it():
    scale, gradients = LossScale("cpu"), [torch.tensor([65536.0]), torch.tensor([[32768.0, 0]])]
    scale.unscale(gradients)
    assert [g.tolist() for g in gradients] == [[1.0], [[0.5, 0.0]]]
    assert scale.scale == pytest.approx(2**16)
