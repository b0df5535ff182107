"""One process at a time in the folder of a run."""

from __future__ import annotations

import contextlib
import errno
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

# What a file system without locks says, such as some network drives.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold the lock of a folder, so that no other process writes there meanwhile.

    The operating system holds ``.lock`` and releases it when the process ends, however it ends;
    ``holder.json`` names the process, and alone counts where files cannot be locked. A process
    whose ancestor holds the lock (the kernel of a stage, for example) shares it. Temporary files of
    killed processes are removed. Raises `UserError` that names the process which holds the lock.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # in /proc, say
        raise UserError(f"{folder}: no folder can be made there ({error.strerror}), expected "
                        "outputs in another one") from None
    about = folder / "holder.json"
    lock = FileLock(folder / ".lock", fallback_to_soft=False)  # the note below is the fallback
    me, here, hint = psutil.Process(), socket.gethostname(), "stop it"
    holder = None
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = _read(about)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        hint = f"remove {about} if it does not run any more"
        found = _read(about)
        if found["host"] == here and psutil.pid_exists(found["pid"]) or (
                about.exists() and found["host"] != here):
            holder = found
    if holder:
        # Not by the time a process started, which moves when somebody sets the clock.
        if (holder["host"], holder["pid"]) not in [(here, p.pid) for p in (me, *me.parents())]:
            raise UserError(f"{folder}: in use by process {holder['pid']} on {holder['host']} "
                            f"({holder['command']}); wait for it to end, {hint}, or choose "
                            "another run name")
        yield
        return
    try:
        remove_leftovers(folder)
        write_json(about, {"pid": me.pid, "host": here,
                           "command": " ".join(" ".join(me.cmdline()).split())[:200]})
        yield
    finally:
        about.unlink(missing_ok=True)
        lock.release()


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"pid": int(found["pid"]), "host": str(found["host"]),
                "command": str(found["command"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"pid": "unknown", "host": "unknown host", "command": "unknown command"}
