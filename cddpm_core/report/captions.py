"""Figures of the report as Markdown, with the alt text and the caption of each."""

from __future__ import annotations

import io
from importlib import resources
from typing import TYPE_CHECKING

import yaml

from cddpm_core.report.facts import Facts
from cddpm_core.report.language import say
from cddpm_core.report.markdown import escape, identifier, listed, picture, prose

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "drawn", "figure", "figures", "see"]

CAPTIONS = yaml.safe_load((resources.files("cddpm_core") / "report/assets/words/captions.yaml")
                          .read_text(encoding="utf-8"))


def figure(facts: Facts, name: str, kind: str = "", **values: object) -> str:
    """Return ``figures/<name>.png`` with its caption, or nothing if it is not there.

    Alt text and caption are those of ``kind``, by default the name, with the values in them; the
    data and the evaluator are added.
    """
    path = facts.run / f"figures/{name}.png"
    return _shown(facts, path.read_bytes(), name, kind, values) if path.exists() else ""


def drawn(facts: Facts, name: str, made: Figure, **values: object) -> str:
    """Return a figure that is not kept as a file, with its caption."""
    file = io.BytesIO()
    made.savefig(file, format="png", dpi=150, bbox_inches="tight")
    return _shown(facts, file.getvalue(), name, "", values)


def _shown(facts: Facts, png: bytes, name: str, kind: str, values: dict[str, object]) -> str:
    about, origin = CAPTIONS[kind or name], escape(facts.origin())
    alt, text = (say(about[part], **{key: escape(value) for key, value in values.items()})
                 for part in ("alt", "text"))
    return picture(png, f"{alt} ({origin})", f"{text} ({origin}{say('.')})", name,
                   *about.get("kinds", ()))


def see(facts: Facts, text: str, *names: str) -> str:
    """Return a text with a sentence that refers to figures and tables by number.

    ``names`` are those of figures, which are left out if they are not there, or ``tbl:name``.
    """
    shown = [f"@{name}" if name.startswith("tbl:") else f"@fig:{identifier(name)}"
             for name in names
             if name.startswith("tbl:") or (facts.run / f"figures/{name}.png").exists()]
    if not shown:
        return text
    return prose(text.rstrip(), say("See {shown}.", shown=listed(shown)))


def figures(facts: Facts, text: str, *names: str) -> tuple[str, ...]:
    """Return a text that refers to what has these names, see `see`, and the figures after it."""
    return (see(facts, text, *names),
            *(figure(facts, name) for name in names if not name.startswith("tbl:")))
