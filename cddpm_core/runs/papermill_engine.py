"""How papermill runs a notebook of this package: with values as they were typed, in a run it knows.

Papermill loads this module by an entry point for any notebook, so it imports little. Its engine
sees a notebook before the first cell runs, the best moment to report a mistyped parameter.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from jupyter_client.kernelspec import KernelSpecManager
from nbformat import NotebookNode
from papermill.engines import NBClientEngine, papermill_engines
from papermill.iorw import papermill_io

from cddpm_core.config.errors import UserError

__all__ = ["Engine"]

OURS = re.compile(r"(open_session|open_trained|score_params)\(globals\(\)")  # only ours say so
NATIVE = "python3"  # the name of the kernel that is papermill's own interpreter


class Refused(UserError, click.ClickException):
    """A mistake, which papermill's command line prints as one sentence."""


class Engine(NBClientEngine):
    """Papermill's usual engine. A notebook of this package is prepared first, and runs in an
    `OwnKernel` unless it asks for another kernel that is there."""

    @classmethod
    def execute_notebook(cls, nb: NotebookNode, kernel_name: str, output_path: str | None = None,
                         **options: Any) -> NotebookNode:
        """Run a notebook and return it; `Refused` for a parameter that is wrong or missing."""
        opens = {found[1] for cell in nb.cells for found in OURS.finditer(cell.source)}
        if opens:
            try:
                nb = _prepared(nb, kernel_name, about_a_run=opens != {"score_params"},
                               write="open_session" in opens)
            except UserError as error:
                raise Refused(str(error)) from None
            # A notebook names the kernel of the machine that saved it, which may be none here.
            if kernel_name == NATIVE or (
                    kernel_name.lower() not in KernelSpecManager().find_kernel_specs()):
                from cddpm_core.runs.kernel import OwnKernel

                options["kernel_manager_class"] = OwnKernel
        return super().execute_notebook(nb, kernel_name, output_path=output_path, **options)


def _prepared(nb: NotebookNode, kernel_name: str, *, about_a_run: bool,
              write: bool) -> NotebookNode:
    """The notebook with its values converted and the paths of papermill; makes its folder."""
    from papermill.parameterize import parameterize_notebook

    from cddpm_core.config.cells import INPUT_PATH, OUTPUT_PATH
    from cddpm_core.config.environment import OUTPUTS
    from cddpm_core.config.presets import PATHS, absolute
    from cddpm_core.config.progress import HEADLESS
    from cddpm_core.config.schema import coerce
    from cddpm_core.config.score_params import PATHS as SCORE_PATHS
    from cddpm_core.config.score_params import ScoreParams
    from cddpm_core.runs.run import Run, run_name

    about, start = nb.metadata.papermill, _start()
    given = {key: value for key, value in {**about.get("parameters", {}),
                                           **_as_typed(start)}.items()
             if not key.startswith("PAPERMILL_")}
    output = _absolute(about.get("output_path"), start)
    if start != os.getcwd() and os.environ.get(OUTPUTS):
        os.environ[OUTPUTS] = absolute(os.environ[OUTPUTS], start)
    if about_a_run:
        given = {key: coerce(key, value) for key, value in given.items()}
        if given.get("run") or output and _names_no_run(nb):
            Run(run_name(given.get("run", ""), output, write=write))
    else:
        ScoreParams(**given)
    for key in (PATHS if about_a_run else (*SCORE_PATHS, "out")) if start != os.getcwd() else ():
        if given.get(key) and (about_a_run or key == "out" or os.path.exists(
                absolute(given[key], start))):
            given[key] = absolute(given[key], start)
    if output and "://" not in output:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
    if HEADLESS not in os.environ:  # a stage is told its run
        paths = {INPUT_PATH: about.get("input_path"), OUTPUT_PATH: output}
        given |= {key: path for key, path in paths.items() if isinstance(path, str)}
    hidden = all(cell.metadata.get("jupyter", {}).get("source_hidden")
                 for cell in nb.cells if cell.cell_type == "code")
    return parameterize_notebook(nb, given, hidden, kernel_name=kernel_name)


def _names_no_run(nb: NotebookNode) -> bool:
    first = [cell.source for cell in nb.cells if "parameters" in cell.metadata.get("tags", ())]
    return bool(re.search(r"""^run\b[^=]*=\s*(""|'')""", "\n".join(first), re.MULTILINE))


def _as_typed(start: str) -> Mapping[str, Any]:
    """What the command line of papermill was given, before papermill made numbers of it."""
    from cddpm_core.config.presets import parse_yaml, read_yaml

    context = click.get_current_context(silent=True)
    if context is None or context.command.name != "papermill":
        return {}
    found: dict[str, Any] = {}
    options = context.params
    for text in options["parameters_base64"]:
        found |= parse_yaml(base64.b64decode(text).decode(), "-b")
    for file in options["parameters_file"]:
        found |= (parse_yaml(papermill_io.read(file), file) if "://" in file else
                  read_yaml(Path(start, file)))
    for text in options["parameters_yaml"]:
        found |= parse_yaml(text, "-y")
    return found | dict(options["parameters"]) | dict(options["parameters_raw"])


def _start() -> str:
    """Where papermill was started, whichever --cwd the notebook has."""
    handler = papermill_io.get_handler("a.ipynb")
    start = handler.cwd(None)  # the handler knows it, and gives it away only in exchange
    handler.cwd(start)
    return start or os.getcwd()


def _absolute(output: str | None, start: str) -> str | None:
    """The path or address of the output; None if there is none, as for ``/dev/null``."""
    if not output or output == "-" or "://" in output:
        return output if output and "://" in output else None
    path = Path(start, output)
    return None if path.exists() and not path.is_file() else str(path)


papermill_engines.register(None, Engine)  # the engine that papermill takes if none is named
