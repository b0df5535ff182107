"""The folder of one run: its files, written whole or not at all, and the state of its stages.

``outputs/<run>/`` is what the stages share and what other tools read.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cddpm_core.config.cells import INPUT_PATH, OUTPUT_PATH, cell_parameters
from cddpm_core.config.environment import CACHE, OUTPUTS
from cddpm_core.config.errors import UserError, did_you_mean, shown
from cddpm_core.config.files import (
    SCHEMA,
    check_schema,
    project_root,
    write_json,
    write_png,
    write_text,
)
from cddpm_core.config.presets import PATHS, absolute, read_yaml, to_yaml
from cddpm_core.config.progress import HEADLESS, headless
from cddpm_core.config.schema import FIELDS, Params, coerce, resolve
from cddpm_core.training.history import read_history

__all__ = ["OUTPUTS", "OWN_WORDS", "Run", "command", "open_run", "run_name", "word_files",
           "word_folders"]

DEFAULT_RUN = "quick"
OWN_WORDS = ("introduction", "discussion", "conclusion")  # Markdown files of the author
LONGEST = 200  # bytes of a name, which a file system allows with the endings of files


class Run:
    """The folder ``outputs/<name>`` and the files that other tools rely on."""

    def __init__(self, name: str, outputs: Path | None = None) -> None:
        if (not name.isprintable() or not re.fullmatch(r"[^ ./\\-][^/\\]*(?<! )", name)
                or len(name.encode()) > LONGEST or name == "cache"):
            raise UserError(f"run: found {shown(name)}, expected the name of a folder: at most "
                            f"{LONGEST} bytes, no '/', no '.' or '-' at the start, not 'cache'")
        self.name = name
        given, cache = os.environ.get(OUTPUTS), os.environ.get(CACHE)
        self.outputs = outputs or (Path(absolute(given)) if given else project_root() / "outputs")
        self.folder = self.outputs / name
        self.cache = Path(absolute(cache)) if cache else self.outputs / "cache"

    def __truediv__(self, part: str) -> Path:
        return self.folder / part

    def params(self) -> Params:
        """Return the parameters of this run; `UserError` if it does not exist."""
        if not (self / "params.yaml").exists():
            runs = [file.parent.name for file in self.outputs.glob("*/params.yaml")]
            raise UserError(f"{self / 'params.yaml'}: no such run{did_you_mean(self.name, runs)}, "
                            "expected one that 'python -m cddpm_core report' made")
        return resolve(read_yaml(self / "params.yaml"), str(self / "params.yaml"))

    def write_params(self, params: Params) -> None:
        """Write ``params.yaml``, the resolved parameters."""
        write_text(self / "params.yaml", to_yaml(params))

    def read(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the run, ``{}`` if it does not exist."""
        try:
            found = dict(json.loads((self / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
        except PermissionError as error:
            raise UserError(f"{self / name}: cannot be read ({error.strerror})") from None
        except (TypeError, ValueError):
            raise UserError(f"{self / name}: malformed JSON, remove it and run again") from None
        check_schema(found, self / name)
        return found

    def need(self, key: str, command: str) -> dict[str, Any]:
        """Return the part ``key`` of ``metrics.json``; `UserError` says which command makes it."""
        found = self.read("metrics.json")
        if key not in found:
            raise UserError(f"{self / 'metrics.json'}: no {key!r} yet, first run '{command}'")
        return found[key]

    def update_metrics(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Merge nested ``changes`` into ``metrics.json`` and return the whole."""
        metrics = _merge({"schema": SCHEMA, "run": self.name, **self.read("metrics.json")}, changes)
        write_json(self / "metrics.json", metrics)
        return metrics

    def stages(self) -> dict[str, dict[str, Any]]:
        """Return what ``status.json`` records of each stage."""
        return self.read("status.json").get("stages", {})

    def set_stage(self, stage: str, state: str, **more: Any) -> None:
        """Record the state of a stage in ``status.json``: running, done, failed, interrupted, or
        by hand, if somebody ran its notebook without the pipeline.

        A stage whose process was killed stays ``running``, with the ``pid`` of that process, until
        `interrupted` is called, which the pipeline does before it runs a stage.
        """
        status = {"schema": SCHEMA, "run": self.name, **self.read("status.json")}
        status.setdefault("stages", {})[stage] = {"state": state, **more}
        write_json(self / "status.json", status)

    def forget(self, stage: str) -> None:
        """Remove the results of a stage and its figures from what the report reads."""
        metrics, status = self.read("metrics.json"), self.read("status.json")
        metrics.pop(stage, None)
        status.get("stages", {}).pop(stage, None)
        for path in (self / "figures").glob(f"{stage}_*.png"):
            path.unlink()
        write_json(self / "metrics.json", metrics)
        write_json(self / "status.json", status)

    def interrupted(self) -> None:
        """Record that no stage is running any more; only the holder of the lock may call this."""
        for name, about in self.stages().items():
            if about["state"] == "running":
                self.set_stage(name, **{**about, "state": "interrupted"})

    def history(self) -> list[dict[str, Any]]:
        """Return the lines of ``history.jsonl``, oldest first."""
        return read_history(self.folder)

    def save_figure(self, figure: Any, name: str) -> Path:
        """Write a matplotlib figure to ``figures/<name>.png`` and return its path."""
        path = self / f"figures/{name}.png"
        write_png(path, figure)
        return path

    @contextlib.contextmanager
    def stage(self, name: str, **more: Any) -> Iterator[None]:
        """Keep ``status.json`` up to date while a stage runs: its state and its seconds."""
        started = time.monotonic()  # which does not go back when somebody sets the clock
        self.set_stage(name, "running", started=time.time(), pid=os.getpid(), **more)
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(UserError):  # a full disk, which is then the error itself
                self.set_stage(name, "failed", seconds=round(time.monotonic() - started, 1),
                               error=str(error)[:500], **more)
            raise
        self.set_stage(name, "done", seconds=round(time.monotonic() - started, 1),
                       finished=time.time(), **more)


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, where a part of ``new`` adds to that of ``old``; what is deeper is replaced."""
    return {**old, **{key: {**old[key], **value} if isinstance(value, Mapping)
                      and isinstance(old.get(key), Mapping) else value
                      for key, value in new.items()}}


def open_run(namespace: Mapping[str, Any], *, write: bool = True) -> tuple[Run, Params]:
    """Return the run and parameters of a notebook, given its ``globals()``; see `run_name`.

    A parameter that the notebook does not declare keeps the value of the run's ``params.yaml``, if
    there is one. Relative paths are relative to the working directory. ``params.yaml`` is written
    anew, and a stage whose notebook is run without the pipeline is recorded as run by hand; with
    ``write=False`` the run is only looked at.
    """
    values, paths = cell_parameters(namespace, Params)
    given = coerce("run", values.get("run"), "notebook parameters")
    run = Run(run_name(given, paths.get(OUTPUT_PATH), write=write))
    base = run.params().to_dict() if (run / "params.yaml").exists() else {}
    params = resolve({**base, **values, "run": run.name}, "notebook parameters")
    params = params.replace(**{key: absolute(getattr(params, key)) for key in PATHS})
    if write:
        run.write_params(params)
        # What JupyterLab and VS Code tell a kernel of its notebook.
        stage = Path(paths.get(INPUT_PATH) or os.environ.get("JPY_SESSION_NAME")
                     or namespace.get("__vsc_ipynb_file__", "")).stem
        if HEADLESS not in os.environ and (about := run.stages().get(stage)):
            run.set_stage(stage, **{**about, "state": "by hand", "finished": time.time()})
    return run, params


def run_name(given: str, output: str | None = None, *, write: bool = True) -> str:
    """Return the name of the run of a notebook: as given, else the folder papermill writes to.

    By hand, or if nothing is written, it is else ``quick``. Raises `UserError` if it is not known.
    """
    if given:
        return given
    if output:
        folder, outputs = Path(output).parent, Run(DEFAULT_RUN).outputs.resolve()
        there = folder.resolve()
        if there.parent == outputs != folder.parent.resolve():
            return there.name  # a link to the folder of a run
        if there not in (outputs, *outputs.parents, project_root().resolve() / "notebooks"):
            return folder.name
    if not write or not output and not headless():
        return DEFAULT_RUN
    raise UserError("run: expected a name, for " + (
        f"{output} is not in a folder that could be one, such as outputs/NAME/" if output else
        "the program that runs this notebook does not say where it writes it")
        + "; give papermill -p run NAME, or write run: str = \"NAME\" in the parameters cell")


def command(run: Run, stage: str) -> str:
    """Return the command that runs a stage of this run; an experiment comes with its report."""
    # A params file of the run's name may not be what the run was made of.
    given = project_root() / f"params/{run.name}.yaml"
    file = run / "params.yaml" if (run / "params.yaml").exists() or not given.exists() else given
    params = shlex.quote(os.path.relpath(file, project_root()))
    if stage in FIELDS["experiments"].choices:
        return f"python -m cddpm_core report --params {params} -p experiments '[{stage}]'"
    return f"python -m cddpm_core stage {stage} --params {params}"


def word_folders(run: Run, params: Params) -> list[Path]:
    """Return the folders with the author's words: the run's, then that of the parameter ``words``.

    Raises `UserError` if that is no folder.
    """
    given = params.words
    if given and not Path(given).is_dir():
        raise UserError(f"words: {given} is not a folder, expected one with "
                        f"{', '.join(f'{name}.md' for name in OWN_WORDS)}")
    return [run / "report", *([Path(given)] if given else [])]


def word_files(run: Run, params: Params) -> dict[str, Path]:
    """Return all files in these folders: texts, pictures, bibliographies.

    Their names begin with ``report/`` in the run's folder and with ``words/`` in the other.
    """
    folders = zip(("report", "words"), word_folders(run, params), strict=False)
    return {f"{name}/{path.relative_to(folder).as_posix()}": path
            for name, folder in folders for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")}
