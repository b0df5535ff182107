"""Markdown: how numbers, names and tables are written.

JupyterLab shows it as it is. The exports read these conventions in it: an italic paragraph after a
picture is its caption, and a paragraph ``Table: ...`` after a table is that of the table. The title
of a picture and an empty link in the caption of a table hold the names by which the text refers to
them, as in ``@fig:test-grid`` and ``@tbl:accuracy``.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Sequence

from cddpm_core.report.language import say

__all__ = ["code", "count", "decimals", "duration", "escape", "identifier", "listed", "picture",
           "prose", "table", "with_interval"]


def prose(*sentences: str) -> str:
    """Return the sentences that are not empty as one paragraph."""
    return say(" ").join(filter(None, sentences)) + "\n"


def decimals(value: float, digits: int = 3) -> str:
    """Return an accuracy with so many decimals, or four, rounded down, if that would make it 1."""
    shown = f"{value:.{digits}f}"
    return (f"{math.floor(1e4 * value) / 1e4:.4f}" if value < 1 and float(shown) == 1 else
            shown.replace("-", "−"))


def with_interval(mean: float, half: float | None, signed: bool = False, digits: int = 3) -> str:
    """Return a mean of accuracies, or of their differences, with its interval if it has one."""
    shown = f"{mean:+.{digits}f}".replace("-", "−") if signed else decimals(mean, digits)
    return shown + (f" ± {decimals(half, digits)}" if half is not None else "")


def count(value: float) -> str:
    """Return a whole number with commas between thousands."""
    return f"{round(value):,}"


def duration(seconds: float) -> str:
    """Return seconds as hours and minutes, minutes and seconds, or seconds."""
    whole = round(seconds)
    if whole >= 3600:
        return say("{hours} h {minutes} min", hours=whole // 3600, minutes=whole % 3600 // 60)
    if whole >= 60:
        return say("{minutes} min {seconds} s", minutes=whole // 60, seconds=whole % 60)
    return say("{seconds} s", seconds=f"{seconds:.1f}")


def listed(names: Sequence[str]) -> str:
    """Return names as ``a, b and c``."""
    return say(" and ").join(filter(None, [say(", ").join(names[:-1]), *names[-1:]]))


def escape(text: object) -> str:
    """Return any text, on one line, with all its Markdown escaped."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(str(text).split()))


def code(text: object) -> str:
    """Return text as inline code, without characters that would end the code or a table cell."""
    plain = " ".join(str(text).split()).replace("`", "'").replace("|", "/")
    return f"`{plain}`" if plain else say("(empty)")


def identifier(name: str) -> str:
    """Return a name as it stands in references: ``test-grid`` for ``test_grid``."""
    return name.replace("_", "-")


def picture(png: bytes, alt: str, caption: str, name: str, *kinds: str) -> str:
    """Return a PNG picture with alt text and caption, both Markdown, referred to as ``@fig:name``.

    It is part of the text, so it is seen wherever a notebook is opened. ``kinds`` are ``pixels``,
    which are not to be smoothed, and ``wide``, which needs a page on its side.
    """
    data = base64.b64encode(png).decode()
    title = " ".join([f"fig:{identifier(name)}", *kinds])
    return f'![{alt}](data:image/png;base64,{data} "{title}")\n\n*{caption}*\n'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "",
          numbers: bool = True, name: str = "") -> str:
    """Return a pipe table; its cells are Markdown already, and ``header`` is translated.

    The first column is aligned left, the others right if they hold ``numbers``. With a ``name``
    the text can refer to it as ``@tbl:name``.
    """
    if name:
        caption += f"[](#tbl:{identifier(name)})"
    rule = [":--"] + ["--:" if numbers else ":--"] * (len(header) - 1)
    lines = ["| " + " | ".join(cells) + " |" for cells in (map(say, header), rule, *rows)]
    return "\n".join(lines) + (f"\n\nTable: {caption}" if caption else "") + "\n"
