"""Markdown: how numbers, names and tables are written.

It is plain enough for JupyterLab. For the exports two things in it have a
meaning: an italic paragraph after a picture is its caption, and a paragraph
``Table: ...`` after a table is the caption of that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["code", "count", "duration", "escape", "listed", "share", "table",
           "with_interval"]


def share(value: float) -> str:
    """Return an accuracy as it is worded everywhere: three decimals."""
    return f"{value:.3f}"


def with_interval(mean: float, half: float | None, signed: bool = False) -> str:
    """Return a mean of accuracies, or of their differences, with its interval if it has one."""
    shown = f"{mean:+.3f}".replace("-", "−") if signed else share(mean)
    return shown + (f" ± {share(half)}" if half is not None else "")


def count(value: float) -> str:
    """Return a whole number with its thousands apart."""
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
    """Return any text as Markdown that shows just that text, on one line."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))


def code(text: object) -> str:
    """Return text as inline code, with no character that could end it or a table cell."""
    plain = " ".join(str(text).split()).replace("`", "'").replace("|", "/")
    return f"`{plain}`" if plain else "(empty)"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "",
          numbers: bool = True) -> str:
    """Return a pipe table of cells that are Markdown already.

    The first column is set left, the others right if they hold ``numbers``.
    """
    rule = [":--"] + ["--:" if numbers else ":--"] * (len(header) - 1)
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]
    return "\n".join(lines) + (f"\n\nTable: {caption}" if caption else "") + "\n"
