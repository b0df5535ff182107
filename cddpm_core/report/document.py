"""The document that both exports are made of: Markdown, parsed by pandoc, with everything in it.

Figures and tables get their numbers and the text its references to them; pictures are written to
a folder. All of it is data: nothing in the text becomes HTML, TeX or typst.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pypandoc
from pandocfilters import (
    Div,
    Header,
    Link,
    Plain,
    RawBlock,
    RawInline,
    Space,
    Str,
    Strong,
    stringify,
    walk,
)

from cddpm_core.config.errors import UserError, did_you_mean
from cddpm_core.report.blocks import (
    caption_in,
    on_its_side,
    picture_of,
    quoted,
    without_empty,
)
from cddpm_core.report.language import say
from cddpm_core.report.pictures import read_picture

__all__ = ["READER", "Document", "parse"]

# No raw HTML, TeX or typst, no metadata, no attributes that a writer would pass on.
READER = "markdown" + "".join(f"-{name}" for name in (
    "raw_html", "raw_tex", "raw_attribute", "latex_macros", "native_divs", "native_spans",
    "fenced_divs", "bracketed_spans", "inline_code_attributes", "fenced_code_attributes",
    "table_attributes", "yaml_metadata_block", "pandoc_title_block", "smart", "example_lists",
    "implicit_figures"))
SAFE = re.compile(r"(https?:|mailto:|#|doi:)", re.IGNORECASE)  # what a link may lead to
REFERENCE = re.compile(r"(fig|tbl):")
NO_ATTRIBUTES = ["", [], []]
UNBROKEN_ROWS = 12  # a longer table may break over pages
ZOOM = "large-"  # before the name of a figure: its picture alone, on the whole screen


def parse(markdown: str) -> dict[str, Any]:
    """Return pandoc's document of a Markdown text."""
    return json.loads(pypandoc.convert_text(
        markdown, "json", format=READER, extra_args=["--columns=10000"]))


class Document:
    """A parsed text, made ready for one of the writers ``html`` and ``typst``.

    ``folder`` is where its pictures are named from, ``pictures`` where they are written to, and
    ``keys`` are the entries of the bibliography. Raises `UserError` for a picture, a reference or
    a citation that is not there; a chapter alone, not a ``whole`` report, may refer to others.
    """

    def __init__(self, markdown: str, abstract: str, folder: Path, pictures: Path,
                 keys: Sequence[str], writer: str, whole: bool = True) -> None:
        self.folder, self.pictures, self.keys, self.writer = folder, pictures, keys, writer
        self.whole = whole
        self.title, self.heading, self.cites = "", "", False
        self.numbers: dict[str, str] = {}
        self.counts = {"fig": 0, "tbl": 0}
        found = parse(markdown)
        self.version = found["pandoc-api-version"]
        blocks = walk(found["blocks"], self._clean, "", {})
        blocks = self._numbered(self._with_title(without_empty(blocks)))
        blocks = walk(blocks, self._referred, "", {})
        self.abstract = walk(walk(parse(abstract)["blocks"], self._clean, "", {}),
                             self._referred, "", {})
        self.blocks = self._with_references(blocks)
        if writer == "typst":
            self.blocks = on_its_side(self.blocks)

    def json(self, about: Mapping[str, Any]) -> str:
        """Return the document as pandoc reads it, with metadata of text or blocks."""
        about = {**about, "abstract": self.abstract}
        meta = {key: {"t": "MetaBlocks", "c": value} if isinstance(value, list) else
                {"t": "MetaString", "c": str(value)} for key, value in about.items() if value}
        return json.dumps({"pandoc-api-version": self.version, "meta": meta,
                           "blocks": self.blocks})

    def _clean(self, key: str, value: Any, *_: Any) -> Any:
        if key == "Header":
            self.heading = stringify(value[2])
        if key == "Link":
            _, text, (target, _) = value
            return Link(NO_ATTRIBUTES, text, [target, ""]) if SAFE.match(target) else text
        if key == "Image":
            return self._image(*value)
        return None

    def _image(self, attributes: Any, alt: list[Any], target: Any) -> Any:
        address, title = target
        found, kind = read_picture(address, self.folder)
        file = self.pictures / f"picture{len(list(self.pictures.iterdir()))}.{kind}"
        file.write_bytes(found)
        words = title.removeprefix("fig:").split() if title.startswith("fig:") else [""]
        name = attributes[0] or (f"fig:{words[0]}" if words[0] else "")
        width = next((word for word in [dict(attributes[2]).get("width", ""), *words]
                      if re.fullmatch(r"\d{1,3}%", word)), "")
        kinds = [word for word in words[1:] if word in ("pixels", "wide")]
        kinds += [] if alt else ["bare"]
        where = f"/{file.name}" if self.writer == "typst" else file.name  # from typst's root
        return {"t": "Image", "c": [[name, kinds, [["width", width]] if width else []],
                                    alt or [Str(self.heading)], [where, ""]]}

    def _with_title(self, blocks: list[Any]) -> list[Any]:
        """Take the only heading of the first level as the title of a chapter."""
        first = [block for block in blocks if block["t"] == "Header" and block["c"][0] == 1]
        if self.whole or len(first) != 1 or blocks[0] is not first[0]:
            return blocks
        self.title = stringify(first[0]["c"][2])
        for block in blocks:
            if block["t"] == "Header":
                block["c"][0] -= 1
        return blocks[1:]

    def _numbered(self, blocks: list[Any]) -> list[Any]:
        out, index = [], 0
        while index < len(blocks):
            block, index = blocks[index], index + 1
            if image := picture_of(block):
                caption = caption_in(blocks[index:index + 1])
                index += bool(caption)
                bare = "bare" in image["c"][0][1]
                out.append(self._figure(image, caption or ([] if bare else image["c"][1])))
            elif block["t"] == "Table":
                out += self._table(block)
            else:
                out.append(block)
        return out

    def _number(self, kind: str, name: str, template: str) -> list[Any]:
        self.counts[kind] += 1
        said = say(template, number=self.counts[kind])
        if name in self.numbers:
            raise UserError(f"@{name}: found twice, expected another name for each figure or table")
        if name:
            self.numbers[name] = said
        return [Strong([Str(said + say("."))]), Space()]

    def _figure(self, image: Any, caption: list[Any]) -> Any:
        (name, kinds, sizes), alt, (file, _) = image["c"]
        number = self._number("fig", name, "Figure {number}") if caption else []
        if self.writer == "typst":
            width = sizes[0][1] if sizes else "100%"
            content = [RawInline("typst", f"#image({quoted(file)}, width: {width}, "
                                          f"alt: {quoted(stringify(alt))})")]
        else:
            large = ZOOM + (name or file.partition(".")[0])
            # The alt text as an attribute, which pandoc keeps also if it is the caption.
            words = [*sizes, ["alt", stringify(alt)]]
            picture = {"t": "Image", "c": [["", kinds, words], alt, [file, ""]]}
            content = [Link([large, ["zoom"], []], [picture], [f"#{large}", ""]),
                       Link(["", ["close"], [["aria-label", say("Close")]]], [Str("×")],
                            [f"#{name or 'close'}", ""])]
        return {"t": "Figure", "c": [
            [name, kinds, []], [None, [Plain(number + caption)] if caption else []],
            [Plain(content)]]}

    def _table(self, table: Any) -> list[Any]:
        caption = table["c"][1]
        name = ""
        if caption[1]:
            text = caption[1][0]["c"]
            links = [part for part in text if part["t"] == "Link" and not part["c"][1]]
            name = links[0]["c"][2][0].removeprefix("#") if links else ""
            number = self._number("tbl", name, "Table {number}")
            caption[1][0]["c"] = number + [part for part in text if part not in links]
        table["c"][0] = [name, [], []]
        rows = sum(len(body[3]) for body in table["c"][4])
        if self.writer != "typst":
            return [Div(["", ["table"], []], [table])]
        if rows > UNBROKEN_ROWS:
            return [table]
        return [RawBlock("typst", "#block(width: 100%, breakable: false)["), table,
                RawBlock("typst", "]")]

    def _referred(self, key: str, value: Any, *_: Any) -> Any:
        if key != "Cite":
            return None
        citations, text = value
        if REFERENCE.match(citations[0]["citationId"]):
            names = [citation["citationId"].rstrip(".") for citation in citations]
            there = self.whole or all(name in self.numbers for name in names)
            return self._references(citations) if there else text
        for name in (citation["citationId"] for citation in citations):
            if name in self.keys:
                self.cites = True
                continue
            said = (f"@{name}: no such entry in the bibliography"
                    f"{did_you_mean(name, self.keys)}")
            if citations[0]["citationMode"]["t"] != "AuthorInText":
                raise UserError(said)
            warnings.warn(f"{said}, so it stands in the report as it is", stacklevel=2)
            return text
        return None

    def _references(self, citations: list[Any]) -> list[Any]:
        parts: list[Any] = []
        for index, citation in enumerate(citations):
            name = citation["citationId"].rstrip(".")
            if name not in self.numbers:
                kind = "figure" if name.startswith("fig:") else "table"
                raise UserError(f"@{name}: no such {kind} in the report"
                                f"{did_you_mean(name, self.numbers)}")
            after = [Str(".")] if citation["citationId"] != name else []
            parts += [*([Str(say(", "))] if index else []), *citation["citationPrefix"],
                      Link(NO_ATTRIBUTES, [Str(self.numbers[name].replace(" ", "\u00a0"))],
                           [f"#{name}", ""]), *citation["citationSuffix"], *after]
        return parts

    def _with_references(self, blocks: list[Any]) -> list[Any]:
        """Put the list of what is cited before the appendix, or at the end."""
        for block in blocks:
            if block["t"] == "Header" and stringify(block["c"][2]).startswith(say("Appendix")):
                block["c"][1][1].append("unnumbered")
        ends = [i for i, block in enumerate(blocks) if block["t"] == "Header"
                and block["c"][0] == 1 and "unnumbered" in block["c"][1][1]]
        end = ends[0] if ends else len(blocks)
        listed = [Header(1, ["references", ["unnumbered"], []], [Str(say("References"))]),
                  Div(["refs", [], []], [])] if self.cites else []
        return [*blocks[:end], *listed, *blocks[end:]]
