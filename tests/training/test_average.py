import pytest
import torch

from cddpm_core.training.average import moving_average


@pytest.mark.parametrize("warmup", [True, False])
def test_is_the_average_of_the_formula(warmup):
    model = torch.nn.Linear(2, 1)
    average, expected = moving_average(model, 0.9, warmup), None
    for n in range(200):
        with torch.no_grad():
            model.weight.fill_(float(n))
        average.update_parameters(model)
        decay = min(0.9, (1 + n) / (10 + n)) if warmup else 0.9
        expected = n if expected is None else decay * expected + (1 - decay) * n
    assert average.module.weight[0, 0].item() == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(199 - 9, abs=0.1)  # it lags by decay / (1 - decay) steps


def test_buffers_are_averaged_and_counters_stay_whole():
    model = torch.nn.BatchNorm1d(3)
    average = moving_average(model, 0.99)
    for _ in range(5):
        model(torch.randn(4, 3))
        average.update_parameters(model)
    assert average.module.num_batches_tracked.dtype == torch.long
    assert torch.isfinite(average.module.running_mean).all()
