"""Data sets rendered by Blender's Cycles with CLEVR's assets, as i-CLEVR was."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import remove_leftovers, write_text
from cddpm_core.config.progress import progress as progress_bar
from cddpm_core.config.seeds import numpy_generator
from cddpm_core.data.labels import COLOURS
from cddpm_core.scenes.dataset import file_name, write_labels
from cddpm_core.scenes.lamps import YAW
from cddpm_core.scenes.render import HEIGHT, RADIUS, WIDTH
from cddpm_core.scenes.scene import Scene, scene_of
from cddpm_core.scenes.version import BASE, Blender, check_assets, find_blender

__all__ = ["render_by_cycles", "render_cycles_dataset"]

ABOUT = "cycles.json"  # what is rendered: settings, and each scene with its lamps and positions
SCRIPT = Path(__file__).with_name("blender_script.py")
MAX_PROCESSES = 8  # of Blender, each of which takes about a third of a GiB
FAREWELL = ("Blender quit", "Error: Not freed memory")  # what Blender says last, whatever it did
GPU_PROCESSES = 2  # so that one prepares a frame while the other renders


def render_cycles_dataset(folder: str | Path, *, num_scenes: int, seed: int, assets: str | Path,
                          split: str = "train", frames: int = 3, blender: str | Path = "",
                          samples: int = 128, denoise: bool = False, gpu: bool = True,
                          workers: int | None = None, progress: bool = True) -> None:
    """Write the scenes of `render_dataset` as Cycles renders them, in the same layout.

    ``folder/cycles.json`` holds all that decides them. What is rendered is kept: a call that was
    interrupted goes on where it ended. On a CPU the pixels do not depend on the number of
    processes, ``workers``; with ``gpu`` they depend on the device. Raises `UserError` if Blender
    or one of the ``assets`` is missing, if Blender fails, or if the folder holds other images.
    """
    if num_scenes < 1:
        raise UserError(f"num_scenes: expected at least 1, found {num_scenes}")
    program, assets = find_blender(blender), check_assets(assets)
    folder = Path(folder).absolute()
    images = folder / "iclevr"
    images.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    scenes = [_scene(seed, split, index, frames) for index in range(num_scenes)]
    settings = _settings(program, samples, denoise)
    _claim(folder, json.dumps({**settings, "scenes": scenes}))
    todo = [scene for scene in scenes if _missing(images, scene)]
    if todo:
        job = {**settings, "assets": str(assets), "folder": str(images), "gpu": gpu,
               "watched": True}
        left = sum(_missing(images, scene) for scene in todo)
        with progress_bar(total=num_scenes * frames, initial=num_scenes * frames - left,
                          desc=f"rendering {split}", unit="image", disable=not progress) as bar:
            _render(program, job, todo, workers, bar)
    if left := sum(_missing(images, scene) for scene in scenes):
        raise UserError(f"blender: {program.program} ended, but {left} frames are missing in "
                        f"{images}")
    write_labels(folder, [[[name for name, *_ in scene["objects"][: frame + 1]]
                           for frame in range(frames)] for scene in scenes])


def render_by_cycles(scenes: Sequence[Scene], *, assets: str | Path, gpu: bool,
                     blender: str | Path = "", samples: int = 128, denoise: bool = False,
                     progress: bool = True) -> np.ndarray:
    """Return the frames of scenes with all their objects, uint8 (N, 240, 320, 3).

    Each has one object at least. Raises `UserError` as `render_cycles_dataset` does.
    """
    program, assets = find_blender(blender), check_assets(assets)
    with tempfile.TemporaryDirectory() as folder:
        # A frame without a name is not rendered.
        todo = [{"lamp_shift": scene.lamp_shift.tolist(), "objects": scene.objects,
                 "frames": [("", 0)] * (len(scene.objects) - 1) + [(f"{number}.png", number)]}
                for number, scene in enumerate(scenes)]
        job = {**_settings(program, samples, denoise), "assets": str(assets), "folder": folder,
               "gpu": gpu, "watched": True}
        with progress_bar(total=len(todo), desc="rendering by Cycles", unit="image",
                          disable=not progress) as bar:
            _render(program, job, todo, None, bar)
        frames = []
        for number in range(len(scenes)):
            with Image.open(Path(folder) / f"{number}.png") as picture:
                frames.append(np.asarray(picture.convert("RGB")))
    return np.stack(frames)


def _settings(program: Blender, samples: int, denoise: bool) -> dict[str, Any]:
    return {"blender": program.version, "samples": samples, "denoise": denoise,
            "size": [WIDTH, HEIGHT], "radius": RADIUS, "yaw": YAW,
            "colours": {name: [c / 255 for c in rgb] for name, rgb in COLOURS.items()}}


def _scene(seed: int, split: str, index: int, frames: int) -> dict[str, Any]:
    """A scene as `blender_script` reads it."""
    scene = scene_of(seed, split, index, frames)
    seeds = numpy_generator(seed, "cycles", split, index).integers(2**31, size=frames)
    return {"lamp_shift": scene.lamp_shift.tolist(), "objects": scene.objects,
            "frames": [(file_name(index, frame), int(s)) for frame, s in enumerate(seeds)]}


def _missing(images: Path, scene: dict[str, Any]) -> int:
    return sum(not (images / name).exists() for name, _ in scene["frames"])


def _claim(folder: Path, about: str) -> None:
    """Write what the folder is to hold, unless it holds just that."""
    path = folder / ABOUT
    found = path.read_text(encoding="utf-8") if path.exists() else None
    if found != about:
        if found or any(folder.glob("iclevr/*.png")):
            raise UserError(f"{folder}: holds images of other scenes or settings, expected an "
                            "empty folder or one whose rendering was interrupted")
        write_text(path, about)


def _render(program: Blender, job: dict[str, Any], scenes: Sequence[dict[str, Any]],
            workers: int | None, bar: Any) -> None:
    """Render the missing frames in several processes, each with its share of the scenes."""
    cores = os.cpu_count() or 1
    # The first one renders nothing: it shows that Blender works, and on what.
    device = "".join(_said(program, [{**job, "scenes": []}], cores)).removeprefix("device ")
    bar.set_postfix_str(device)
    most = workers or (min(cores, MAX_PROCESSES) if device == "CPU" else GPU_PROCESSES)
    count = min(most, len(scenes))
    jobs = [{**job, "scenes": scenes[i::count]} for i in range(count)]
    with closing(_said(program, jobs, max(1, cores // count))) as lines:
        for line in lines:
            bar.update(line.startswith("frame "))


def _said(program: Blender, jobs: Sequence[dict[str, Any]], threads: int) -> Iterator[str]:
    """Run a Blender for each job and yield what the script says in any of them.

    They all end when the iterator is closed, or when this process ends.
    """
    said: queue.SimpleQueue[str | tuple[int, str]] = queue.SimpleQueue()
    processes: list[subprocess.Popen] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, job in enumerate(jobs):
                file = Path(folder) / f"{number}.json"
                file.write_text(json.dumps(job), encoding="utf-8")
                processes.append(_start(program, job["assets"], file, threads))
                threading.Thread(target=_listen, args=(processes[-1], said), daemon=True).start()
            running = len(jobs)
            while running:
                line = said.get()
                if isinstance(line, str):
                    yield line
                    continue
                code, last = line
                running -= 1
                if code:
                    raise UserError(f"blender: {program.program} ended with code {code}: {last}; "
                                    "the frames rendered so far are kept")
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.stdin.close()
                process.wait()


def _start(program: Blender, assets: str, job: Path, threads: int) -> subprocess.Popen:
    # Neither a Python environment nor the settings of the user's Blender take part, and what a
    # killed Blender leaves behind goes with the job.
    environment = {key: value for key, value in os.environ.items()
                   if not key.startswith(("PYTHON", "BLENDER_"))}
    environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(job.parent))
    return subprocess.Popen(
        [program.program, "--background", f"{assets}/{BASE}", "--factory-startup",
         "--python-exit-code", "1", "--threads", str(threads), "--python", SCRIPT, "--", job],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", errors="replace", env=environment)


def _listen(process: subprocess.Popen, said: queue.SimpleQueue) -> None:
    """Pass on the lines of the script, at last the exit code with the last line of any kind."""
    last = "without a word"
    with process.stdout as lines:
        for line in lines:
            if line.startswith(("device ", "frame ")):
                said.put(line.strip())
            elif line.strip() and not line.startswith(FAREWELL):
                last = line.strip()[:500]
    said.put((process.wait(), last))
