"""The command ``python -m cddpm_core import``: a model that was trained elsewhere as a run."""

from __future__ import annotations

import os
import shlex
from typing import Any

import click

from cddpm_core.config.files import typed_path
from cddpm_core.config.presets import read_params

__all__ = ["import_command"]


@click.command("import")
@click.argument("checkpoint")
@click.option("--params", "file", default="", metavar="FILE",
              help="The params file that describes the model; default: the params.yaml beside it.")
@click.option("--run", default="", help="Run name; default: stem of the params file.")
@click.option("--data", default="", metavar="DIR", help="The real i-CLEVR data.")
@click.option("--evaluator", default="", metavar="FILE",
              help="The official checkpoint.pth, or a private stand-in.")
@click.option("-p", "changes", nargs=2, multiple=True, metavar="KEY VALUE",
              help="Change one parameter; may be repeated.")
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
