import zipfile

import pytest
from PIL import Image

from cddpm_core.__main__ import main
from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.runs.submission import check_submission, write_submission


@pytest.fixture
def finished(tmp_path) -> Run:
    """A run with a report and images that differ."""
    run = Run("mine", outputs=tmp_path)
    run.write_params(Params(run="mine", student_id="312554-027", author="王小明 O'Neill"))
    for name in ("test", "new_test"):
        (run / f"images/{name}").mkdir(parents=True)
        for i in range(32):
            Image.new("RGB", (64, 64), (i, len(name), 0)).save(run / f"images/{name}/{i}.png")
    (run / "report.pdf").write_bytes(b"%PDF a report")
    (run / "report").mkdir()
    (run / "report/discussion.md").write_text("Mine.")
    for name in "ab":
        (run / "report" / name).mkdir()
        Image.new("RGB", (8, 8)).save(run / f"report/{name}/figure.png")
    return run


def test_holds_report_code_and_images_in_order(finished):
    path = write_submission(finished)
    folder = "DL_LAB6_312554-027_王小明_O'Neill"
    assert path == finished.outputs / f"{folder}.zip"
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        names = file.namelist()
        assert all(name.startswith(f"{folder}/") for name in names)
        inside = [name.removeprefix(f"{folder}/") for name in names]
        assert {"params.yaml", "report/discussion.md", "report/a/figure.png",
                "report/b/figure.png"} <= set(inside)
        assert {about.external_attr >> 16 for about in file.infolist()} == {0o100644}
        assert inside[0] == "report.pdf"
        assert inside[1:65] == [f"images/{name}/{i}.png" for name in ("test", "new_test")
                                for i in range(32)]
        assert {"code/cddpm_core/model/network.py", "code/notebooks/train.ipynb", "code/Makefile",
                "code/cddpm_core/data/lab/test.json"} <= set(inside)
        assert not any("code/outputs" in name or ".pyc" in name or "pretrained/" in name
                       for name in inside)
        with file.open(f"{folder}/images/new_test/7.png") as image:
            assert Image.open(image).getpixel((3, 3)) == (7, 8, 0)


def test_the_same_files_give_the_same_zip(finished):
    first = write_submission(finished).read_bytes()
    assert write_submission(finished).read_bytes() == first


@pytest.mark.parametrize("gone", ["report.pdf", "images/test/31.png", "images/new_test/0.png"])
def test_what_is_missing_is_named_and_nothing_is_written(finished, gone):
    (finished / gone).unlink()
    with pytest.raises(UserError, match=f"{gone}: does not exist yet, first run 'python -m"):
        write_submission(finished)
    assert not list(finished.outputs.glob("*.zip"))


def test_without_author_or_number_the_zip_has_the_name_of_the_run(finished):
    finished.write_params(Params(run="mine", author="A"))
    assert write_submission(finished).name == "mine.zip"


def test_what_the_course_still_misses_is_said(finished, capsys, monkeypatch):
    complete = {"data": {"kind": "real"}, "evaluator": {"kind": "official"},
                "train": {"finished": True}, "denoise": {"test": {
                    "labels": ["cyan cube", "red sphere", "cyan cylinder"],
                    "timesteps": list(range(10))}}}
    finished.update_metrics(complete)
    assert check_submission(finished) == []
    monkeypatch.setenv(OUTPUTS, str(finished.outputs))
    assert main(["submission", "--run", "mine", "--check"]) == 0
    assert capsys.readouterr().out == "nothing that the course asks for is missing\n"
    finished.write_params(Params(run="mine"))
    finished.update_metrics({
        "data": {"kind": "rendered"}, "evaluator": {"kind": "stand-in"},
        "train": {"finished": False},
        "denoise": {"test": {**complete["denoise"]["test"], "timesteps": [1, 2]}}})
    (finished / "report/discussion.md").unlink()
    (finished / "report.pdf").unlink()
    (finished / "images/test/1.png").unlink()
    (finished / "images/test/3.png").write_bytes(b"")
    Image.new("RGB", (32, 32)).save(finished / "images/new_test/0.png")
    said = "\n".join(check_submission(finished))
    for part in ("author: not given", "student_id: not given",
                 "report.pdf: does not exist yet (1 more)",
                 "3.png: expected a PNG picture", "new_test/0.png: expected", "not finished",
                 "course's images", "official evaluator", "at 8 moments", "discussion.md: "):
        assert part in said
    assert len(said.splitlines()) == 10 and not list(finished.outputs.glob("*.zip"))


@pytest.mark.parametrize("name", ["../other", "a/b", "-x", "a b", "."])
def test_a_number_that_would_leave_the_zip_is_refused(name):
    with pytest.raises(UserError, match="student_id: expected letters, digits"):
        Params(student_id=name)
