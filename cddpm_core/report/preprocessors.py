"""What nbconvert does to a notebook before the template of the report turns it into Markdown."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nbconvert.preprocessors import Preprocessor
from nbformat import NotebookNode
from traitlets import Bool

from cddpm_core.config.errors import UserError
from cddpm_core.config.presets import read_yaml
from cddpm_core.config.schema import Params, resolve
from cddpm_core.report.title_page import MIME, about_params

__all__ = ["EmbedAttachments", "NeedsOutputs", "TitlePage"]


class NeedsOutputs(Preprocessor):
    """Refuse a notebook with code of which nothing was executed."""

    enabled = Bool(True).tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        """Return the notebook as it is; raises `UserError`."""
        code = [cell for cell in nb.cells if cell.cell_type == "code"]
        if code and not any(cell.execution_count for cell in code):
            name = resources["metadata"]["name"]
            raise UserError(f"{name}.ipynb: not executed, run its cells first, or the {name!r} "
                            "stage")
        return nb, resources


class TitlePage(Preprocessor):
    """Take the title, the author and so on out of the notebook's outputs.

    They become ``resources["about"]``. Without them, as in a chapter alone, they come from the
    params file beside the notebook if there is one.
    """

    enabled = Bool(True).tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: Any) -> tuple[NotebookNode, Any]:
        """Return the notebook without the title page, and its resources with ``about``."""
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


class EmbedAttachments(Preprocessor):
    """Put the pictures attached to Markdown cells into their text."""

    enabled = Bool(True).tag(config=True)

    def preprocess_cell(self, cell: NotebookNode, resources: Any,
                        index: int) -> tuple[NotebookNode, Any]:
        """Return the cell with ``attachment:`` replaced by the picture."""
        for name, kinds in cell.get("attachments", {}).items():
            for kind, data in kinds.items():
                text = data if isinstance(data, str) else base64.b64encode(data).decode()
                for written in (name, quote(name)):
                    cell.source = cell.source.replace(
                        f"attachment:{written}", f"data:{kind};base64,{text.strip()}")
        return cell, resources
