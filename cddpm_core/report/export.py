"""nbconvert's exporters ``lab_report_html`` and ``lab_report_pdf``.

Both turn an executed notebook into Markdown by the template in ``templates/``, into a `Document`,
and by pandoc into one HTML file with MathML, or into typst, which typesets the PDF. Both programs
come with Python packages; neither needs the network.
"""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pypandoc
import typst
from nbconvert.exporters import TemplateExporter
from nbconvert.utils.exceptions import ConversionException
from nbformat import NotebookNode
from traitlets.config import Config

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import atomic, read_text
from cddpm_core.config.presets import read_yaml
from cddpm_core.config.schema import Params, resolve
from cddpm_core.report.document import Document
from cddpm_core.report.fonts import font_faces, font_files, warn_of_missing_glyphs
from cddpm_core.report.language import document_language, say, speaking
from cddpm_core.report.title_page import MIME, about_params
from cddpm_core.runs.run import Run

__all__ = ["ExportError", "LabReportHTML", "LabReportPDF", "export_report"]

HERE = Path(__file__).resolve().parent
ASSETS = HERE / "assets"
BIBLIOGRAPHY = ASSETS / "references.bib"


class ExportError(UserError, ConversionException):
    """A mistake the user can mend, which nbconvert expects: it logs it and exits with 1."""


class LabReport(TemplateExporter):
    """What both exporters have in common."""

    # Pandoc's writer, its template in the assets, and the ending of the file.
    writer, standalone, extension = "", "", ""

    @property
    def default_config(self) -> Config:
        """Leave out code and what is about the notebook itself; prefer Markdown to plain text."""
        return Config({
            "Exporter": {
                "file_extension": self.extension,
                "default_preprocessors": [needs_outputs, take_title_page, embed_attachments,
                                          "nbconvert.preprocessors.TagRemovePreprocessor"]},
            "TemplateExporter": {
                "template_name": "lab_report", "template_extension": ".md.j2",
                "extra_template_basedirs": [str(HERE / "templates")], "exclude_input": True},
            "TagRemovePreprocessor": {"enabled": True, "remove_cell_tags": {"notebook-only"}},
            "NbConvertBase": {"display_data_priority": [
                "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex",
                "text/plain"]}})

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
        text = re.sub(r"\(data:[^)\s]*", "(", markdown)  # without the data of pictures
        seen = f"{title} {about['author']} {about['course']} {text}"
        warn_of_missing_glyphs(seen, fonts)
        options = [f"--template={ASSETS / self.standalone}", "--wrap=none", "--columns=10000",
                   "--standalone", "--toc", "--toc-depth=2"]
        if document.cites:
            options += ["--citeproc", f"--csl={ASSETS / 'numbered.csl'}",
                        "--metadata=link-citations", *(
                            f"--bibliography={file}" for file in (BIBLIOGRAPHY, *own))]
        return self._finished(document.json(meta), options, meta, seen, fonts, folder)

    def _pandoc(self, document: str, options: Sequence[str], folder: Path) -> str:
        try:
            return pypandoc.convert_text(document, self.writer, format="json",
                                         extra_args=[*options, f"--resource-path={folder}"])
        except RuntimeError as error:  # such as a file of the author's that it cannot read
            raise UserError(f"report: pandoc failed ({' '.join(str(error).split())})") from None


class LabReportHTML(LabReport):
    """One HTML file that loads nothing from elsewhere."""

    export_from_notebook = "Lab report (HTML)"
    output_mimetype = "text/html"
    writer, standalone, extension = "html5", "report.html", ".html"

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
    writer, standalone, extension = "typst", "report.typ", ".pdf"

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
    return re.findall(r"^\s*@\w+\s*\{\s*([^\s,]+)\s*,", read_text(bibliography), re.MULTILINE)


def needs_outputs(nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
    """Refuse a notebook with code of which nothing was executed, with a `UserError`."""
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    if code and not any(cell.execution_count for cell in code):
        name = resources["metadata"]["name"]
        raise UserError(f"{name}.ipynb: not executed, run its cells first, or the {name!r} stage")
    return nb, resources


def take_title_page(nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
    """Move title, author and so on from the notebook's outputs to ``resources["about"]``.

    Without them, as in a chapter alone, they come from the params file beside the notebook if
    there is one.
    """
    about: dict[str, Any] | None = None
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            about = output.get("data", {}).get(MIME, about)
        cell["outputs"] = [output for output in cell.get("outputs", [])
                           if MIME not in output.get("data", {})]
    if about is None:
        file = Path(resources["metadata"]["path"] or ".") / "params.yaml"
        params = resolve(read_yaml(file), str(file)) if file.exists() else Params()
        about = {**about_params(params), "title": ""}
    resources["about"] = about
    return nb, resources


def embed_attachments(nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
    """Put the pictures attached to Markdown cells into their text."""
    for cell in nb.cells:
        for name, kinds in cell.get("attachments", {}).items():
            for kind, data in kinds.items():
                text = data if isinstance(data, str) else base64.b64encode(data).decode()
                for written in (name, quote(name)):
                    cell.source = cell.source.replace(
                        f"attachment:{written}", f"data:{kind};base64,{text.strip()}")
    return nb, resources
