"""The command line: ``python -m cddpm_core <command>``."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from cddpm_core.errors import UserError
from cddpm_core.params import BEFORE, FIELDS, Params, coerce, resolve
from cddpm_core.presets import read_yaml
from cddpm_core.runs import Run, atomic, project_root, unwritable

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; a `UserError` is one sentence and 2."""
    options, more = _parser().parse_known_args(arguments)
    if more and options.command is not _test:
        _parser().error(f"unknown arguments: {' '.join(more)}")
    options.more = more
    try:
        try:
            return options.command(options)
        except OSError as error:
            raise unwritable(error, error.filename or "outputs") from None
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cddpm_core",
                                     description="Conditional DDPM on i-CLEVR, up to the report.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, run: Any, about: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=about)
        command.set_defaults(command=run)
        return command

    for command in (add("report", _report, "run all stages, with the experiments of the params "
                        "file, and write report.html and report.pdf"),
                    add("stage", _stage, "run one stage and the stages it needs"),
                    add("train", _train, "train alone; in several processes, start it with "
                        "accelerate launch -m cddpm_core.train")):
        if "stage" in command.prog.split():
            command.add_argument("stage", help="data, train, evaluate, denoise, analyse, "
                                 "timesteps, sampling, report")
        command.add_argument("--params", default="params/quick.yaml", metavar="FILE")
        command.add_argument("--run", default="", help="run name; default: stem of the params file")
        command.add_argument("--data", default="", metavar="DIR", help="the real i-CLEVR data")
        command.add_argument("--evaluator", default="", metavar="FILE",
                             help="the official checkpoint.pth")
        command.add_argument("-p", dest="changes", nargs=2, action="append", default=[],
                             metavar=("KEY", "VALUE"), help="change one parameter")
        if "train" not in command.prog.split():
            command.add_argument("--force", action="store_true",
                                 help="run finished stages again")
    command = add("sweep", _sweep, "train and evaluate several presets, and report the first")
    command.add_argument("files", nargs="+", metavar="FILE", help="params files, the first one "
                         "with the report")
    command.add_argument("--seeds", type=int, nargs="+", default=[], metavar="SEED",
                         help="seeds of each; default: its own")
    command.add_argument("-p", dest="changes", nargs=2, action="append", default=[],
                         metavar=("KEY", "VALUE"), help="change one parameter in all of them")
    command = add("verify", _verify, "compare a run's files with the hashes of its manifest")
    command.add_argument("--run", default="quick", help="the run")
    command = add("submission", _submission, "pack report, code and images of a run into one zip")
    command.add_argument("--run", default="quick", help="the run")
    command = add("bench", _bench, "measure speed as ratios, with the network of a trained run")
    command.add_argument("--run", default="quick", help="the trained run")
    command.add_argument("--repeats", type=int, default=3, help="turns of each arm")
    command.add_argument("--minutes", type=float, default=3.0,
                         help="minutes that each recipe trains for; 0 leaves these out")
    command = add("pack", _pack, "make a run the one whose weights come with the package")
    command.add_argument("--run", default="quick", help="the trained run")
    add("manual", _manual, "write params/README.md from the schema")
    add("lab", _lab, "open JupyterLab on the notebooks")
    add("test", _test, "run the tests; further arguments go to pytest")
    return parser


def _params(options: argparse.Namespace) -> Params:
    """The params file with the changes of the command line over it."""
    path = Path(options.params)
    if not path.exists() and (project_root() / path).exists():
        path = project_root() / path
    given = read_yaml(path)
    if path.name == "params.yaml" and (path.parent / "status.json").exists():
        given = {**BEFORE, **given}  # what a run wrote: it may be older than some parameters
    values = {key: coerce(key, value, str(path)) for key, value in given.items()}
    for key, text in options.changes:
        values[key] = coerce(key, _value(key, text), "-p")
    for key in ("data", "evaluator", "reference"):
        given = getattr(options, key, "") or values.get(key)
        if given:
            values[key] = str(Path(given).expanduser().absolute())
    return resolve({**values, "run": options.run or values.get("run") or path.stem}, str(path))


def _value(key: str, text: str) -> Any:
    """Text as YAML has it, unless the parameter is text: a title may hold a colon or be 'yes'."""
    if key in FIELDS and FIELDS[key].type == "str":
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        return text


def _report(options: argparse.Namespace) -> int:
    # Imported here, so that a mistyped parameter is named before torch is loaded.
    params = _params(options)
    from cddpm_core.pipeline import run_stages, with_needs

    run = run_stages(with_needs("report", params.experiments), params, force=options.force)
    pages = _export(run)
    for line in _results(run.read("metrics.json")):
        print(line)
    print(*pages, sep="\n")
    return 0


def _export(run: Run) -> list[str]:
    """Write both reports of a run and its manifest, which comes last; return the reports' paths."""
    from cddpm_core.manifest import write_manifest
    from cddpm_core.report import export_report

    pages = export_report(run / "report.ipynb", run)
    write_manifest(run, run.params())
    return [os.path.relpath(page) for page in pages]


def _results(metrics: dict[str, Any]) -> list[str]:
    from cddpm_core.facts import GUIDED

    data, evaluator, sample = metrics["data"], metrics["evaluator"], metrics["sample"]
    held_out = evaluator.get("heldout_micro")
    marker = evaluator["kind"] + (f", held-out micro {held_out:.4f}" if held_out else "")
    guided = GUIDED if sample.get("evaluator_guidance") else ""
    lines = [f"data: {data['kind']}, {data['images']} images", f"evaluator: {marker}{guided}"]
    lines += [f"{name}: micro {metrics[name]['micro']:.4f}, macro {metrics[name]['macro']:.4f}"
              for name in ("test", "new_test")]
    return [*lines,
            f"train: {metrics['train']['seconds'] / 60:.1f} minutes, "
            f"{metrics['train']['images_per_second']:.1f} images/s",
            f"sample: {sample['num_inference_steps']} steps, "
            f"{sample['images_per_second']:.2f} images/s",
            f"total: {metrics['total_seconds'] / 60:.1f} minutes"]


def _stage(options: argparse.Namespace) -> int:
    params = _params(options)
    from cddpm_core.pipeline import run_stages, with_needs

    names = with_needs(options.stage, params.experiments)
    run = run_stages(names, params, force=options.force)
    if options.stage == "report":
        _export(run)
    print(os.path.relpath(run / f"{options.stage}.ipynb"))
    return 0


def _train(options: argparse.Namespace) -> int:
    params = _params(options)
    from cddpm_core.train import train_run

    train_run(params)
    return 0


def _sweep(options: argparse.Namespace) -> int:
    presets = []
    for file in options.files:
        one = argparse.Namespace(params=file, run="", changes=options.changes)
        presets.append(_params(one))
    from cddpm_core.sweep import run_sweep

    print(*_export(run_sweep(presets, options.seeds)), sep="\n")
    return 0


def _bench(options: argparse.Namespace) -> int:
    if options.repeats < 1:
        raise UserError(f"repeats: expected at least 1, found {options.repeats}")
    if not 0 <= options.minutes < 1e6:
        raise UserError(f"minutes: expected 0 or more, found {options.minutes}")
    from cddpm_core.bench import run_bench

    out = Run("bench")
    results = run_bench(Run(options.run), out, repeats=options.repeats, minutes=options.minutes)
    for name, found in results.items():
        if isinstance(found, dict) and "arms" in found:
            print(f"{name}, {found['minutes']:g} minutes each: " + ", ".join(
                f"{arm} {part['micro']:.3f}" for arm, part in found["arms"].items()))
        if isinstance(found, dict) and "ratio" in found:
            ratio = found["ratio"]
            print(f"{name}: {ratio['median']:.1f}x ({ratio['least']:.1f} to "
                  f"{ratio['greatest']:.1f}); {found['what']}")
    print(os.path.relpath(out / "bench.json"))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from cddpm_core.manifest import verify

    run = Run(options.run)
    faults = verify(run)
    for fault in faults:
        print(fault)
    if faults:
        raise UserError(f"{run.folder}: {len(faults)} files are not as manifest.json says")
    print(f"{os.path.relpath(run.folder)}: every file is as manifest.json says")
    return 0


def _pack(options: argparse.Namespace) -> int:
    from cddpm_core.pretrained import pack

    packed = pack(Run(options.run))
    found = packed.read("metrics.json")
    print(", ".join(f"{name}: micro {found[name]['micro']:.4f}" for name in ("test", "new_test")))
    print(os.path.relpath(packed.folder))
    return 0


def _manual(options: argparse.Namespace) -> int:
    from cddpm_core.manual import manual

    folder = project_root() / "params"
    with atomic(folder / "README.md") as temporary:
        temporary.write_text(manual(folder), encoding="utf-8")
    print(os.path.relpath(folder / "README.md"))
    return 0


def _submission(options: argparse.Namespace) -> int:
    from cddpm_core.submission import write_submission

    print(os.path.relpath(write_submission(Run(options.run))))
    return 0


def _lab(options: argparse.Namespace) -> int:
    # In a container one is root, whom Jupyter turns away unless told.
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return subprocess.call([sys.executable, "-m", "jupyter", "lab", *root],
                           cwd=project_root() / "notebooks")


def _test(options: argparse.Namespace) -> int:
    # Many tests wait for a kernel to start; files are spread over processes, a core each, in the
    # order that tests/conftest.py gives them.
    workers = str(min(4, os.cpu_count() or 1))
    return subprocess.call([sys.executable, "-m", "pytest", "-n", workers, "--dist", "loadfile",
                            "--no-loadscope-reorder", *options.more], cwd=project_root())


if __name__ == "__main__":
    sys.exit(main())
