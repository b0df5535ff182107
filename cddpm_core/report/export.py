"""From the executed report notebook to one HTML file and one PDF.

Both come from the same Markdown: the notebook's Markdown cells and the
Markdown that its code cells display. pandoc turns it into HTML with MathML, and
into typst, which typesets the PDF. Both programs come with Python packages;
neither needs the network.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import nbformat
import pypandoc
import typst

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import atomic
from cddpm_core.report.facts import read_facts
from cddpm_core.report.fonts import font_faces, font_files, warn_of_missing_glyphs
from cddpm_core.runs.run import Run

__all__ = ["export_report", "notebook_markdown"]

# Text is data here: raw HTML, TeX and typst are escaped, and "@" and "--" are kept.
READER = "markdown-raw_html-raw_tex-raw_attribute-citations-smart-native_divs-native_spans"
ASSETS = Path(str(resources.files("cddpm_core") / "report/assets"))


def export_report(notebook: str | Path, run: Run) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.pdf`` to the run's folder and return their paths.

    ``notebook`` is the executed ``report.ipynb``. Its pictures are embedded;
    neither file refers to any other. Raises `UserError` if the notebook is
    missing, not executed or names a picture that is not there.
    """
    notebook = Path(notebook)
    facts = read_facts(run, run.params())
    markdown = _absolute_pictures(notebook_markdown(notebook), notebook.parent)
    p = facts.params
    about = {"title": p.title, "author": " · ".join(filter(None, (p.author, p.student_id))),
             "language": p.language, "run": f"run {run.name}", "origin": facts.origin(),
             "date": datetime.date.today().strftime("%-d %B %Y")}
    fonts = font_files(p.font_paths)
    names = f"{about['title']} {about['author']}"
    warn_of_missing_glyphs(names, fonts)
    html, pdf = run / "report.html", run / "report.pdf"
    with atomic(html) as temporary:
        temporary.write_text(_html(markdown, about, font_faces(names, fonts)), encoding="utf-8")
    with atomic(pdf) as temporary:
        temporary.write_bytes(_pdf(markdown, about, run.folder, fonts))
    return html, pdf


def notebook_markdown(notebook: Path) -> str:
    """Return the Markdown of an executed notebook: its prose and what its code displays."""
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except FileNotFoundError:
        raise UserError(f"{notebook}: no such notebook, first run the 'report' stage") from None
    except Exception as error:
        raise UserError(f"{notebook}: not a readable notebook ({error})") from None
    parts = []
    for cell in cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown" and "notebook-only" not in tags:
            parts.append(cell.source)
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/markdown")
            if text:
                parts.append(text)
    if not any(cell.get("execution_count") for cell in cells if cell.cell_type == "code"):
        raise UserError(f"{notebook}: not executed, first run the 'report' stage")
    return "\n\n".join(parts) + "\n"


def _absolute_pictures(markdown: str, folder: Path) -> str:
    """Give the links to pictures, relative to the notebook's folder, their full paths."""
    def absolute(match: re.Match) -> str:
        path = (folder / match[2]).resolve()
        if not path.is_file():
            raise UserError(f"{path}: no such picture, run the 'report' stage again")
        return f"{match[1]}(<{path}>)"
    return re.sub(r"(!\[(?:\\.|[^\]\\])*\])\(([^)]+)\)", absolute, markdown)


def _pandoc(markdown: str, to: str, about: dict[str, str], *options: str) -> str:
    about = [f"--metadata={key}={value}" for key, value in about.items() if value]
    return pypandoc.convert_text(
        markdown, to, format=READER,
        extra_args=["--standalone", f"--lua-filter={ASSETS / 'figures.lua'}", "--wrap=none",
                    "--columns=10000", "--toc", "--toc-depth=2", *about, *options])


def _html(markdown: str, about: dict[str, str], faces: str) -> str:
    style = (ASSETS / "report.css").read_text(encoding="utf-8") + faces
    html = _pandoc(markdown, "html5", about, f"--template={ASSETS / 'report.html'}", "--mathml",
                   "--embed-resources", "--number-sections", f"--variable=style={style}")
    # Inside its own box a wide table can scroll on a narrow screen.
    return html.replace("<table>", '<div class="table"><table>').replace(
        "</table>", "</table></div>")


def _pdf(markdown: str, about: dict[str, str], folder: Path, fonts: Sequence[Path]) -> bytes:
    strings = {f"typst_{key}": about[key].replace("\\", r"\\").replace('"', r"\"")
               for key in ("title", "author")}
    variables = [f"--variable={key}={value}" for key, value in strings.items()]
    source = _pandoc(markdown, "typst", about, f"--template={ASSETS / 'report.typ'}", *variables)
    # typst resolves paths from its root, which is the run's folder.
    source = source.replace(f'"{folder.resolve()}{os.sep}', '"/')
    try:
        return typst.compile(source.encode(), root=str(folder),
                             font_paths=sorted({str(font.parent) for font in fonts}))
    except typst.TypstError as error:
        raise UserError(f"{folder / 'report.pdf'}: typst refused the report ({error})") from None
