"""nbconvert's exporters ``lab-report-html`` and ``lab-report-pdf``.

Both turn an executed notebook into Markdown by the template in ``templates/``, into a `Document`,
and by pandoc into one HTML file with MathML, or into typst, which typesets the PDF. Both programs
come with Python packages; neither needs the network.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources as package_files
from pathlib import Path
from typing import Any

import pypandoc
import typst
from nbconvert.exporters import TemplateExporter
from nbconvert.utils.exceptions import ConversionException
from nbformat import NotebookNode
from traitlets import Bool, default
from traitlets.config import Config

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import atomic
from cddpm_core.report.document import Document
from cddpm_core.report.fonts import font_faces, font_files, warn_of_missing_glyphs
from cddpm_core.report.language import document_language, say, speaking
from cddpm_core.report.preprocessors import EmbedAttachments, NeedsOutputs, TitlePage
from cddpm_core.runs.run import Run

__all__ = ["ExportError", "LabReportHTML", "LabReportPDF", "export_report"]

HERE = Path(str(package_files.files("cddpm_core") / "report"))
ASSETS = HERE / "assets"
BIBLIOGRAPHY = ASSETS / "references.bib"


class ExportError(UserError, ConversionException):
    """A mistake the user can mend, which nbconvert expects: it logs it and exits with 1."""


class LabReport(TemplateExporter):
    """What both exporters have in common."""

    writer, standalone = "", ""  # pandoc's writer, and its template in the assets

    @property
    def default_config(self) -> Config:
        """Leave out what is about the notebook itself; prefer Markdown to plain text."""
        return Config({
            "TagRemovePreprocessor": {"enabled": True, "remove_cell_tags": {"notebook-only"}},
            "NbConvertBase": {"display_data_priority": [
                "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex",
                "text/plain"]}})

    exclude_input = Bool(True, help="Leave out the code.").tag(config=True)

    @default("default_preprocessors")
    def _preprocessors_of_the_report(self) -> list[Any]:
        return [NeedsOutputs, TitlePage, EmbedAttachments,
                "nbconvert.preprocessors.TagRemovePreprocessor"]

    @default("template_name")
    def _template_name(self) -> str:
        return "lab_report"

    @default("template_extension")
    def _template_extension(self) -> str:
        return ".md.j2"

    @default("extra_template_basedirs")
    def _basedirs(self) -> list[str]:
        return [str(HERE / "templates")]

    def from_notebook_node(self, nb: NotebookNode, resources: Any = None,
                           **options: Any) -> tuple[Any, Any]:
        """Return the report and nbconvert's resources; raises `ExportError`."""
        try:
            markdown, resources = super().from_notebook_node(nb, resources, **options)
            about = resources["about"]
            with speaking(about["language"]), tempfile.TemporaryDirectory() as folder:
                return self._made(markdown, about, Path(resources["metadata"]["path"] or "."),
                                  Path(folder)), resources
        except UserError as error:
            raise ExportError(str(error)) from None

    def _made(self, markdown: str, about: dict[str, Any], source: Path,
              folder: Path) -> str | bytes:
        own = [file for file in map(Path, about.get("bibliography", ())) if file.exists()]
        keys = [key for file in (BIBLIOGRAPHY, *own) for key in entries(file)]
        document = Document(markdown, about["abstract"], source, folder, keys, self.writer,
                            whole=bool(about["run"]))
        title = about["title"] or document.title
        meta = {"title": title, "lang": document_language(about["language"]), **{
            key: about[key] for key in ("author", "course", "date", "run", "origin")},
            "contents": say("Contents"), "abstract-title": say("Abstract")}
        fonts = font_files(about["fonts"])
        seen = f"{title} {about['author']} {about['course']} {markdown_text(markdown)}"
        warn_of_missing_glyphs(seen, fonts)
        options = [f"--template={ASSETS / self.standalone}", "--wrap=none", "--columns=10000",
                   "--standalone", "--toc", "--toc-depth=2"]
        if document.cites:
            options += ["--citeproc", f"--csl={ASSETS / 'numbered.csl'}",
                        "--metadata=link-citations", *(
                            f"--bibliography={file}" for file in (BIBLIOGRAPHY, *own))]
        return self._finished(document.json(meta), options, meta, seen, fonts, folder)

    def _pandoc(self, document: str, options: Sequence[str], folder: Path) -> str:
        return pypandoc.convert_text(document, self.writer, format="json",
                                     extra_args=[*options, f"--resource-path={folder}"])


class LabReportHTML(LabReport):
    """One HTML file that loads nothing from elsewhere."""

    export_from_notebook = "Lab report (HTML)"
    output_mimetype = "text/html"
    writer, standalone = "html5", "report.html"

    @default("file_extension")
    def _file_extension(self) -> str:
        return ".html"

    def _finished(self, document: str, options: list[str], meta: dict[str, Any], seen: str,
                  fonts: Sequence[Path], folder: Path) -> str:
        style = (ASSETS / "report.css").read_text(encoding="utf-8") + font_faces(seen, fonts)
        return self._pandoc(document, [
            *options, "--mathml", "--embed-resources", "--number-sections",
            f"--variable=style={style}"], folder)


class LabReportPDF(LabReport):
    """A PDF, typeset by typst."""

    export_from_notebook = "Lab report (PDF)"
    output_mimetype = "application/pdf"
    writer, standalone = "typst", "report.typ"

    @default("file_extension")
    def _file_extension(self) -> str:
        return ".pdf"

    def _finished(self, document: str, options: list[str], meta: dict[str, Any], seen: str,
                  fonts: Sequence[Path], folder: Path) -> bytes:
        language, _, region = meta["lang"].replace("Hant", "TW").partition("-")
        strings = {"title": meta["title"], "author": meta["author"], "lang": language,
                   "region": region}
        source = _scripts(self._pandoc(document, [*options, *(
            f"--variable=typst_{key}=" + text.replace("\\", r"\\").replace('"', r"\"")
            for key, text in strings.items() if text or key == "author")], folder))
        try:
            return typst.compile(source.encode(), root=str(folder),
                                 font_paths=sorted({str(font.parent) for font in fonts}))
        except typst.TypstError as error:
            raise UserError(f"typst refused the report ({error})") from None


class OnTheCommandLine(LabReport):
    """Its name has a hyphen, with which Jupyter's server answers 404: no entry of Lab's menu."""

    @default("enabled")
    def _enabled(self) -> bool:
        return "jupyter_server" not in sys.modules


class CommandLineHTML(OnTheCommandLine, LabReportHTML):
    """The exporter ``lab-report-html``."""


class CommandLinePDF(OnTheCommandLine, LabReportPDF):
    """The exporter ``lab-report-pdf``."""


def export_report(notebook: str | Path, run: Run) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.pdf`` to the run's folder and return their paths.

    ``notebook`` is the executed ``report.ipynb``. Neither file refers to any other. Raises
    `UserError` if the notebook is missing or not executed, or names something that is not there.
    """
    written = []
    for exporter in (LabReportHTML, LabReportPDF):
        try:
            body, resources = exporter().from_filename(str(notebook))
        except FileNotFoundError:
            raise UserError(f"{notebook}: no such notebook, first run the 'report' stage") from None
        except UserError as error:
            raise UserError(f"{notebook}: {error}") from None
        path = run / f"report{resources['output_extension']}"
        with atomic(path) as temporary:
            temporary.write_bytes(body if isinstance(body, bytes) else body.encode())
        written.append(path)
    return written[0], written[1]


def _scripts(source: str) -> str:
    """Put what is raised after a norm beside it: typst puts it above, as for a relation."""
    return re.sub(r"\$[^$]*\$", lambda formula: re.sub(r"(∥|parallel)(?=[_^])", r"scripts(\1)",
                                                      formula[0]), source)


def entries(bibliography: Path) -> list[str]:
    """Return the names of the entries of a ``.bib`` file."""
    return re.findall(r"^\s*@\w+\s*\{\s*([^\s,]+)\s*,", bibliography.read_text(encoding="utf-8"),
                      re.MULTILINE)


def markdown_text(markdown: str) -> str:
    """Return a Markdown text without the data of its pictures."""
    return re.sub(r"\(data:[^)\s]*", "(", markdown)
