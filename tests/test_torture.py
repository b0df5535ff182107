"""Trainings, kernels and papermill killed at random moments, and full disks.

``make torture`` kills 100 trainings and as many stages, ``make test`` a few trainings. What was
killed is started again until it finishes, and must then equal what was never killed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from conftest import ROOT, same
from PIL import Image
from safetensors.torch import load_file

from cddpm_core.__main__ import main
from cddpm_core.config.errors import UserError
from cddpm_core.config.presets import read_yaml, to_yaml
from cddpm_core.config.schema import Params, resolve
from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.data.source import load_dataset
from cddpm_core.evaluation.stand_in import load_evaluator
from cddpm_core.runs.lock import locked
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.runs.train import launch, train_in
from cddpm_core.sampling.pipeline import load_pipeline
from cddpm_core.training.checkpoint import read_checkpoint
from cddpm_core.training.loop import train

KILLS = int(os.environ.get("CDDPM_KILLS", "0"))
READ = {
    ".json": lambda path: json.loads(path.read_text()),
    ".jsonl": lambda path: [json.loads(line) for line in path.read_text().splitlines()],
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".pt": read_checkpoint,
    ".safetensors": load_file,
    ".png": lambda path: Image.open(path).load(),
    ".ipynb": lambda path: nbformat.read(path, 4),
}


def assert_whole(folder: Path) -> None:
    """Every file below a folder can be read, except those named as temporary."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix in READ:
            READ[path.suffix](path)
    for path in folder.rglob("history.jsonl"):
        steps = [line["step"] for line in READ[".jsonl"](path) if "loss" in line]
        assert steps == sorted(set(steps)), path


def left_half_written(folder: Path) -> bool:
    """Whether a process was killed inside the writing of a file."""
    return any(folder.rglob(".*.tmp"))


def assert_same_training(run: Run, whole: Run) -> None:
    """A run has the weights and the history of one that nothing happened to."""
    first, second = (read_checkpoint(r / "checkpoint.pt") for r in (run, whole))
    for state in (first, second):
        state["parts"]["counters"]["seconds"] = 0
    assert same(first, second)
    assert same(*(dict(load_pipeline(r / "model").unet.state_dict()) for r in (run, whole)))
    timed = ("seconds", "images_per_second")
    one, two = ([{k: v for k, v in line.items() if k not in timed} for line in r.history()]
                for r in (run, whole))
    assert one == two and one[-1]["step"] == first["step"]
    assert not list(run.folder.rglob(".*.tmp"))


def _train(folder: str, data: str, params: Params) -> None:
    """What a process to be killed does."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    run = Run("run", outputs=Path(folder))
    with locked(run.folder):
        train(params, IclevrDataset(data), run.folder,
              evaluate=lambda *_: {"test": {"micro": 0.5}})


def test_a_training_survives_being_killed_anywhere(tiny, rendered, tmp_path, monkeypatch):
    params = tiny.replace(epochs=20 if KILLS else 6, checkpoint_minutes=0, evaluate_every=3)
    context = multiprocessing.get_context("forkserver")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    context.set_forkserver_preload([__name__])  # each process then begins without importing

    def start(folder: Path) -> multiprocessing.Process:
        process = context.Process(target=_train, args=(str(folder), str(rendered), params))
        process.start()
        return process

    for name in ("first", "whole"):  # the first waits for the imports
        began, whole = time.time(), start(tmp_path / name)
        whole.join()
        assert whole.exitcode == 0
    seconds = time.time() - began
    reference = Run("run", outputs=tmp_path / "whole")
    chance, killed, inside, finished, folder = random.Random(0), 0, 0, 0, tmp_path / "0"
    while killed < (KILLS or 4) or not finished or (folder / "run").exists():
        process = start(folder)
        process.join(chance.uniform(0, seconds))
        if process.is_alive() and killed < (KILLS or 4):
            process.kill()
            killed += 1
        process.join()
        assert_whole(folder)
        inside += left_half_written(folder)
        if process.exitcode == 0:
            assert_same_training(Run("run", outputs=folder), reference)
            finished += 1
            folder = tmp_path / str(finished)
        else:
            assert process.exitcode == -9
    assert finished
    assert inside or KILLS < 50  # about every fourth kill, so a few may all miss
    print(f"{killed} kills of a training, {inside} inside the writing of a file, {finished} "
          "trainings finished with the same weights and history")


@pytest.fixture
def headless(tiny, tmp_path, monkeypatch):
    """A folder with a params file, and outputs of its own."""
    monkeypatch.setenv(OUTPUTS, str(tmp_path / "outputs"))
    params = tiny.replace(run="run", num_scenes=12, heldout_scenes=1, epochs=40,
                          checkpoint_minutes=0, evaluate_every=15, experiment_epochs=0)
    (tmp_path / "run.yaml").write_text(to_yaml(params))
    return tmp_path


def stage(folder: Path, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "cddpm_core", "stage", "train", "--params",
                             str(folder / "run.yaml")], cwd=ROOT, text=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)


def kernels_of(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return [child for child in psutil.Process(process.pid).children(recursive=True)
                if "cddpm_core.runs.kernel" in child.cmdline()]
    except psutil.NoSuchProcess:
        return []


def assert_status_is_true(run: Run, killed: int) -> None:
    """What status.json calls running is the work of the process that was killed."""
    for name, about in run.read("status.json").get("stages", {}).items():
        assert about["state"] in ("running", "done", "failed", "interrupted")
        if about["state"] == "running":
            assert about["pid"] == killed
        if about["state"] == "done":
            assert (run / f"{name}.ipynb").exists()


@pytest.mark.skipif(not KILLS, reason="kills stages for minutes; make torture does")
def test_a_stage_survives_the_death_of_papermill_and_of_its_kernel(headless):
    outputs, reference = headless / "outputs", Run("whole")
    params = resolve(read_yaml(headless / "run.yaml"))
    train_in(reference, params, load_dataset(params, reference.cache),
             load_evaluator(params.evaluator))
    seconds = 20.0  # until a stage has shown how long it takes
    chance, finished, left = random.Random(0), 0, ["papermill", "kernel"] * (KILLS // 2)
    while left or not finished or (outputs / "run").exists():
        began, process, kernels, victim = time.time(), stage(headless), [], ""
        until = time.time() + chance.uniform(0, 1.1) * seconds
        while time.time() < until and process.poll() is None:
            time.sleep(0.05)
        if left and process.poll() is None:
            kernels = kernels_of(process)
            if left[-1] == "papermill" or kernels:
                victim = left.pop()
                (process if victim == "papermill" else kernels[0]).kill()
        fault = process.communicate(timeout=600)[1]
        psutil.wait_procs(kernels, timeout=10)
        assert not [kernel for kernel in kernels if kernel.is_running()
                    and kernel.status() != psutil.STATUS_ZOMBIE]
        assert_whole(outputs)
        run = Run("run")
        assert_status_is_true(run, process.pid)
        if process.returncode == 0:
            assert run.read("status.json")["stages"]["train"]["state"] == "done"
            assert_same_training(run, reference)
            finished, seconds = finished + 1, max(seconds, time.time() - began)
            shutil.rmtree(outputs / "run")
        elif victim == "kernel":
            assert process.returncode == 2, fault
            assert "its kernel di" in fault and "Traceback" not in fault, fault  # died, or did not
        else:
            assert (victim, process.returncode) == ("papermill", -9), fault
    print(f"{KILLS} kills, half of papermill and half of its kernel, {finished} runs finished "
          "with the same weights and history; no kernel left")


@pytest.mark.skipif(not KILLS, reason="starts processes for half a minute; make torture does")
def test_a_fault_of_the_first_process_alone_ends_them_all(tiny, rendered, tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUTS, str(tmp_path))
    hold = ("import sys, time; from cddpm_core.runs.lock import locked\n"
            "with locked(sys.argv[1]): print('held', flush=True); time.sleep(300)")
    holder = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "held")],
                              stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid}"):
            launch(Run("held"), tiny.replace(run="held", num_processes=2, data=str(rendered)))
    finally:
        holder.kill()
    assert not (tmp_path / "held/checkpoint.pt").exists()


def mounted(folder: Path, size: str) -> bool:
    """Whether a small disk in memory could be mounted at a folder."""
    folder.mkdir()
    try:
        return subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
                              capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture
def small_disk(tmp_path):
    if not mounted(tmp_path / "disk", "80m"):
        pytest.skip("no tmpfs can be mounted here, root alone may")
    yield tmp_path / "disk"
    subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=True)


def fill(disk: Path, left: int) -> Path:
    """Fill a disk but for some bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * max(0, shutil.disk_usage(disk).free - left))
    return ballast


def test_a_full_disk_costs_nothing_that_was_computed(tiny, dataset, small_disk, tmp_path):
    params = tiny.replace(checkpoint_minutes=0, epochs=4, evaluate_every=1)
    whole, run = Run("run", outputs=tmp_path / "whole"), Run("run", outputs=small_disk)
    evaluate = lambda *_: {"test": {"micro": 0.5}}  # noqa: E731
    train(params, dataset, whole.folder, evaluate=evaluate)
    size = (whole / "checkpoint.pt").stat().st_size
    chance, full, finished, step = random.Random(0), 0, 0, 0
    while full < (KILLS or 4) or run.folder.exists():
        ballast = fill(small_disk, int(chance.uniform(0, 3 * size)))
        if full >= (KILLS or 4):
            ballast.unlink()
        try:
            with locked(run.folder):
                train(params, dataset, run.folder, evaluate=evaluate)
            assert_same_training(run, whole)
            finished, step = finished + 1, 0
            shutil.rmtree(run.folder)
        except UserError as error:
            assert "cannot be written" in str(error) and "\n" not in str(error)
            full += 1
        ballast.unlink(missing_ok=True)
        assert_whole(small_disk)
        if (run / "checkpoint.pt").exists():
            assert (reached := read_checkpoint(run / "checkpoint.pt")["step"]) >= step
            step = reached
    assert finished
    print(f"{full} trainings met a full disk, {finished} finished with the same weights and "
          "history")


def test_a_full_disk_is_one_sentence_from_the_command_line(small_disk, monkeypatch, capsys):
    monkeypatch.setenv(OUTPUTS, str(small_disk / "outputs"))
    fill(small_disk, 0)
    assert main(["stage", "train", "--params", "params/smoke.yaml"]) == 2
    fault = capsys.readouterr().err
    assert fault.startswith("Error: ") and fault.count("\n") == 1 and "cannot be written" in fault
