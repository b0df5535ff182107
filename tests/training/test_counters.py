import torch
from conftest import same
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.training.counters import Counters, Seen


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
