"""``python -m cddpm_core bench``: speed, on this machine or on a GPU.

What it needs is imported inside it, so that a mistake is named before torch is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from cddpm_core.config.errors import UserError

__all__ = ["bench_command"]


@click.command("bench")
@click.option("--run", "run_name", default="quick", show_default=True, help="The run.")
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
        raise UserError(f"minutes: expected 0 or more, found {minutes}")
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
