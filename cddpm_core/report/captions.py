"""Figures of the report as Markdown, with the alt text and the caption of each.

Both stand beside the function that draws the figure, in `captioned`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cddpm_core.config.files import png_of
from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.report.facts import Facts
from cddpm_core.report.language import say
from cddpm_core.report.markdown import escape, identifier, listed, picture, prose

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "Caption", "captioned", "drawn", "figure", "figures", "see"]


@dataclass(frozen=True)
class Caption:
    """The alt text and the caption of a figure, Markdown with ``{names}`` for values."""

    alt: str
    text: str
    kinds: tuple[str, ...] = ()


CAPTIONS: dict[str, Caption] = {}


def captioned(name: str, alt: str, text: str, *kinds: str) -> Callable[[Any], Any]:
    """Say what the figure ``name`` shows, above the function that draws it; see `picture`."""
    CAPTIONS[name] = Caption(alt, text, kinds)
    return lambda draw: draw


for _name in CONDITION_FILES:  # saved as they are, without a function that draws
    captioned(f"{_name}_grid", "The 32 images sampled for {file}, eight per row",
              "The images sampled for {file}, eight per row in the order of the file.", "pixels")
captioned("timesteps_grid", "The images sampled for {file} with T = {T}",
          "{file} with T = {T}, sampled from the same seeds as the other variant.", "pixels")
captioned("analyse_diversity", "Sixteen images of one condition",
          "One condition, sixteen seeds.", "pixels")


def figure(facts: Facts, name: str, kind: str = "", **values: object) -> str:
    """Return ``figures/<name>.png`` with its caption, or nothing if it is not there.

    Alt text and caption are those of ``kind``, by default the name, with the values in them; the
    data and the evaluator are added.
    """
    path = facts.run / f"figures/{name}.png"
    return _shown(facts, path.read_bytes(), name, kind, values) if path.exists() else ""


def drawn(facts: Facts, name: str, made: Figure, origin: str = "", **values: object) -> str:
    """Return a figure that is not kept as a file, with its caption.

    ``origin`` is its data and evaluator, if they are not those of the facts.
    """
    return _shown(facts, png_of(made), name, "", values, origin)


def _shown(facts: Facts, png: bytes, name: str, kind: str, values: dict[str, object],
           origin: str = "") -> str:
    about, origin = CAPTIONS[kind or name], escape(origin or facts.origin())
    alt, text = (say(part, **{key: escape(value) for key, value in values.items()})
                 for part in (about.alt, about.text))
    return picture(png, f"{alt} ({origin})", f"{text} ({origin}{say('.')})", name, *about.kinds)


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
