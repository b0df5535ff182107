"""One process at a time in the folder of a run."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from cddpm_core.errors import UserError
from cddpm_core.runs import remove_leftovers, write_json

__all__ = ["locked"]


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold a folder, so that no other process writes there meanwhile.

    The operating system holds ``.lock`` and lets go of it when the process ends in
    whatever way; ``holder.json`` says who that is. A process with an ancestor that holds
    the folder (a kernel of the pipeline, say) shares it. Raises `UserError` that names
    the process which holds it. What a killed process had half written is removed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "holder.json"
    lock = FileLock(folder / ".lock")
    me = psutil.Process()
    with contextlib.suppress(Timeout):
        lock.acquire(blocking=False)
    if not lock.is_locked:
        holder = _read(about)
        if (holder["pid"], holder["since"]) not in [(p.pid, p.create_time())
                                                    for p in (me, *me.parents())]:
            raise UserError(f"{folder}: in use by process {holder['pid']} on {holder['host']} "
                            f"({holder['command']}); wait until it ends, end it, or take another "
                            "run name")
        yield
        return
    try:
        remove_leftovers(folder)
        write_json(about, {"pid": me.pid, "since": me.create_time(), "host": socket.gethostname(),
                           "command": " ".join(" ".join(me.cmdline()).split())[:200]})
        yield
    finally:
        about.unlink(missing_ok=True)
        lock.release()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"pid": int(found["pid"]), "since": float(found["since"]),
                "host": str(found["host"]), "command": str(found["command"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"pid": "unknown", "since": 0.0, "host": "some machine", "command": "not told yet"}
