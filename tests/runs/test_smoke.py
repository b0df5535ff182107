"""A finished run as the pipeline left it."""

import shutil

import pytest

from cddpm_core.runs import stages
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.runs.stages import STAGES, run_stages


@pytest.fixture
def copied(smoke, tmp_path, monkeypatch):
    """A copy of the run, and the names of its stages; none may be executed."""
    shutil.copytree(smoke.folder, tmp_path / smoke.name)
    monkeypatch.setenv(OUTPUTS, str(tmp_path))
    run = Run(smoke.name)
    return run, [name for name in STAGES if name in run.stages()]


def test_finished_stages_are_not_computed_again(copied, monkeypatch, capsys):
    run, names = copied
    monkeypatch.setattr(stages, "_execute", lambda notebook, *_: pytest.fail(str(notebook)))
    run_stages(names, run.params())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == names
    assert all("finished before, in" in line for line in lines)


def test_each_stage_records_what_it_was_made_from(copied):
    run, names = copied
    assert {"data", "train", "evaluate"} <= set(names)
    for name, about in run.stages().items():
        assert about["state"] == "done" and about["why"], name
        assert set(about["inputs"]) == {"params", "notebook", "modules", "files", "needs"}
        assert "cddpm_core/runs/session.py" in about["inputs"]["modules"]


def test_a_forced_run_keeps_the_earlier_training(copied, monkeypatch, capsys):
    run, _ = copied
    ran = []
    monkeypatch.setattr(stages, "_execute", lambda notebook, *_: ran.append(notebook.stem))
    run_stages(["data", "train"], run.params(), force=True)
    aside, = (run / "previous").iterdir()
    assert ran == ["data", "train"] and (aside / "checkpoint.pt").exists()
    assert f"train: runs again, as asked; the earlier training is kept in {aside}" in (
        capsys.readouterr().out)
