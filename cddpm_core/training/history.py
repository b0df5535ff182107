"""The history of a training: one line of JSON for every few steps, and one for each evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import unwritable, write_text

__all__ = ["append_history", "read_history", "write_history"]

NAME = "history.jsonl"


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of ``history.jsonl`` of a run's folder, oldest first."""
    path = folder / NAME
    if not path.exists():
        return []
    try:
        # What follows the last line break is empty, or incomplete after a sudden end.
        *lines, _ = path.read_text(encoding="utf-8").split("\n")
        found = [dict(json.loads(line)) for line in lines]
        if any(not isinstance(line["step"], int) for line in found):
            raise ValueError
        return found
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: malformed JSON lines, remove it and run again") from None


def write_history(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write a history anew."""
    write_text(folder / NAME, _text(lines))


def append_history(folder: Path, line: dict[str, Any]) -> None:
    """Add a line; a disk that is full leaves the history as it was and raises `UserError`."""
    path = folder / NAME
    size = path.stat().st_size
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(_text([line]))
    except OSError as error:
        os.truncate(path, size)
        raise unwritable(error, path) from None


def _text(lines: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)
