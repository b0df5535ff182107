"""The commands ``bench``, ``import``, ``lab`` and ``submission``, and options that several have.

What a command needs is imported inside it, so that a mistake is named before torch is loaded.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import click

from cddpm_core.config.environment import own_environment
from cddpm_core.config.errors import UserError
from cddpm_core.config.files import project_root, typed_path
from cddpm_core.config.presets import read_params

__all__ = ["CHANGE", "COMMANDS", "DATA", "EVALUATOR", "NEW_RUN", "RUN"]

CHANGE = click.option("-p", "changes", nargs=2, multiple=True, metavar="KEY VALUE",
                      help="Change one parameter; may be repeated.")
DATA = click.option("--data", default="", metavar="DIR", help="The real i-CLEVR data.")
EVALUATOR = click.option("--evaluator", default="", metavar="FILE",
                         help="The official checkpoint.pth, or a private stand-in.")
NEW_RUN = click.option("--run", default="", help="Run name; default: stem of the params file.")
RUN = click.option("--run", "run_name", default="quick", show_default=True, help="The run.")


@click.command("bench")
@RUN
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True,
              help="Repetitions of each variant.")
@click.option("--minutes", type=float, default=None,
              help="Minutes of training per recipe, 3 by default, 0: no recipes; with --gpu of all "
              "parts together, 8 by default.")
@click.option("--gpu", is_flag=True, help="Instead: seed.yaml and full.yaml on this device, and "
              "the tests of GPUs; also where only torch and diffusers are installed.")
@click.option("--part", "parts", multiple=True, type=click.Choice(["tests", "seed", "full"]),
              help="Of --gpu: only this part; may be repeated.")
def bench_command(run_name: str, repeats: int, minutes: float | None, gpu: bool,
                  parts: Sequence[str]) -> None:
    """Measure speed as ratios, with the network of a trained run."""
    minutes = (8.0 if gpu else 3.0) if minutes is None else minutes
    if not 0 <= minutes < 1e6:
        raise UserError(f"--minutes: expected 0 to below 1,000,000, found {minutes:g}")
    if parts and not gpu:
        raise UserError("--part: it is a part of --gpu, expected both, found --part alone")
    if gpu:
        from cddpm_core.bench.gpu import run_gpu_bench

        print(os.path.relpath(run_gpu_bench(parts, minutes)))
        return
    from cddpm_core.bench.run import run_bench
    from cddpm_core.report.summary import bench_lines
    from cddpm_core.runs.run import Run

    out = Run("bench")
    results = run_bench(Run(run_name), out, repeats=repeats, minutes=minutes)
    print(*bench_lines(results), os.path.relpath(out / "bench.json"), sep="\n")


@click.command("import")
@click.argument("checkpoint")
@click.option("--params", "file", default="", metavar="FILE",
              help="The params file that describes the model; default: the params.yaml beside it.")
@NEW_RUN
@DATA
@EVALUATOR
@CHANGE
def import_command(checkpoint: str, file: str, changes: Any, **options: str) -> None:
    """Make a run of a model that was trained elsewhere, to sample, score and report it.

    CHECKPOINT is a run's folder, its model/ or checkpoint.pt, weights of the original report's
    network (--params params/seed.yaml), or a folder that diffusers saved.
    """
    from cddpm_core.model.loading import load_component
    from cddpm_core.model.network import ClassConditionedUnet
    from cddpm_core.report.diagram import network_diagram
    from cddpm_core.runs.importing import import_model, imported, params_of

    file = file or str(params_of(typed_path(checkpoint)))
    run = import_model(checkpoint, read_params(file, changes, **options))
    unet = load_component(ClassConditionedUnet, run / "model/unet")
    run.save_figure(network_diagram(unet.config), "network")
    about = imported(run)
    print(f"{os.path.relpath(run.folder)}: imported from {about['file']}"
          + (f", {about['where']}" if about["where"] else ""))
    params = shlex.quote(os.path.relpath(run / "params.yaml"))
    print(f"now: python -m cddpm_core report --params {params}")


@click.command("submission")
@RUN
@click.option("--check", is_flag=True, help="Only list what the course asks for and the run lacks.")
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


COMMANDS = (bench_command, import_command, lab_command, submission_command)
