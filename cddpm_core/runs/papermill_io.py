"""How papermill writes below ``outputs/``: it checks the parameters and makes a new run's folder.

Papermill loads this module by an entry point for any notebook, so it imports little. It writes a
notebook before the first cell runs, which is the best moment to report a mistyped parameter.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from click import ClickException
from papermill.iorw import LocalHandler

__all__ = ["handler"]

OURS = re.compile(r"(open_session|open_trained|score_params)\(globals\(\)")  # only ours say so


class OutputsHandler(LocalHandler):
    """Papermill's handler of local files, for paths that start with ``outputs``."""

    def write(self, buf: str, path: str) -> None:
        """Write a notebook to ``path``.

        Raises `ClickException`, which papermill's command line prints as one sentence, if it is
        a notebook of this package with an unknown parameter or a value of the wrong type.
        """
        if found := OURS.search(buf):
            _check(json.loads(buf), about_a_run=found[1] != "score_params")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        super().write(buf, path)


def _check(notebook: dict, about_a_run: bool) -> None:
    from cddpm_core.config.errors import UserError
    from cddpm_core.config.schema import coerce
    from cddpm_core.config.score_params import ScoreParams

    try:
        given = notebook["metadata"]["papermill"]["parameters"]
        if not about_a_run:
            ScoreParams(**given)
            return
        for key, value in given.items():
            coerce(key, value)
    except KeyError:  # no parameters were given
        return
    except UserError as error:
        raise ClickException(str(error)) from None


handler = OutputsHandler()
