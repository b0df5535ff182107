"""The folder of one run: its files, written whole or not at all, and the state of its stages.

``outputs/<run>/`` is what the stages share and what other tools read.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import SCHEMA, atomic, check_schema, project_root, write_json
from cddpm_core.config.presets import PATHS, absolute, read_yaml, to_yaml
from cddpm_core.config.progress import HEADLESS, papermill_output
from cddpm_core.config.schema import FIELDS, Params, from_notebook, resolve

__all__ = ["OUTPUTS", "Run", "command", "open_run"]

OUTPUTS = "CDDPM_OUTPUTS"  # environment variable: another folder for outputs/, on a larger disk
DEFAULT_RUN = "quick"


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
        """Return the parameters of this run; `UserError` if it does not exist."""
        if not (self / "params.yaml").exists():
            raise UserError(f"{self / 'params.yaml'}: no such run, make it with "
                            f"'make report PARAMS=params/{self.name}.yaml'")
        return resolve(read_yaml(self / "params.yaml"), str(self / "params.yaml"))

    def write_params(self, params: Params) -> None:
        """Write ``params.yaml``, the resolved parameters."""
        with atomic(self / "params.yaml") as temporary:
            temporary.write_text(to_yaml(params), encoding="utf-8")

    def read(self, name: str) -> dict[str, Any]:
        """Return a JSON file of the run, ``{}`` if it does not exist."""
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
        from cddpm_core.training.history import read_history

        return read_history(self.folder)

    def save_figure(self, figure: Any, name: str) -> Path:
        """Write a matplotlib figure to ``figures/<name>.png`` and return its path."""
        path = self / f"figures/{name}.png"
        with atomic(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
        return path

    @contextlib.contextmanager
    def stage(self, name: str, **more: Any) -> Iterator[None]:
        """Keep ``status.json`` up to date while a stage runs: its state and its seconds."""
        started = time.time()
        self.set_stage(name, "running", started=started, pid=os.getpid(), **more)
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(UserError):  # a full disk, which is then the error itself
                self.set_stage(name, "failed", seconds=round(time.time() - started, 1),
                               error=str(error)[:500], **more)
            raise
        self.set_stage(name, "done", seconds=round(time.time() - started, 1),
                       finished=time.time(), **more)


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def open_run(namespace: Mapping[str, Any], *, write: bool = True) -> tuple[Run, Params]:
    """Return the run and parameters of a notebook, given its ``globals()``.

    The name of the run is the parameter ``run``; if that is empty, the folder to which papermill
    writes the notebook, else ``quick``. A parameter that the notebook does not declare keeps the
    value of the run's ``params.yaml``, if there is one. Relative paths are relative to the working
    directory. ``params.yaml`` is written anew, and a stage whose notebook is run without the
    pipeline is recorded as run by hand; with ``write=False`` the run is only looked at.
    """
    given, output = namespace.get("run"), papermill_output()
    if isinstance(given, Run):  # the cell is run again, after `run` was bound to its result
        given = given.name
    run = Run(str(given or (output.parent.name if output else DEFAULT_RUN)))
    base = run.params().to_dict() if (run / "params.yaml").exists() else {}
    params = from_notebook({**namespace, "run": run.name}, base)
    params = params.replace(**{key: absolute(getattr(params, key)) for key in PATHS})
    if write:
        run.write_params(params)
        # Jupyter tells a kernel the path of its notebook by this variable.
        stage = (output or Path(os.environ.get("JPY_SESSION_NAME", ""))).stem
        if HEADLESS not in os.environ and (about := run.stages().get(stage)):
            run.set_stage(stage, **{**about, "state": "by hand", "finished": time.time()})
    return run, params


def command(run: Run, stage: str) -> str:
    """Return the command that runs a stage of this run; an experiment comes with its report."""
    params = f"params/{run.name}.yaml"
    if not (project_root() / params).exists():
        params = os.path.relpath(run / "params.yaml", project_root())
    if stage in FIELDS["experiments"].choices:
        return f"python -m cddpm_core report --params {params} -p experiments '[{stage}]'"
    return f"python -m cddpm_core stage {stage} --params {params}"
