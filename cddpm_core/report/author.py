"""The author's own words in the report: Markdown files in a folder ``report/``.

They are data. Raw HTML, TeX and typst stay text, links lead to the web or nowhere, and pictures
come from files beside them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pypandoc
from pandocfilters import stringify, walk

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import write_text
from cddpm_core.report.document import READER, parse
from cddpm_core.report.facts import Facts
from cddpm_core.report.language import table_of
from cddpm_core.report.pictures import data_uri
from cddpm_core.runs.run import OWN_WORDS, word_folders

__all__ = ["Words", "author_words", "bibliographies", "init_words"]

BIBLIOGRAPHY = "references.bib"
HINT = """<!-- Your {name}, in Markdown. {more}
This comment does not appear in the report, and an empty file adds nothing. The heading of the
chapter is there already; "## Heading" begins a section of it.

A formula: $\\hat x_0$. A picture beside this file: ![What it shows](picture.png){{#fig:mine}}
References: see @fig:mine, @fig:test-grid or @tbl:accuracy. A citation: [@ho2020], or an entry
that you add to references.bib. To write @ itself: \\@. -->
"""
MORE = {"introduction": "It stands before the introduction of the package.",
        "discussion": "It stands before the computed sentences, or instead of them with the "
                      "parameter `computed_discussion: false`.",
        "conclusion": "Without it the report has no conclusion."}
BIB = """% Add entries here, and cite them as [@name]. Only what is cited is listed.
"""


@dataclass(frozen=True)
class Words:
    """The author's text of a chapter, and whether computed sentences follow it."""

    text: str
    with_computed: bool


def author_words(facts: Facts, name: str) -> Words:
    """Return the author's own words for a chapter, or none.

    They are those of ``<name>.md`` in the run's folder ``report/``, else in the folder that the
    parameter ``words`` names. Raises `UserError` for a file that cannot be read.
    """
    computed = facts.params.computed_discussion
    for folder in word_folders(facts.run, facts.params):
        path = folder / f"{name}.md"
        if path.is_file():
            text = _markdown(path, name)
            return Words(text, computed or not text)
    return Words("", computed or name == "introduction")


def bibliographies(facts: Facts) -> list[str]:
    """Return the paths of the author's ``references.bib``, if there are any."""
    return [str(folder / BIBLIOGRAPHY) for folder in word_folders(facts.run, facts.params)
            if (folder / BIBLIOGRAPHY).is_file()]


def init_words(folder: str | Path) -> list[Path]:
    """Write files with hints to ``folder`` for what is not there yet; return all their paths."""
    folder = Path(folder)
    texts = {f"{name}.md": HINT.format(name=name, more=MORE[name]) for name in OWN_WORDS}
    for name, text in {**texts, BIBLIOGRAPHY: BIB}.items():
        if not (folder / name).exists():
            write_text(folder / name, text)
    return [folder / name for name in (*texts, BIBLIOGRAPHY)]


def _markdown(path: Path, name: str) -> str:
    """The text of a file as Markdown that is only text, with its pictures in it."""
    try:
        text = re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8-sig"), flags=re.DOTALL)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text in UTF-8 ({error})") from None
    found = parse(text)

    def embed(key: str, value: Any, *_: Any) -> Any:
        if key != "Image":
            return None
        attributes, alt, (address, title) = value
        words = [attributes[0] or title, dict(attributes[2]).get("width", "")]
        try:
            address = data_uri(address, path.parent)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        return {"t": "Image", "c": [["", [], []], alt, [address, " ".join(words).strip()]]}

    blocks = walk(found["blocks"], embed, "", {})
    headings = [block["c"] for block in blocks if block["t"] == "Header"]
    titles = {name.capitalize(), table_of("zh").get(name.capitalize())}
    if headings and blocks[0]["t"] == "Header" and stringify(headings[0][2]) in titles:
        blocks, headings = blocks[1:], headings[1:]
    down = 2 - min((level for level, *_ in headings), default=2)
    for heading in headings:  # below the chapter's own
        heading[0] += down
    found["blocks"] = blocks
    writer = READER.replace("-citations", "") + (
        "-simple_tables-multiline_tables-grid_tables+pipe_tables-header_attributes")
    return pypandoc.convert_text(json.dumps(found), writer, format="json",
                                 extra_args=["--wrap=none"]).strip()
