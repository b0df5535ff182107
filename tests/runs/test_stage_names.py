import pytest

from cddpm_core.config.errors import UserError
from cddpm_core.runs.run import Run
from cddpm_core.runs.stages import EXPERIMENTS, STAGES, check_runs, with_needs


def test_needs_come_in_the_order_of_the_pipeline():
    assert with_needs("denoise") == ["data", "train", "denoise"]
    assert with_needs("report") == list(STAGES)
    assert with_needs("report", []) == [name for name in STAGES if name not in EXPERIMENTS]
    assert with_needs("sampling", []) == ["data", "train", "evaluate", "sampling"]
    with pytest.raises(UserError, match="stage: found 'evalute' .did you mean 'evaluate'"):
        with_needs("evalute")


def test_runs_to_compare_are_evaluated_ones(run):
    other = Run("other", run.outputs)
    check_runs(["tiny"], run)
    with pytest.raises(UserError, match="runs: found 'other', expected a run with metrics.json"):
        check_runs(["other"], run)
    other.update_metrics({"test": {}, "new_test": {}})
    with pytest.raises(UserError, match="'othr' .did you mean 'other'"):
        check_runs(["othr"], run)
    with pytest.raises(UserError, match="'other' has no score on test yet"):
        check_runs(["other"], run)
    (other / "scores.json").write_text('{"test": {}, "new_test": {}}')
    check_runs(["other", "tiny"], run)
