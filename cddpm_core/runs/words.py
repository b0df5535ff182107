"""Where the author's own words for the report are."""

from __future__ import annotations

from pathlib import Path

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params
from cddpm_core.runs.run import Run

__all__ = ["CHAPTERS", "word_files", "word_folders"]

CHAPTERS = ("introduction", "discussion", "conclusion")  # each a Markdown file


def word_folders(run: Run, params: Params) -> list[Path]:
    """Return the folders to look in: the run's ``report``, then that of the parameter ``words``."""
    given = params.words
    if given and not Path(given).is_dir():
        raise UserError(f"words: {given} is not a folder, expected one with "
                        f"{', '.join(f'{name}.md' for name in CHAPTERS)}")
    return [run / "report", *([Path(given)] if given else [])]


def word_files(run: Run, params: Params) -> list[Path]:
    """Return all files in these folders: texts, pictures, bibliographies."""
    return [path for folder in word_folders(run, params) for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")]
