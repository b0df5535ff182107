"""The commands ``lab`` and ``submission``, which train and compute nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import click

from cddpm_core.config.environment import own_environment
from cddpm_core.config.files import project_root

__all__ = ["lab_command", "submission_command"]


@click.command("submission")
@click.option("--run", "run_name", default="quick", show_default=True, help="The run.")
@click.option("--check", is_flag=True, help="Only say what the course's rules still miss.")
def submission_command(run_name: str, check: bool) -> None:
    """Pack report, code and images of a run into one zip, as the course asks."""
    from cddpm_core.runs.run import Run
    from cddpm_core.runs.submission import check_submission, write_submission

    run = Run(run_name)
    print(*check_submission(run) or ["nothing that the course asks for is missing"], sep="\n")
    if not check:
        print(os.path.relpath(write_submission(run)))


@click.command("lab", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[JUPYTER ARGUMENTS]...")
def lab_command(more: Sequence[str]) -> int:
    """Open JupyterLab on the notebooks; all further arguments go to it."""
    # Its root is that of the project, so that outputs/ is inside it. Jupyter refuses to run as
    # root, the usual user of a container, without its option.
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    # The kernel of this interpreter comes before one of the same name elsewhere.
    kernels = os.pathsep.join(filter(None, [f"{sys.prefix}/share/jupyter",
                                            os.environ.get("JUPYTER_PATH")]))
    return subprocess.call([sys.executable, "-P", "-m", "jupyter", "lab", *root,
                            "--LabApp.default_url=/lab/tree/notebooks", *more],
                           cwd=project_root(),
                           env={**os.environ, **own_environment(), "JUPYTER_PATH": kernels})
