"""The commands about evaluators, ``python -m cddpm_core evaluator <command>``, and ``score``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import typed_path, write_json, write_png
from cddpm_core.config.schema import Params
from cddpm_core.config.score_params import SCORE_FIELDS, ScoreParams

__all__ = ["evaluator_commands", "score_command"]


def _options(*keys: str) -> Callable:
    """Give a command options for parameters of `ScoreParams`, which checks their values."""
    def wrap(command: Callable) -> Callable:
        for key in reversed(keys):
            field = SCORE_FIELDS[key]
            command = click.option(
                f"--{key}", default=field.default, type=str, show_default=field.default != "",
                help=f"{field.help}.",
                metavar="|".join(field.choices) or {"int": "NUMBER"}.get(field.type, "TEXT"),
            )(command)
        return command
    return wrap


@click.command("score")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@_options("conditions", "evaluator", "cell", "padding", "columns", "tone", "out")
def score_command(images: tuple[str, ...], **options: Any) -> None:
    """Score images made elsewhere.

    IMAGES is a folder with 0.png, 1.png, ..., a grid as make_grid writes it, several files, or
    a text or JSON file that lists them.
    """
    params = ScoreParams(**options)
    from cddpm_core.evaluation.given_images import read_images
    from cddpm_core.evaluation.given_score import given_conditions, score_given
    from cddpm_core.report.given_scores import score_folder, score_lines, write_score

    wanted = given_conditions(params.conditions)[1]
    given = read_images(images, expected=len(wanted), **params.grid())
    result = score_given(given, params.conditions, params.evaluator, tone=params.tone)
    source = images[0] if len(images) == 1 else Path(images[0]).parent
    out = params.out or score_folder(source, params.conditions)
    if typed_path(out).absolute() == typed_path(source).absolute():
        raise UserError(f"--out: {out} has the images, expected another folder")
    paths = write_score(given, result, out)
    print(*score_lines(result), *map(os.path.relpath, paths), sep="\n")


@click.group("evaluator", no_args_is_help=False)
def evaluator_commands() -> None:
    """The stand-in evaluator."""


@evaluator_commands.command("train")
@click.option("--out", default="", metavar="FILE",
              help="Where to write it; default: outputs/evaluator/seed<SEED>.safetensors.")
@click.option("--release", is_flag=True, help="Replace the one that comes with the package.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, show_default=True)
@click.option("--images", "num_images", type=click.IntRange(min=32), default=48_000,
              show_default=True, help="Number of rendered images.")
@click.option("--epochs", type=click.IntRange(min=1), default=6, show_default=True)
@click.option("--device", default="auto", show_default=True)
def evaluator_train(out: str, release: bool, device: str, **recipe: int) -> None:
    """Train a stand-in evaluator on rendered scenes, a private one or the package's."""
    from cddpm_core.config.device import device_of
    from cddpm_core.evaluation.stand_in import CARD, SUFFIX, WEIGHTS, save_stand_in
    from cddpm_core.evaluation.stand_in_training import train_stand_in
    from cddpm_core.runs.manifest import made_with
    from cddpm_core.runs.run import Run

    params = Params(device=device)
    where, started = device_of(params), time.monotonic()
    if release and out:
        raise UserError(f"--out: expected none with --release, found {out}")
    path = typed_path(out) if out else Run("evaluator") / f"seed{recipe['seed']}{SUFFIX}"
    path = WEIGHTS if release else path
    if path.suffix != SUFFIX or path.is_dir():
        raise UserError(f"--out: expected a file {'*' + SUFFIX}, found {out}")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = made_with(params, where)  # before: hours are lost if it fails
    evaluator = train_stand_in(**recipe, device=where)
    command = " ".join(["python -m cddpm_core evaluator train", *(
        f"--{name.removeprefix('num_')} {recipe[name]}"
        for name in ("seed", "num_images", "epochs"))])
    facts = {"command": command, "recipe": recipe, "seconds": round(time.monotonic() - started, 1),
             "made_with": made}
    sha256 = save_stand_in(evaluator, path, facts)
    if release:
        write_json(CARD, {**facts, "heldout": evaluator.heldout, "sha256": sha256})
    print(f"{os.path.relpath(path)}: micro {evaluator.heldout['micro']:.4f} on held-out scenes; ",
          "all runs use it now" if release else
          f"use it with -p evaluator {os.path.relpath(path)}", sep="")


@evaluator_commands.command("agreement")
@click.argument("folder")
@_options("evaluator", "tone", "out")
def evaluator_agreement(folder: str, **options: Any) -> None:
    """Compare an evaluator with official scores.

    FOLDER holds grids of images and manifest.json, with the official score of each grid.
    """
    params = ScoreParams(**options)
    from cddpm_core.evaluation.agreement import agreement
    from cddpm_core.report.verdicts import agreement_figure, agreement_lines

    found = agreement(folder, params.evaluator, tone=params.tone, desc="grids")
    print(*agreement_lines(found), sep="\n")
    if params.out:
        out = typed_path(params.out)
        write_json(out / "agreement.json", found)
        write_png(out / "agreement.png", agreement_figure(found))
        print(os.path.relpath(out / "agreement.json"), os.path.relpath(out / "agreement.png"),
              sep="\n")
