"""How papermill writes below ``outputs/``: parameters are checked and a new run's folder is made.

Papermill loads this by an entry point, whatever it runs, so it imports little. It writes a notebook
before its first cell runs, which is when a mistyped parameter is best named.
"""

from __future__ import annotations

import json
from pathlib import Path

from click import ClickException
from papermill.iorw import LocalHandler

__all__ = ["handler"]


class OutputsHandler(LocalHandler):
    """Papermill's handler of local files, for the paths that start with ``outputs``."""

    def write(self, buf: str, path: str) -> None:
        """Write a notebook to ``path``.

        Raises `ClickException`, which papermill's command line prints as one sentence, if it is
        a notebook of this package with an unknown parameter or a value of the wrong type.
        """
        if "run, p = open_" in buf:
            _check(json.loads(buf))
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        super().write(buf, path)


def _check(notebook: dict) -> None:
    from cddpm_core.errors import UserError
    from cddpm_core.params import coerce

    try:
        for key, value in notebook["metadata"]["papermill"]["parameters"].items():
            coerce(key, value)
    except KeyError:  # not parameterised by papermill
        return
    except UserError as error:
        raise ClickException(str(error)) from None


handler = OutputsHandler()
