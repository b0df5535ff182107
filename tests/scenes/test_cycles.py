"""Frames by Blender's Cycles, if Blender and CLEVR's assets are there; and what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import ROOT, SHARED
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params
from cddpm_core.data.labels import read_objects, read_train
from cddpm_core.data.source import data_source
from cddpm_core.runs.inputs import data_fingerprint, stage_inputs
from cddpm_core.scenes.cycles import render_by_cycles, render_cycles_dataset
from cddpm_core.scenes.render import Lighting, object_box, project, render_frames
from cddpm_core.scenes.scene import scene_of
from cddpm_core.scenes.version import check_assets, cycles_version, find_blender

ASSETS = SHARED / "clevr/assets"
there = pytest.mark.skipif(not (shutil.which("blender") and ASSETS.is_dir()),
                           reason="needs Blender and CLEVR's assets in ../shared/clevr/assets")
SEED = 6


def render(folder: Path, **options) -> None:
    render_cycles_dataset(folder, **{
        "num_scenes": 1, "seed": SEED, "frames": 2, "assets": ASSETS, "samples": 4, "gpu": False,
        "progress": False, **options})


def images(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted((folder / "iclevr").iterdir())}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(np.float64)


def program(folder: Path, text: str) -> Path:
    """A program that is not Blender."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cycles")
    render(folder)
    return folder


@there
def test_whole_scenes_are_rendered_to_an_array(rendered: Path) -> None:
    frames = render_by_cycles([scene_of(SEED, "train", 0, 2)], assets=ASSETS, samples=4, gpu=False,
                              progress=False)
    assert frames.shape == (1, 240, 320, 3) and frames.dtype == np.uint8
    away = frames[0] - pixels(images(rendered)["CLEVR_train_000000_1.png"])
    assert np.abs(away.reshape(15, 16, 20, 16, 3).mean((1, 3))).max() < 5  # other grain


@there
def test_a_data_set_has_the_labs_layout(rendered: Path) -> None:
    names = [o.name for o in scene_of(SEED, "train", 0, 2).objects]
    assert read_train(rendered / "train.json") == {
        "CLEVR_train_000000_0.png": tuple(names[:1]), "CLEVR_train_000000_1.png": tuple(names)}
    assert read_objects(rendered / "objects.json")["gray cube"] == 0
    assert list(images(rendered)) == list(read_train(rendered / "train.json"))
    for path in images(rendered).values():
        with Image.open(path) as image:
            assert (image.size, image.mode, image.format) == ((320, 240), "RGB", "PNG")
            assert not image.info  # neither the time nor a path
    about = json.loads((rendered / "cycles.json").read_text())
    assert about["samples"] == 4 and len(about["scenes"]) == 1


@there
def test_it_shows_the_scene_that_the_ray_tracer_shows(rendered: Path) -> None:
    scene = scene_of(SEED, "train", 0, 2)
    traced = render_frames(scene.objects, first=1, lighting=Lighting(scene.lamp_shift))
    before, after = (pixels(path) for path in images(rendered).values())
    for cycles, ours in zip((before, after), traced, strict=True):
        small = [np.asarray(Image.fromarray(image.astype(np.uint8)).resize((64, 64)), np.float64)
                 for image in (cycles, ours)]
        assert np.abs(small[0] - small[1]).mean() < 4
    # The second object is all that is new: it fills its box, and leaves most of the rest alone.
    added = scene.objects[1]
    left, top, right, bottom = object_box(added)
    changed = np.abs(after - before).max(-1) > 24
    u, v = (int(part) for part in project(added.x, added.y, 0.58))
    assert changed[v - 3:v + 4, u - 3:u + 4].all()
    inside = changed[top:bottom, left:right]
    assert inside.mean() > 0.4
    rows, columns = np.nonzero(inside)
    assert np.ptp(rows) >= 0.8 * (bottom - top) and np.ptp(columns) >= 0.8 * (right - left)
    changed[top:bottom, left:right] = False
    assert changed.mean() < 0.1  # shadow, and grain


@there
def test_what_is_rendered_is_kept_and_the_rest_comes_out_the_same(rendered, tmp_path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(rendered, folder)
    first, second = images(folder).values()
    bytes_before, time_before = second.read_bytes(), first.stat().st_mtime_ns
    second.unlink()
    (folder / "train.json").unlink()
    (folder / "iclevr" / f".{second.name}.99999999.tmp").write_bytes(bytes_before[:100])
    render(folder)
    assert list(images(folder)) == list(images(rendered))
    assert first.stat().st_mtime_ns == time_before and second.read_bytes() == bytes_before
    assert (folder / "train.json").exists()


@there
def test_the_bytes_do_not_depend_on_the_number_of_processes(rendered, tmp_path) -> None:
    render(tmp_path / "two", num_scenes=2, frames=1, workers=2)
    name = "CLEVR_train_000000_0.png"
    assert len(images(tmp_path / "two")) == 2
    render(tmp_path / "one", num_scenes=1, frames=1, workers=1)
    assert (images(tmp_path / "one")[name].read_bytes()
            == images(tmp_path / "two")[name].read_bytes())


@there
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_blender_ends_with_the_process_that_started_it(tmp_path: Path, sent: int) -> None:
    script = ("from cddpm_core.scenes.cycles import render_cycles_dataset as render; "
              f"render({str(tmp_path)!r}, num_scenes=20, seed=0, assets={str(ASSETS)!r}, "
              "samples=4, workers=2, gpu=False)")
    # Tests that run in the background of a shell would hand on that Ctrl-C is ignored.
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL,
                          start_new_session=True,
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
                          ) as process:
        while not list(tmp_path.glob("iclevr/CLEVR*")):
            assert process.poll() is None
            time.sleep(0.05)
        blenders = psutil.Process(process.pid).children(recursive=True)
        assert len(blenders) == 2
        # Ctrl-C reaches all processes of a terminal; TERM ends the first as KILL would.
        (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
        process.wait(300)
    _, alive = psutil.wait_procs(blenders, timeout=300)
    assert not alive
    for path in tmp_path.glob("iclevr/CLEVR*"):
        Image.open(path).load()  # whole
    assert not (tmp_path / "train.json").exists()


@there
def test_a_run_has_its_data_from_cycles(tmp_path: Path, run) -> None:
    params = Params(renderer="cycles", clevr_assets=str(ASSETS), cycles_samples=1, num_scenes=1,
                    heldout_scenes=1, device="cpu")
    found = data_source(params, tmp_path / "cache")
    assert found.kind == "cycles"
    assert len(images(found.folder)) == len(images(found.heldout)) == 3
    assert "train-cycles1-" in found.folder.name
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert data_source(params.replace(blender=shutil.which("blender")), tmp_path / "cache") == found
    assert before == {path: path.stat().st_mtime_ns for path in before}
    # The folder is known wherever it lies.
    shutil.copytree(found.folder, tmp_path / "mine")
    assert data_source(Params(data=str(tmp_path / "mine")), tmp_path / "cache").kind == "cycles"
    # Other assets, at the same place or another, are other data.
    inputs = stage_inputs(ROOT / "notebooks/data.ipynb", params, run, {})
    assert "clevr_assets" not in inputs["params"] and inputs["params"]["cycles_samples"] == 1
    shutil.copytree(ASSETS, tmp_path / "assets")
    moved = params.replace(clevr_assets=str(tmp_path / "assets"))
    assert data_fingerprint(moved) == data_fingerprint(params) != data_fingerprint(Params())
    assert stage_inputs(ROOT / "notebooks/data.ipynb", moved, run, {}) == inputs
    changed = tmp_path / "assets/materials/Rubber.blend"
    changed.chmod(0o644)
    changed.write_bytes(changed.read_bytes() + b" ")
    assert data_fingerprint(moved) != data_fingerprint(params)
    assert stage_inputs(ROOT / "notebooks/data.ipynb", moved, run, {})["files"] != inputs["files"]


@there
@pytest.mark.parametrize("change", ["samples", "denoise"])
def test_other_settings_are_another_version(change: str) -> None:
    usual = {"blender": "", "assets": str(ASSETS), "samples": 128, "denoise": False}
    other = usual | {change: {"samples": 64, "denoise": True}[change]}
    assert cycles_version(**usual).startswith("cycles128-")
    assert cycles_version(**usual) != cycles_version(**other)


@there
def test_an_asset_that_is_not_one_is_one_sentence(tmp_path: Path) -> None:
    shutil.copytree(ASSETS, tmp_path / "assets")
    for broken in ("materials/Rubber.blend", "base_scene.blend"):
        path = tmp_path / "assets" / broken
        path.chmod(0o644)
        path.write_bytes(b"not Blender's")
        with pytest.raises(UserError, match=f"ended with code 1: .*{path.stem}") as error:
            render(tmp_path / "data", assets=tmp_path / "assets")
        assert "\n" not in str(error.value)


@there
def test_images_of_other_settings_are_not_mixed(rendered: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds images of other scenes or settings"):
        render(rendered, samples=8)
    (tmp_path / "iclevr").mkdir()
    (tmp_path / "iclevr/CLEVR_train_000000_0.png").touch()
    with pytest.raises(UserError, match="holds images of other scenes or settings"):
        render(tmp_path)


def test_a_missing_blender_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no program of this name on the PATH, expected Blender"):
        find_blender()
    with pytest.raises(UserError, match="nowhere cannot be run"):
        find_blender(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot be run"):
        find_blender(tmp_path)


@pytest.mark.parametrize(("text", "words"), [
    ("echo hello", "is not Blender"),
    ("echo 'Blender 2.79 (sub 0)'", "is Blender 2.79, expected Blender 2.93 or later"),
])
def test_another_program_or_an_old_blender_is_one_sentence(tmp_path, text, words) -> None:
    with pytest.raises(UserError, match=words):
        find_blender(program(tmp_path, text))


def test_what_blender_says_last_is_told(tmp_path: Path) -> None:
    for name in ("base_scene", "materials/Rubber", "shapes/SmoothCube_v2", "shapes/Sphere",
                 "shapes/SmoothCylinder"):
        with pytest.raises(UserError, match=f"{name}.blend does not exist, expected the folder"):
            check_assets(tmp_path)
        (tmp_path / f"{name}.blend").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.blend").touch()
    failing = program(tmp_path, 'case "$1" in --version) echo "Blender 4.2.0";; '
                                "*) echo first; echo out of memory >&2; exit 7;; esac")
    with pytest.raises(UserError, match="ended with code 7: out of memory; the frames"):
        render(tmp_path / "data", assets=tmp_path, blender=failing)
    with pytest.raises(UserError, match="num_scenes: expected at least 1"):
        render(tmp_path / "data", num_scenes=0)


def test_cycles_needs_assets_unless_there_is_data() -> None:
    with pytest.raises(UserError, match="clevr_assets: expected the folder"):
        Params(renderer="cycles")
    assert Params(renderer="cycles", data="somewhere").renderer == "cycles"
