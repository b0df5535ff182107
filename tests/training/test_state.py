"""What a training keeps on its device: the moving average, the scale of float16, counts."""

import pytest
import torch
from conftest import same
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.training.state import Counters, LossScale, MovingAverage, Seen


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


@given(st.lists(st.integers(1, 9) | st.none(), max_size=30), st.integers(0, 30))
def test_counts_are_those_of_the_steps(losses, cleared):
    """None is a step that is skipped."""
    counters = Counters()
    for number, loss in enumerate(losses):
        if number == cleared:
            counters.clear()
        counters.count(torch.tensor(float("nan") if loss is None else float(loss)),
                       torch.tensor(float(loss is not None)))
    since = cleared if cleared < len(losses) else 0
    rows = "".join("s" if loss is None else " " for loss in losses)
    taken = [loss for loss in losses[since:] if loss is not None]
    longest = max((len(rows[:n]) - len(rows[:n].rstrip("s"))
                   for n in range(since + 1, len(rows) + 1)), default=0)
    assert counters.step == len(losses)
    assert counters.read() == Seen(
        rows.count("s"), len(rows) - len(rows.rstrip("s")), longest,
        sum(taken) / len(taken) if taken else None)


def test_a_resumed_training_has_no_skipped_step_behind_it():
    one, other = Counters(), Counters()
    for valid in (1.0, 0.0, 0.0):
        one.count(torch.tensor(0.5), torch.tensor(valid))
    one.seconds = 3.0
    other.load_state_dict(one.state_dict())
    assert other.read() == Seen(2, 0, 0, 0.5) and (other.step, other.seconds) == (3, 3.0)
    one.load_state_dict(other.state_dict())
    assert same(one.state_dict(), other.state_dict())
