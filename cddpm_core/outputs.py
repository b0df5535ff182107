"""How papermill writes below ``outputs/``: the folder of a new run is made first.

Papermill loads this by an entry point, whatever it runs, so it imports little.
"""

from __future__ import annotations

from pathlib import Path

from papermill.iorw import LocalHandler

__all__ = ["handler"]


class OutputsHandler(LocalHandler):
    """Papermill's handler of local files, for the paths that start with ``outputs``."""

    def write(self, buf: str, path: str) -> None:
        """Write a notebook to ``path``."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        super().write(buf, path)


handler = OutputsHandler()
