import pytest

from cddpm_core.config.schema import Params
from cddpm_core.runs.estimate import experiment_seconds, experiments_line

METRICS = {"train": {"seconds": 600.0},
           "sample": {"images_per_second": 16.0, "num_inference_steps": 10, "guidance_scale": 3.0}}
SWEEP = {"sweep_samplers": ["ddim"], "sweep_steps": [10, 20], "sweep_guidance": [1.0, 2.0]}


def test_an_experiment_takes_as_long_as_its_parts_did():
    p = Params(epochs=4, experiment_epochs=1, num_inference_steps=10, **SWEEP)
    assert experiment_seconds("timesteps", p, METRICS) == pytest.approx(600 / 4 + 2 * 64 / 16)
    assert experiment_seconds("timesteps", p.replace(experiment_epochs=0), METRICS) == 608
    # 64 images at 16 a second, a step with guidance being two calls: (10 + 20) * (1 + 2) / 20.
    assert experiment_seconds("sampling", p, METRICS) == pytest.approx(4.5 * 4)


def test_the_line_says_how_much_longer_a_report_takes():
    p = Params(epochs=4, **SWEEP)
    both = experiments_line(["timesteps", "sampling"], p, METRICS)
    assert both.startswith("experiments: timesteps and sampling, about 3 minutes more")
    assert "on 2 CPU cores" in experiments_line(["sampling"], p, {})
