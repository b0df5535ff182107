"""The renderer's version: what changes it, and what does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cddpm_core
from cddpm_core.scenes.version import renderer_version

PACKAGE = Path(cddpm_core.__file__).parent


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the folders that a version depends on."""
    (tmp_path / "cddpm_core").mkdir()
    (tmp_path / "cddpm_core/__init__.py").touch()
    for folder in ("config", "data", "scenes"):
        shutil.copytree(PACKAGE / folder, tmp_path / "cddpm_core" / folder,
                        ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "cddpm_core"


def version_of(copy: Path) -> str:
    script = ("import sys; from cddpm_core.scenes.version import renderer_version as version; "
              "print(version(), *({'numba', 'torch'} & set(sys.modules)))")
    return subprocess.run([sys.executable, "-B", "-c", script], check=True, text=True,
                          stdout=subprocess.PIPE, cwd=copy.parent,
                          env={**os.environ, "PYTHONPATH": str(copy.parent)}).stdout.strip()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_comments_docstrings_and_other_modules_do_not_matter(copy: Path) -> None:
    render = copy / "scenes/render.py"
    render.write_text(render.read_text() + "# a further comment\n")
    edit(render, "The lamps of a scene, and", "A scene's lamps, and")
    (copy / "scenes/fitting.py").write_text("changed = True\n")
    # The version alone: neither numba nor torch was imported for it.
    assert version_of(copy) == renderer_version()


@pytest.mark.parametrize(("file", "old", "new"), [
    ("data/labels.py", "(173, 35, 35)", "(174, 35, 35)"),
    ("scenes/surfaces.py", "RADIUS = 0.58 ", "RADIUS = 0.6 "),
    ("scenes/scene.py", "GAP = 0.663", "GAP = 0.7"),
])
def test_a_colour_and_the_code_matter(copy: Path, file: str, old: str, new: str) -> None:
    edit(copy / file, old, new)
    assert version_of(copy) != renderer_version()
