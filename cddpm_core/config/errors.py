"""The one exception for a user's mistake, and how it is worded."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

__all__ = ["UserError", "did_you_mean", "shown"]

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 80, 80, 40


class UserError(Exception):
    """A mistake the user can mend: one sentence naming the file, key or label.

    The command line prints the sentence and exits with 2; a notebook shows the
    sentence alone, because IPython asks ``_render_traceback_`` before it prints.
    """

    def __str__(self) -> str:
        # A name in a file may hold line ends and codes that a terminal obeys.
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in super().__str__())

    def _render_traceback_(self) -> list[str]:
        return [f"Error: {self}"]


def did_you_mean(name: object, options: Iterable[str]) -> str:
    """Return ``' (did you mean ...?)'`` for the nearest of ``options``, or ``''``."""
    near = difflib.get_close_matches(str(name), list(options), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def shown(value: object) -> str:
    """Return ``repr(value)`` on one line, cut short where it is long: it is a stranger's."""
    try:
        return " ".join(_SHORT.repr(value).split())
    except ValueError:  # an integer of more digits than Python writes
        return f"a very large {type(value).__name__}"
