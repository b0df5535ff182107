"""Glyphs for titles and names in scripts that the report's own fonts lack, such as Chinese."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTCollection, TTFont
from matplotlib import font_manager

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import typed_path

__all__ = ["font_faces", "font_files", "warn_of_missing_glyphs"]

SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}


def font_files(paths: Sequence[str]) -> list[Path]:
    """Return the font files at and below the given paths; `UserError` for a path without any."""
    found = []
    for given in paths:
        path = typed_path(given)
        here = [path] if path.is_file() else sorted(path.rglob("*"))
        fonts = [file for file in here if file.suffix.lower() in SUFFIXES]
        if not fonts:
            raise UserError(f"font_paths: {path} contains no font, expected a file or folder of "
                            f"{', '.join(sorted(SUFFIXES))}")
        found += fonts
    return found


def warn_of_missing_glyphs(text: str, fonts: Iterable[Path]) -> None:
    """Warn once about characters that no font has and that the report shows as boxes.

    The fonts of this machine are searched as well as ``fonts``.
    """
    missing = _beyond(text)
    system = map(Path, font_manager.findSystemFonts()) if missing else ()
    for path in [*fonts, *system]:
        missing -= {c for _, characters in _open(path) for c in missing & characters}
    if missing:
        warnings.warn(f"no font has {''.join(sorted(missing))!r}, the report shows boxes instead; "
                      "install a font with these characters, such as fonts-noto-cjk, or name one "
                      "in font_paths", stacklevel=3)


def font_faces(text: str, fonts: Iterable[Path]) -> str:
    """Return CSS that embeds the glyphs of the given fonts that a text needs; empty for none.

    The font family is called ``given``.
    """
    wanted, faces = _beyond(text), []
    for path in fonts:
        for font, characters in _open(path):
            here = wanted & characters
            cut = _cut(font, here) if here else b""
            if not cut:
                continue
            wanted -= here
            data = base64.b64encode(cut).decode()
            codes = ", ".join(f"U+{ord(c):X}" for c in sorted(here))
            faces.append(f"@font-face {{ font-family: given; unicode-range: {codes}; "
                         f"src: url(data:font/otf;base64,{data}); }}")
    return "\n".join(faces)


def _beyond(text: str) -> set[str]:
    # The fonts that come with typst have Latin, Greek, Cyrillic, punctuation and symbols.
    return {c for c in text if ord(c) > 0x052F and not 0x2000 <= ord(c) <= 0x27FF}


def _open(path: Path) -> list[tuple[TTFont, set[str]]]:
    """The fonts of a file with their characters; none if it is damaged."""
    try:
        fonts = (TTCollection(path, lazy=True).fonts if path.suffix.lower() in (".ttc", ".otc")
                 else [TTFont(path, lazy=True)])
        return [(font, {chr(code) for code in font.getBestCmap() or {}}) for font in fonts]
    except Exception:  # fontTools raises many types
        return []


def _cut(font: TTFont, characters: set[str]) -> bytes:
    """The font reduced to these characters, or nothing if it is damaged."""
    file = io.BytesIO()
    try:
        cut = subset.Subsetter()
        cut.populate(text="".join(characters))
        cut.subset(font)
        font.save(file)
    except Exception:
        return b""
    return file.getvalue()
