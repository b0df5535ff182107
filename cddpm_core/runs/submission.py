"""What a student submits: one zip of the report, the code and the images, and what it still lacks.

The course asks for ``DL_LAB6_<number>_<name>.zip`` with the report as PDF, the source code, and
the images of both files as ``images/test/0.png`` ... and ``images/new_test/0.png`` ..., without its
data.
"""

from __future__ import annotations

import os
import re
import shlex
import zipfile
from pathlib import Path

from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import atomic, project_root
from cddpm_core.data.labels import CONDITION_FILES, condition_file, read_conditions
from cddpm_core.runs.run import Run, command, word_files, word_folders

__all__ = ["check_submission", "write_submission"]

LAB = "DL_LAB6"
CODE = ("cddpm_core", "notebooks", "params", "tests", "pyproject.toml", "environment.yml",
        "Makefile", "README.md", "LICENSE")
LEFT_OUT = {"__pycache__", ".ipynb_checkpoints", ".pytest_cache", ".hypothesis",
            "pretrained"}  # cddpm_core/pretrained: weights that are not the student's
READABLE = 0o100644 << 16  # a file that everybody may read, as the zip has it
MOMENTS = 8  # of the denoising process, at least
ASKED = {"red sphere", "cyan cylinder", "cyan cube"}  # the condition whose process is shown


def write_submission(run: Run) -> Path:
    """Write the zip to the folder of outputs and return its path.

    It holds ``report.pdf``, the code (without the weights that come with it), the images in the
    order of the condition files, ``params.yaml`` and the author's words; all below a folder of
    the zip's name. Without an author or a number it has the name of the run. The same files give
    the same zip. Raises `UserError` that names a missing file and the command that makes it.
    """
    name, contents = submission_name(run), _contents(run)
    path = run.outputs / f"{name}.zip"
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        for inside, source in contents.items():
            about = zipfile.ZipInfo(f"{name}/{inside}")  # without a date, to be reproducible
            about.compress_type, about.external_attr = zipfile.ZIP_DEFLATED, READABLE
            file.writestr(about, source.read_bytes())
    return path


def submission_name(run: Run) -> str:
    """Return the name of the zip: as the course asks, or that of the run."""
    p = run.params()
    author = re.sub(r"\s+", "_", re.sub(r'[/\\:*?"<>|.\x00-\x1f]', "", p.author).strip())
    return f"{LAB}_{p.student_id}_{author}" if p.student_id and author else run.name


def check_submission(run: Run) -> list[str]:
    """Return a sentence for each thing that the course asks for and the run does not have."""
    p, metrics = run.params(), run.read("metrics.json")
    found = [f"{key}: not given; make report {key.upper()}=... puts it into the report and the "
             "name of the zip" for key in ("author", "student_id") if not getattr(p, key)]
    wanted = [run / name for name in _wanted()]
    if missing := [path for path in wanted if not path.is_file()]:
        more = f" ({len(missing) - 1} more)" if len(missing) > 1 else ""
        found.append(f"{missing[0]}: does not exist yet{more}; '{command(run, 'report')}' makes "
                     "what is missing")
    found += [f"{path}: expected a PNG picture of 64 × 64 pixels" for path in wanted
              if path.suffix == ".png" and path.is_file() and not _is_image(path)]
    if not metrics.get("train", {}).get("finished", True):
        found.append("the training is not finished")
    if metrics.get("data", {}).get("kind") != "real":
        found.append("the model was not trained on the course's images: "
                     "make report DATA=/path/to/data")
    if metrics.get("evaluator", {}).get("kind") != "official":
        found.append("the scores are not those of the official evaluator: "
                     "make report EVALUATOR=/path/to/checkpoint.pth")
    shown = [about for about in metrics.get("denoise", {}).values()
             if set(about["labels"]) == ASKED]
    if not shown or len(shown[0]["timesteps"]) < MOMENTS:
        found.append(f"the denoising process of {', '.join(sorted(ASKED))} is not shown at "
                     f"{MOMENTS} moments: '{command(run, 'denoise')}'")
    if not any((folder / "discussion.md").is_file() for folder in word_folders(run, p)):
        found.append("discussion.md: the report has no discussion of your own; "
                     "'python -m cddpm_core report --init --params "
                     f"{shlex.quote(os.path.relpath(run / 'params.yaml'))}' writes a file to "
                     "begin with")
    return found


def _is_image(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return (image.format, image.size) == ("PNG", (64, 64))
    except OSError:
        return False


def _wanted() -> list[str]:
    return ["report.pdf", *(f"images/{name}/{i}.png" for name in CONDITION_FILES
                            for i in range(len(read_conditions(condition_file(name)))))]


def _contents(run: Run) -> dict[str, Path]:
    """What the zip holds, and where that is."""
    found = {name: run / name for name in (*_wanted(), "params.yaml")}
    for path in found.values():
        if not path.is_file():
            raise UserError(f"{path}: does not exist yet, first run '{command(run, 'report')}'")
    found |= word_files(run, run.params())
    root = project_root()
    for name in CODE:
        for path in [root / name, *sorted((root / name).rglob("*"))]:
            if path.is_file() and LEFT_OUT.isdisjoint(path.relative_to(root).parts):
                found[f"code/{path.relative_to(root).as_posix()}"] = path
    return found
