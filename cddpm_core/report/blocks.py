"""What holds of pandoc's blocks: pictures with captions, empty sections, pages on their side."""

from __future__ import annotations

from typing import Any

from pandocfilters import RawBlock

__all__ = ["caption_in", "on_its_side", "picture_of", "quoted", "without_empty"]


def quoted(text: str) -> str:
    """Return a text as a string of typst."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def without_empty(blocks: list[Any]) -> list[Any]:
    """Leave out headings that nothing stands under."""
    out: list[Any] = []
    for block in reversed(blocks):
        level = block["c"][0] if block["t"] == "Header" else None
        after = out[-1] if out else None
        empty = after is None or (after["t"] == "Header" and level and after["c"][0] <= level)
        if not (level and empty):
            out.append(block)
    return out[::-1]


def picture_of(block: Any) -> Any:
    """The picture that is alone in its paragraph, if it is."""
    if block["t"] == "Para" and [part["t"] for part in block["c"]] == ["Image"]:
        return block["c"][0]
    return None


def caption_in(after: list[Any]) -> list[Any]:
    """The italic paragraph that follows a picture, its caption."""
    if after and after[0]["t"] == "Para" and [p["t"] for p in after[0]["c"]] == ["Emph"]:
        return after[0]["c"][0]["c"]
    return []


def on_its_side(blocks: list[Any]) -> list[Any]:
    """Set the chapters with wide figures on pages of their own, which lie on their side."""
    starts = [i for i, block in enumerate(blocks)
              if block["t"] == "Header" and block["c"][0] == 1]
    out = blocks[:starts[0]] if starts else list(blocks)
    for start, end in zip(starts, [*starts[1:], len(blocks)], strict=False):
        chapter = blocks[start:end]
        wide = any(block["t"] == "Figure" and "wide" in block["c"][0][1] for block in chapter)
        out += [RawBlock("typst", "#sideways["), *chapter,
                RawBlock("typst", "]")] if wide else chapter
    return out
