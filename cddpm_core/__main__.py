"""The command line: ``python -m cddpm_core <command>``.

What a command needs is imported inside it, so that a mistake is named before torch is loaded.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from cddpm_core.commands import CHANGE, COMMANDS, DATA, EVALUATOR, NEW_RUN, RUN
from cddpm_core.config.environment import own_environment, settle
from cddpm_core.config.errors import UserError
from cddpm_core.config.files import project_root, unwritable
from cddpm_core.config.presets import read_params
from cddpm_core.config.schema import Params
from cddpm_core.evaluator_commands import evaluator_commands, score_command

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; a user's mistake is one sentence and 2."""
    try:
        try:
            return commands.main(arguments, "python -m cddpm_core", standalone_mode=False) or 0
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "python -m cddpm_core"
            raise UserError(f"{error.format_message()} See {path} --help.") from None
        except OSError as error:
            raise unwritable(error, error.filename or "outputs") from None
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, click.Abort):
        print("Stopped. What is finished is kept; give the same command again to continue.",
              file=sys.stderr)
        return 130


FORCE = click.option("--force", is_flag=True, help="Run all stages again and train anew; the "
                     "earlier training is kept.")


def _parameters(command: Callable) -> Callable:
    """Give a command the options of `read_params`, and its `Params` as first argument."""
    @click.option("--params", "file", default="params/quick.yaml", show_default=True,
                  metavar="FILE", help="The params file.")
    @NEW_RUN
    @DATA
    @EVALUATOR
    @CHANGE
    @functools.wraps(command)
    def wrapped(file: str, changes: Any, run: str, data: str, evaluator: str,
                **options: Any) -> None:
        command(read_params(file, changes, run=run, data=data, evaluator=evaluator,
                            words=bool(options.get("init"))), **options)

    return wrapped


@click.group(no_args_is_help=False)
def commands() -> None:
    """Conditional DDPM on i-CLEVR, from the data to the report."""


@commands.command()
@_parameters
@FORCE
@click.option("--init", is_flag=True, help="Only write files for your own introduction, "
              "discussion and conclusion, with hints.")
def report(params: Params, force: bool, init: bool) -> None:
    """Run all stages, with the experiments of the params file, and write the report."""
    if init:
        from cddpm_core.report.author import init_words

        print(*map(os.path.relpath, init_words(params.words)), sep="\n")
        return
    from cddpm_core.report.summary import run_lines
    from cddpm_core.runs.stages import run_stages, with_needs

    run = run_stages(with_needs("report", params.experiments), params, force=force)
    pages = _export(run)
    print(*run_lines(run.read("metrics.json")), *pages, sep="\n")


def _export(run: Any) -> list[str]:
    """Write both reports of a run and its manifest, which comes last; return the reports' paths."""
    from cddpm_core.report.export import export_report
    from cddpm_core.runs.manifest import write_manifest

    pages = export_report(run / "report.ipynb", run)
    write_manifest(run, run.params())
    return [os.path.relpath(page) for page in pages]


@commands.command()
@click.argument("stage")
@_parameters
@FORCE
def stage(params: Params, stage: str, force: bool) -> None:
    """Run one stage and the stages it needs.

    A stage is a notebook's name, such as evaluate; all are listed in notebooks/README.md.
    """
    from cddpm_core.runs.stages import run_stages, with_needs

    run = run_stages(with_needs(stage, params.experiments), params, force=force)
    if stage == "report":
        _export(run)
    if (run / f"{stage}.ipynb").exists():  # not after a model was imported
        print(os.path.relpath(run / f"{stage}.ipynb"))


@commands.command()
@_parameters
def train(params: Params) -> None:
    """Train only. For several processes: accelerate launch -m cddpm_core train."""
    from cddpm_core.runs.train import train_run

    train_run(params)


class _ManySeeds(click.Command):
    """A command whose option --seeds takes all the numbers that follow it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        found: list[str] = []
        for word in args:
            if word.isdigit() and found[-2:-1] == ["--seeds"]:
                found.append("--seeds")
            found.append(word)
        return super().parse_args(ctx, found)


@commands.command(cls=_ManySeeds)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--seeds", type=int, multiple=True, metavar="SEED...",
              help="Seeds of each; default: its own.")
@CHANGE
def sweep(files: Sequence[str], seeds: Sequence[int], changes: Any) -> None:
    """Train and evaluate several params files, and report the first compared with the others."""
    presets = [read_params(file, changes) for file in files]
    from cddpm_core.runs.sweep import run_sweep

    print(*_export(run_sweep(presets, seeds)), sep="\n")


@commands.command()
@RUN
def verify(run_name: str) -> None:
    """Compare a run's files with the hashes of its manifest."""
    from cddpm_core.runs.manifest import verify
    from cddpm_core.runs.run import Run

    run = Run(run_name)
    faults = verify(run)
    if faults:
        print(*faults, sep="\n")
        raise UserError(f"{run.folder}: files and inputs that are not as manifest.json says: "
                        f"{len(faults)}")
    print(f"{os.path.relpath(run.folder)}: every file is as manifest.json says")


@commands.command()
@RUN
def pack(run_name: str) -> None:
    """Make a trained run the one whose weights come with the package."""
    from cddpm_core.report.summary import accuracy_lines
    from cddpm_core.runs.pretrained import pack
    from cddpm_core.runs.run import Run

    packed = pack(Run(run_name))
    print(*accuracy_lines(packed.read("metrics.json")), os.path.relpath(packed.folder), sep="\n")


@commands.command()
def manual() -> None:
    """Write params/README.md and the parameters cells of the notebooks from the schema."""
    from cddpm_core.config.manual import write_manual

    changed = [os.path.relpath(path) for path in write_manual(project_root())]
    print(*changed or ["nothing has changed"], sep="\n")


@commands.command()
def results() -> None:
    """Write outputs/README.md, the results of all runs."""
    from cddpm_core.report.results import write_results

    print(os.path.relpath(write_results()))


@commands.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[PYTEST ARGUMENTS]...")
def test(more: Sequence[str]) -> int:
    """Run the tests; all further arguments go to pytest."""
    # Many tests wait for a kernel to start, so files are spread over processes, one per core, in
    # the order that tests/conftest.py gives them.
    workers = str(min(4, os.cpu_count() or 1))
    return subprocess.call([sys.executable, "-m", "pytest", "-n", workers, "--dist",
                            "loadfile", "--no-loadscope-reorder", *more], cwd=project_root(),
                           env=os.environ | own_environment())


for command in (*COMMANDS, evaluator_commands, score_command):
    commands.add_command(command)

if __name__ == "__main__":
    settle()
    sys.exit(main())
