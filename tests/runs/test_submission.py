import zipfile

import pytest
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params
from cddpm_core.runs.run import Run
from cddpm_core.runs.submission import write_submission


@pytest.fixture
def finished(tmp_path) -> Run:
    """A run with a report and images that differ."""
    run = Run("mine", outputs=tmp_path)
    run.write_params(Params(run="mine", student_id="312554-027"))
    for name in ("test", "new_test"):
        (run / f"images/{name}").mkdir(parents=True)
        for i in range(32):
            Image.new("RGB", (64, 64), (i, len(name), 0)).save(run / f"images/{name}/{i}.png")
    (run / "report.pdf").write_bytes(b"%PDF a report")
    return run


def test_holds_report_code_and_images_in_order(finished):
    path = write_submission(finished)
    assert path == finished.outputs / "mine.zip"
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        names = file.namelist()
        assert all(name.startswith("312554-027/") for name in names)
        inside = [name.removeprefix("312554-027/") for name in names]
        assert inside[0] == "report.pdf"
        assert inside[1:65] == [f"images/{name}/{i}.png" for name in ("test", "new_test")
                                for i in range(32)]
        assert {"code/cddpm_core/model/network.py", "code/notebooks/train.ipynb", "code/Makefile",
                "code/cddpm_core/data/lab/test.json"} <= set(inside)
        assert not any("code/outputs" in name or ".pyc" in name or "pretrained/" in name
                       for name in inside)
        with file.open("312554-027/images/new_test/7.png") as image:
            assert Image.open(image).getpixel((3, 3)) == (7, 8, 0)


def test_the_same_files_give_the_same_zip(finished):
    first = write_submission(finished).read_bytes()
    assert write_submission(finished).read_bytes() == first


@pytest.mark.parametrize("gone", ["report.pdf", "images/test/31.png", "images/new_test/0.png"])
def test_what_is_missing_is_named_and_nothing_is_written(finished, gone):
    (finished / gone).unlink()
    with pytest.raises(UserError, match=f"{gone}: does not exist yet, first run 'python -m"):
        write_submission(finished)
    assert not (finished.outputs / "mine.zip").exists()


@pytest.mark.parametrize("name", ["../other", "a/b", "-x", "a b", "."])
def test_a_number_that_would_leave_the_zip_is_refused(name):
    with pytest.raises(UserError, match="student_id: expected letters, digits"):
        Params(student_id=name)
