"""The folder of one run: its files, written whole or not at all, and its progress.

``outputs/<run>/`` is what the stages share and what other tools read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm
from tqdm.auto import tqdm as auto_tqdm

from cddpm_core.errors import UserError, shown
from cddpm_core.params import BEFORE, Params, from_notebook, resolve
from cddpm_core.presets import read_yaml, to_yaml

__all__ = ["Run", "atomic", "by_hand", "check_schema", "headless", "open_run", "progress",
           "project_root", "remove_leftovers", "unwritable", "write_json"]

SCHEMA = 1
HEADLESS = "CDDPM_HEADLESS"  # set while the pipeline runs a notebook
OUTPUTS = "CDDPM_OUTPUTS"  # another place for outputs/, a larger disk for instance
DEFAULT_RUN = "quick"
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}


def project_root() -> Path:
    """Return the folder that holds ``notebooks/`` and ``params/``: the checkout, else the
    nearest such folder at or above the working directory, else that directory itself."""
    here = Path.cwd()
    for folder in (Path(__file__).resolve().parents[1], here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed to ``path``.

    If a folder has been made there, each of its files is renamed to its place in ``path``.
    Raises `UserError` if the disk is full or may not be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir():
            for file in sorted(f for f in temporary.rglob("*") if f.is_file()):
                place = path / file.relative_to(temporary)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, place)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise unwritable(error, path) from None
    finally:
        _remove(temporary)


def unwritable(error: OSError, path: str | Path) -> UserError | OSError:
    """Return what to raise instead of an error: a sentence if a disk is full, say, else itself."""
    if error.errno not in UNWRITABLE:
        return error
    return UserError(f"{path}: cannot be written ({error.strerror}); mend that and give the same "
                     "command again")


def check_schema(found: Mapping[str, Any], path: Path) -> None:
    """Raise `UserError` if a file was written by a later version of this package."""
    schema = found.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema != SCHEMA:
        raise UserError(f"{path}: expected schema {SCHEMA}, found {shown(schema)}; it was "
                        "written by another version of this package")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed had not yet renamed to its place."""
    for path in [*folder.rglob(".*.tmp"), *folder.glob(".*.running.ipynb")]:
        pid = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if not psutil.pid_exists(int(pid[1])) if pid else path.suffix == ".ipynb":
            _remove(path)


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n",
                             encoding="utf-8")


def _parent_command() -> list[str]:
    try:
        return psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return []


def _papermill_output() -> Path | None:
    """The output notebook of the ``papermill`` command this kernel was started by, if any."""
    command = _parent_command()
    notebooks = [Path(word) for word in command if word.endswith(".ipynb")]
    if any("papermill" in Path(word).name for word in command[:3]) and len(notebooks) == 2:
        return notebooks[1].absolute()
    return None


def headless() -> bool:
    """True in a kernel that papermill drives, where nobody watches a live widget."""
    return HEADLESS in os.environ or _papermill_output() is not None


def by_hand() -> bool:
    """True in a kernel whose notebook somebody is looking at."""
    return "ipykernel" in sys.modules and not headless()


def progress(**options: Any) -> tqdm:
    """Return a progress bar: a live widget by hand in Jupyter, plain text elsewhere.

    Under papermill the bar is refreshed every few seconds only, so that a log
    stays readable. Options are those of `tqdm.tqdm`.
    """
    watched = by_hand()
    if not watched:
        options.setdefault("mininterval", 0.5 if sys.stderr.isatty() else 5.0)
    options.setdefault("dynamic_ncols", True)
    return (auto_tqdm if watched else tqdm)(**options)


class Run:
    """The folder ``outputs/<name>`` and the files that other tools rely on."""

    def __init__(self, name: str, outputs: Path | None = None) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name) or name == "cache":
            raise UserError(f"run: found {name!r}, expected a folder name of letters, digits, "
                            "'_', '-' and '.', without any path, other than 'cache'")
        self.name = name
        self.outputs = outputs or Path(os.environ.get(OUTPUTS) or project_root() / "outputs")
        self.folder = self.outputs / name
        self.cache = self.outputs / "cache"

    def __truediv__(self, part: str) -> Path:
        return self.folder / part

    def params(self) -> Params:
        """Return the parameters this run was made with; `UserError` if it has not begun."""
        if not (self / "params.yaml").exists():
            raise UserError(f"{self / 'params.yaml'}: no such run, make it with "
                            f"'make report PARAMS=params/{self.name}.yaml'")
        values = {**BEFORE, **read_yaml(self / "params.yaml")}
        return resolve(values, str(self / "params.yaml"))

    def write_params(self, params: Params) -> None:
        """Write ``params.yaml``, the resolved parameters."""
        with atomic(self / "params.yaml") as temporary:
            temporary.write_text(to_yaml(params), encoding="utf-8")

    def read(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the run, ``{}`` if there is none yet."""
        try:
            found = dict(json.loads((self / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}
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

    def set_stage(self, stage: str, state: str, **more: Any) -> None:
        """Record the state of a stage in ``status.json``: running, done, failed or interrupted.

        A stage whose process was killed is ``running``, with the ``pid`` of that process, until
        `interrupted` is called, which the pipeline does before it runs a stage.
        """
        status = {"schema": SCHEMA, "run": self.name, **self.read("status.json")}
        status.setdefault("stages", {})[stage] = {"state": state, **more}
        write_json(self / "status.json", status)

    def forget(self, stage: str) -> None:
        """Take what a stage found, and its figures, out of what the report reads."""
        metrics, status = self.read("metrics.json"), self.read("status.json")
        metrics.pop(stage, None)
        status.get("stages", {}).pop(stage, None)
        for path in (self / "figures").glob(f"{stage}_*.png"):
            path.unlink()
        write_json(self / "metrics.json", metrics)
        write_json(self / "status.json", status)

    def interrupted(self) -> None:
        """Record that no stage runs any more, to be called by who holds the folder alone."""
        for name, about in self.read("status.json").get("stages", {}).items():
            if about["state"] == "running":
                self.set_stage(name, **{**about, "state": "interrupted"})

    def history(self) -> list[dict[str, Any]]:
        """Return the lines of ``history.jsonl``, oldest first."""
        if not (self / "history.jsonl").exists():
            return []
        try:
            # What follows the last line break is empty, or torn by a sudden end.
            *lines, _ = (self / "history.jsonl").read_text(encoding="utf-8").split("\n")
            found = [dict(json.loads(line)) for line in lines]
            if any(not isinstance(line["step"], int) for line in found):
                raise ValueError
            return found
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{self / 'history.jsonl'}: malformed JSON lines, remove it and run "
                            "again") from None

    def save_figure(self, figure: Any, name: str) -> Path:
        """Write a matplotlib figure to ``figures/<name>.png`` and return its path."""
        path = self / f"figures/{name}.png"
        with atomic(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
        return path

    @contextlib.contextmanager
    def stage(self, name: str, **more: Any) -> Iterator[None]:
        """Keep ``status.json`` true while a stage runs: its state and its seconds."""
        started = time.time()
        self.set_stage(name, "running", started=started, pid=os.getpid(), **more)
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(UserError):  # a full disk, say, which is the error already
                self.set_stage(name, "failed", seconds=round(time.time() - started, 1),
                               error=str(error)[:500], **more)
            raise
        self.set_stage(name, "done", seconds=round(time.time() - started, 1), **more)


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def open_run(namespace: Mapping[str, Any], *, write: bool = True) -> tuple[Run, Params]:
    """Return the run and parameters of a notebook, given its ``globals()``.

    Call it in the cell after the parameters cell. The run's name is the
    parameter ``run``; empty, it is the folder papermill writes the notebook
    to, or ``quick`` by hand. A key the notebook does not declare keeps the
    value of the run's ``params.yaml``, if there is one. That file is written anew, unless
    ``write`` is false: for a notebook that looks at a run and adds nothing to it.
    """
    given, output = namespace.get("run"), _papermill_output()
    if isinstance(given, Run):  # the cell is run again, and run names its result by now
        given = given.name
    run = Run(str(given or (output.parent.name if output else DEFAULT_RUN)))
    base = run.params().to_dict() if (run / "params.yaml").exists() else {}
    params = from_notebook({**namespace, "run": run.name}, base)
    if write:
        run.write_params(params)
    return run, params
