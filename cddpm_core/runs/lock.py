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

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import remove_leftovers, write_json

__all__ = ["locked"]


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold the lock of a folder, so that no other process writes there meanwhile.

    The operating system holds ``.lock`` and releases it when the process ends, however it ends;
    ``holder.json`` names the process. A process whose ancestor holds the lock (the kernel of a
    stage, for example) shares it. Temporary files of killed processes are removed. Raises
    `UserError` that names the process which holds the lock.
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
                            f"({holder['command']}); wait for it to end, stop it, or choose "
                            "another run name")
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
        return {"pid": "unknown", "since": 0.0, "host": "unknown host",
                "command": "unknown command"}
