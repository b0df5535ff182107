"""The pipeline on a project of empty notebooks: which stages run, and why."""

import functools
import json
import re

import pytest

from cddpm_core.config.errors import UserError
from cddpm_core.runs import archive, inputs, stages
from cddpm_core.runs.lock import locked
from cddpm_core.runs.modules import reached_modules
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.runs.stages import STAGES, run_stages, with_needs
from cddpm_core.training.checkpoint import write_checkpoint

MODULES = {"data/labels.py": "", "model/uvit.py": "", "sampling/guidance.py": "",
           "report/findings.py": "", "report/charts.py": "",
           "training/loop.py": "import cddpm_core.model.uvit"}
IMPORTS = {"data": ["data.labels", "report.charts"], "train": ["training.loop",
           "sampling.guidance"], "evaluate": ["sampling.guidance"], "report": ["report.findings"]}
DECLARED = {"train": ["learning_rate", "guidance_scale", "max_steps"],
            "evaluate": ["guidance_scale", "device"], "denoise": ["denoise_steps"]}
PLAIN = with_needs("report", [])


class Project:
    """Notebooks that import modules of a small package, and what running them would leave."""

    def __init__(self, root, params):
        self.root, self.params, self.run = root, params, Run("tiny")
        self.ran, self.fails, self.score = [], set(), 0.5
        (root / "params").mkdir()
        for name, text in MODULES.items():
            self.edit(f"cddpm_core/{name}", text)
        for name in STAGES:
            self.notebook(name)

    def edit(self, name, text):
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def notebook(self, name, text="# Title"):
        cells = [("markdown", [], text), ("code", ["parameters"], "\n".join(
            f"{key} = 0" for key in DECLARED.get(name, []))), ("code", [], "\n".join(
                f"import cddpm_core.{module}" for module in IMPORTS.get(name, [])))]
        self.edit(f"notebooks/{name}.ipynb", json.dumps({"cells": [
            {"cell_type": kind, "metadata": {"tags": tags}, "source": source}
            for kind, tags, source in cells]}))

    def execute(self, notebook, output, params):
        name = notebook.stem
        self.ran.append(name)
        if name in self.fails:
            raise UserError(f"{name} is broken")
        output.write_text("{}")
        if name == "train":
            archive.record_training(self.run, params)
            write_checkpoint(self.run / "checkpoint.pt", params,
                             {"images": 8, "labels": "", "pixels": ""}, 1, {})
            (self.run / "model").mkdir(exist_ok=True)
            (self.run / "model/weights").write_text(str(params.learning_rate))
        if name == "evaluate":
            (self.run / "scores.json").write_text(json.dumps({"test": self.score}))
        if name == "sampling":
            self.run.update_metrics({"sampling": {}})

    def make(self, names=PLAIN, force=False, **changes):
        """Run stages; return those that ran."""
        self.ran.clear()
        run_stages(names, self.params.replace(**changes), force=force)
        return list(self.ran)


@pytest.fixture
def project(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path / "outputs"))
    made = Project(tmp_path, tiny.replace(run="tiny", sweep_steps=[5]))
    monkeypatch.setattr(stages, "project_root", lambda: tmp_path)
    monkeypatch.setattr(stages, "_execute", made.execute)
    reached = functools.partial(reached_modules, package=tmp_path / "cddpm_core")
    monkeypatch.setattr(inputs, "reached_modules", reached)
    monkeypatch.setattr(archive, "reached_modules", reached)
    return made


def said(capsys):
    """The lines that were printed, by stage; a stage prints one."""
    lines = capsys.readouterr().out.splitlines()
    found = dict(line.split(": ", 1) for line in lines)
    assert len(found) == len(lines)
    return found


def test_each_stage_runs_once_and_says_so_in_one_line(project, capsys):
    assert project.make() == PLAIN
    assert said(capsys) == dict.fromkeys(PLAIN, "runs, not run before")
    assert project.make() == [] and list(lines := said(capsys)) == PLAIN
    assert all(re.fullmatch(r"finished before, in \d+ s", line) for line in lines.values())


def test_what_a_stage_was_made_from_stands_in_its_status(project):
    project.make()
    about = project.run.stages()["train"]
    assert about["state"] == "done" and about["why"] == "not run before"
    assert about["inputs"]["params"] == {"learning_rate": project.params.learning_rate,
                                         "guidance_scale": project.params.guidance_scale,
                                         "max_steps": 0}
    assert set(about["inputs"]["modules"]) == {f"cddpm_core/{name}" for name in (
        "training/loop.py", "model/uvit.py", "sampling/guidance.py")}


@pytest.mark.parametrize(("name", "text", "ran", "line"), [
    ("cddpm_core/report/findings.py", "x = 'A sentence.'", {"report"},
     "report: runs again, cddpm_core/report/findings.py changed"),
    ("cddpm_core/report/charts.py", "x = 1", {"data", "report"},
     "data: runs again, cddpm_core/report/charts.py changed"),
    ("cddpm_core/sampling/guidance.py", "x = 1", {"train", "evaluate", "report"},
     "evaluate: runs again, cddpm_core/sampling/guidance.py changed"),
    ("cddpm_core/model/uvit.py", "x = 1", {"train", "report"},
     "train: the trained weights are kept although cddpm_core/model/uvit.py changed since; "
     "FORCE=1 trains anew"),
    ("cddpm_core/model/uvit.py", "# a comment", set(), "train: finished before, in 0 s"),
    ("cddpm_core/evaluation/other.py", "x = 1", set(), "evaluate: finished before, in 0 s"),
])
def test_changed_code_runs_again_only_what_it_can_reach(project, capsys, name, text, ran, line):
    project.make()
    capsys.readouterr()
    project.edit(name, text)
    assert set(project.make()) == ran
    assert line in [": ".join(item) for item in said(capsys).items()]
    assert (project.run / "checkpoint.pt").exists() and not (project.run / "previous").exists()
    assert project.make() == []


def test_a_changed_notebook_or_parameter_is_named(project, capsys):
    project.make()
    project.notebook("denoise", "# Another title")
    capsys.readouterr()
    assert project.make(guidance_scale=5.0) == ["train", "evaluate", "denoise", "report"]
    lines = said(capsys)
    assert lines["train"] == lines["evaluate"] == (
        f"runs again, guidance_scale changed from {project.params.guidance_scale} to 5.0")
    assert lines["denoise"] == "runs again, its notebook changed"
    assert lines["report"].endswith("the results of train, evaluate and denoise changed")
    assert project.make(guidance_scale=5.0, device="auto") == ["report"]  # which lists it


def test_a_stage_runs_again_if_one_it_reads_has_another_result(project, capsys):
    project.make()
    project.notebook("evaluate", "# Again")
    assert project.make() == ["evaluate", "report"]
    project.notebook("evaluate", "# And again")
    project.score = 0.75
    capsys.readouterr()
    assert project.make() == ["evaluate", "analyse", "report"]
    assert said(capsys)["analyse"] == "runs again, the results of evaluate changed"


def test_another_training_is_made_beside_the_earlier_one(project, capsys):
    project.make()
    capsys.readouterr()
    assert project.make(learning_rate=0.5) == [
        "train", "evaluate", "denoise", "analyse", "report"]
    aside, = (project.run / "previous").iterdir()
    assert said(capsys)["train"] == (
        "runs again, learning_rate changed from 0.0012 to 0.5; the earlier training is kept in "
        f"{aside}")
    assert (aside / "model/weights").read_text() == "0.0012"
    assert (project.run / "model/weights").read_text() == "0.5"


def test_force_trains_anew_and_repeats_every_stage(project, capsys):
    project.make()
    project.edit("cddpm_core/model/uvit.py", "x = 1")
    project.make()
    capsys.readouterr()
    assert project.make(force=True) == PLAIN
    aside, = (project.run / "previous").iterdir()
    lines = said(capsys)
    assert lines["train"] == (
        f"runs again, as asked; the earlier training is kept in {aside}")
    assert lines["data"] == "runs again, as asked"
    assert project.make(force=True, names=["data", "train", "denoise"]) == [
        "data", "train", "denoise"]
    assert len(list((project.run / "previous").iterdir())) == 2
    project.edit("cddpm_core/model/uvit.py", "x = 2")
    capsys.readouterr()
    project.make()
    assert "although cddpm_core/model/uvit.py changed" in said(capsys)["train"]


def test_a_failed_stage_runs_again_and_what_came_before_it_does_not(project, capsys):
    project.fails = {"evaluate"}
    with pytest.raises(UserError, match="evaluate is broken"):
        project.make()
    assert project.ran == ["data", "train", "evaluate"]
    assert project.run.stages()["evaluate"]["error"] == "evaluate is broken"
    project.fails = set()
    capsys.readouterr()
    assert project.make() == ["evaluate", "denoise", "analyse", "report"]
    assert said(capsys)["evaluate"] == "runs again, it failed before"


def test_stages_that_were_killed_run_by_hand_or_lost_run_again(project, capsys):
    project.make()
    about = project.run.stages()
    project.run.set_stage("data", **{**about["data"], "state": "running"})
    project.run.set_stage("denoise", **{**about["denoise"], "state": "by hand"})
    (project.run / "analyse.ipynb").unlink()
    capsys.readouterr()
    assert project.make() == ["data", "denoise", "analyse", "report"]
    lines = said(capsys)
    assert lines["data"] == "runs again, it was interrupted"
    assert lines["denoise"] == "runs again, its notebook was run by hand since"
    assert lines["analyse"].endswith("analyse.ipynb is missing")


def test_an_experiment_stays_in_the_report_until_it_is_of_another_result(project, capsys):
    project.make(with_needs("report", ["sampling"]))
    project.edit("cddpm_core/report/charts.py", "x = 1")
    assert project.make() == ["data", "report"]  # the experiment need not be asked for again
    assert "sampling" in project.run.read("metrics.json")
    project.score = 0.75
    capsys.readouterr()
    project.make(guidance_scale=5.0)
    assert said(capsys)["sampling"] == ("left out of the report: it is not finished or was made "
                                        "with another training or sampler")
    assert "sampling" not in project.run.read("metrics.json")
    assert "sampling" not in project.run.stages()


def test_a_run_in_use_is_left_alone(project):
    project.make()
    with pytest.raises(UserError, match="sampling experiment|sweep_samplers"):
        project.make(["sampling"], sweep_samplers=[])
    with locked(project.run.folder):  # this process holds it already
        assert project.make() == []


@pytest.mark.parametrize(("changes", "words"), [
    ({"data": "nowhere"}, "data: nowhere is not a folder"),
    ({"reference": "nowhere"}, "reference: nowhere is not a folder"),
    ({"evaluator": "nowhere.pth"}, "nowhere.pth"),
    ({"runs": ["nobody"]}, "runs: found 'nobody'"),
    ({"experiments": ["sampling"], "sweep_steps": [7], "num_train_timesteps": 34},
     "unipc cannot divide 34 timesteps into 7 steps"),
    ({"experiments": ["timesteps"], "experiment_timesteps": 20}, "expected another number"),
    ({"experiments": ["timesteps"], "sampler": "unipc", "num_inference_steps": 7,
      "experiment_timesteps": 34}, "unipc cannot divide 34 timesteps into 7 steps"),
])
def test_what_would_fail_late_is_named_first(project, changes, words):
    with pytest.raises(UserError, match=words):
        project.make([*PLAIN, *changes.get("experiments", [])], **changes)
    assert not project.ran and not project.run.folder.exists()
