"""What a student submits: one zip of the report, the code and the images."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import atomic, project_root
from cddpm_core.data.labels import CONDITION_FILES, condition_file, read_conditions
from cddpm_core.runs.run import Run, command

__all__ = ["write_submission"]

CODE = ("cddpm_core", "notebooks", "params", "tests", "pyproject.toml", "environment.yml",
        "Makefile", "README.md", "LICENSE")
LEFT_OUT = {"__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".hypothesis",
            "pretrained"}  # cddpm_core/pretrained: weights that are not the student's


def write_submission(run: Run) -> Path:
    """Write ``outputs/<run>.zip`` and return its path.

    It holds ``report.pdf``, the code (without the weights that come with it), and
    ``images/test/0.png`` ... and ``images/new_test/0.png`` ..., numbered in the order of the
    condition files; all below a folder of the student's number, or of the run's name. The same
    files give the same zip.
    Raises `UserError` that names a missing file and the command that makes it.
    """
    folder = run.params().student_id or run.name
    path = run.outputs / f"{run.name}.zip"
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        for name, source in (*_results(run), *_code()):
            about = zipfile.ZipInfo(f"{folder}/{name}")  # without a date, to be reproducible
            about.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(about, source.read_bytes())
    return path


def _results(run: Run) -> Iterator[tuple[str, Path]]:
    wanted = ["report.pdf", *(f"images/{name}/{i}.png" for name in CONDITION_FILES
                              for i in range(len(read_conditions(condition_file(name)))))]
    for name in wanted:
        if not (run / name).is_file():
            raise UserError(f"{run / name}: does not exist yet, first run "
                            f"'{command(run, 'report')}'")
        yield name, run / name


def _code() -> Iterator[tuple[str, Path]]:
    root = project_root()
    for name in CODE:
        for path in [root / name, *sorted((root / name).rglob("*"))]:
            if path.is_file() and LEFT_OUT.isdisjoint(path.relative_to(root).parts):
                yield f"code/{path.relative_to(root).as_posix()}", path
