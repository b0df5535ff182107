"""Markdown: how numbers, names and tables are written.

JupyterLab shows it as it is. The exports read two conventions in it: an italic
paragraph after a picture is its caption, and a paragraph ``Table: ...`` after a
table is the caption of the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["code", "count", "decimals", "duration", "escape", "listed", "prose", "table",
           "with_interval"]


def prose(*sentences: str) -> str:
    """Return the sentences that are not empty as one paragraph."""
    return " ".join(filter(None, sentences)) + "\n"


def decimals(value: float) -> str:
    """Return an accuracy with three decimals."""
    return f"{value:.3f}"


def with_interval(mean: float, half: float | None, signed: bool = False) -> str:
    """Return a mean of accuracies, or of their differences, with its interval if it has one."""
    shown = f"{mean:+.3f}".replace("-", "−") if signed else decimals(mean)
    return shown + (f" ± {decimals(half)}" if half is not None else "")


def count(value: float) -> str:
    """Return a whole number with commas between thousands."""
    return f"{round(value):,}"


def duration(seconds: float) -> str:
    """Return seconds as hours and minutes, minutes and seconds, or seconds."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60} s"
    return f"{seconds:.1f} s"


def listed(names: Sequence[str]) -> str:
    """Return names as ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def escape(text: object) -> str:
    """Return any text, on one line, with all its Markdown escaped."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))


def code(text: object) -> str:
    """Return text as inline code, without characters that would end the code or a table cell."""
    plain = " ".join(str(text).split()).replace("`", "'").replace("|", "/")
    return f"`{plain}`" if plain else "(empty)"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "",
          numbers: bool = True) -> str:
    """Return a pipe table; its cells are Markdown already.

    The first column is aligned left, the others right if they hold ``numbers``.
    """
    rule = [":--"] + ["--:" if numbers else ":--"] * (len(header) - 1)
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]
    return "\n".join(lines) + (f"\n\nTable: {caption}" if caption else "") + "\n"
