import pytest
from conftest import same

from cddpm_core.config.errors import UserError
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.runs.session import Session, open_session
from cddpm_core.sampling.pipeline import make_pipeline, save_pipeline


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def test_a_session_is_on_the_run_that_is_named(outputs, capsys):
    session = open_session({"run": "mine", "epochs": 2})
    assert capsys.readouterr().out == "run 'mine'\n"
    assert session.run.name == "mine" and session.params.epochs == 2
    assert session.run.params() == session.params and not (outputs / "quick").exists()


def test_a_mistyped_parameter_is_one_sentence(outputs):
    with pytest.raises(UserError, match="unknown parameter 'epochz'"):
        open_session({"run": "mine", "epochz": 2})


def test_everything_is_loaded_once_when_it_is_first_used(outputs, tiny, rendered):
    session = Session(Run("mine"), tiny.replace(data=str(rendered)))
    assert set(session.__dict__) == {"run", "params"}
    assert session.source.kind == "given" and session.device.type == "cpu"
    assert len(session.dataset) == 36 and session.dataset is session.dataset
    assert session.evaluator is session.evaluator and session.evaluator.known


def test_a_model_is_there_only_after_training(outputs, tiny, dataset, capsys):
    session = Session(Run("mine"), tiny)
    for name in ("trained", "pipeline"):
        with pytest.raises(UserError, match="no 'train' yet, first run 'python -m cddpm_core"):
            getattr(session, name)
    made = make_pipeline(tiny, dataset)
    save_pipeline(made, session.run / "model")
    session.run.update_metrics({"train": {"finished": False}})
    assert same(dict(session.pipeline.unet.state_dict()), dict(made.unet.state_dict()))
    assert capsys.readouterr().out == "The training of this model is NOT finished.\n"
    session.run.update_metrics({"train": {"finished": True}})
    assert Session(session.run, tiny).trained == {"finished": True}
    assert capsys.readouterr().out == ""
