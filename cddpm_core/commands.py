"""The commands ``bench``, ``import``, ``lab``, ``sample`` and ``submission``, and shared options.

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


@click.command("sample")
@click.argument("objects", nargs=-1, required=True, metavar="OBJECTS...")
@click.option("--run", "run_name", default="", metavar="NAME",
              help="The run whose model samples; default: the weights in the package.")
@click.option("--images", "count", type=click.IntRange(1, 256), default=4, show_default=True,
              help="Number of images, each with a seed of its own.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option("--out", default="sample.png", show_default=True, metavar="FILE")
def sample_command(objects: Sequence[str], run_name: str, count: int, seed: int, out: str) -> None:
    """Sample images of OBJECTS, such as "red sphere" "cyan cube"."""
    from cddpm_core.config.files import write_png
    from cddpm_core.data.labels import check_names
    from cddpm_core.runs.pretrained import pretrained_run
    from cddpm_core.runs.run import Run

    names = check_names(list(objects), "objects")
    run = Run(run_name) if run_name else pretrained_run()
    params = run.params()
    from cddpm_core.config.device import device_of
    from cddpm_core.data.labels import to_multi_hot
    from cddpm_core.evaluation.images import grid_image
    from cddpm_core.evaluation.stand_in import load_evaluator
    from cddpm_core.sampling.pipeline import load_pipeline
    from cddpm_core.sampling.sample import image_seeds, sample, sampling_options

    pipeline = load_pipeline(run / "model", device_of(params))
    pipeline.unet.check_labels(to_multi_hot(names)[None])
    evaluator = (load_evaluator(params.evaluator, device_of(params))
                 if params.evaluator_guidance else None)
    images = sample(pipeline, to_multi_hot(names).repeat(count, 1), image_seeds(seed, count),
                    **sampling_options(pipeline, params, evaluator))
    write_png(out, grid_image(images, per_row=min(count, 8)))
    print(out)


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


COMMANDS = (bench_command, import_command, lab_command, sample_command, submission_command)
