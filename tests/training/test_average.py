import pytest
import torch
from conftest import same

from cddpm_core.training.average import MovingAverage


def test_is_the_average_of_the_formula():
    model = torch.nn.Linear(2, 1)
    average, expected = MovingAverage(model, 0.9), None
    for n in range(200):
        with torch.no_grad():
            model.weight.fill_(float(n))
        average.update(model)
        decay = min(0.9, (1 + n) / (10 + n))
        expected = n if expected is None else decay * expected + (1 - decay) * n
    assert average.model.weight[0, 0].item() == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(199 - 9, abs=0.1)  # it lags by decay / (1 - decay) steps


def test_a_step_that_is_not_valid_is_as_none():
    model = torch.nn.Linear(2, 1)
    one, other = MovingAverage(model, 0.9), MovingAverage(model, 0.9)
    for valid in (1, 0, 1, 0, 0, 1):
        with torch.no_grad():
            model.weight.add_(1)
        one.update(model, torch.tensor(float(valid)))
        if valid:
            other.update(model)
        assert same(one.state_dict(), other.state_dict())
