"""The architecture: folders import one way, the core needs little, and files are short."""

import subprocess
import sys

import pytest
from conftest import ROOT
from importlinter import cli

import cddpm_core

PACKAGE = ROOT / "cddpm_core"
CORE = ("data", "scheduler", "model", "sampling")
LEAN = (*CORE, "training", "evaluation")
HEAVY = ("papermill", "IPython", "ipykernel", "ipywidgets", "jupyterlab", "nbformat", "nbconvert",
         "matplotlib", "pypandoc", "typst", "numba", "tensorboard", "wandb")


def modules(*folders):
    return [str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
            for folder in folders for path in sorted((PACKAGE / folder).glob("[!_]*.py"))]


def lines(*folders):
    return {path: len(path.read_text().splitlines())
            for folder in folders for path in (PACKAGE / folder).rglob("*.py")}


def test_folders_import_one_way():
    assert cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_training_needs_neither_notebooks_nor_figures_nor_the_renderer():
    code = (f"import sys\nfor name in {modules(*LEAN)}:\n    __import__(name)\n"
            f"sys.exit(', '.join(name for name in {HEAVY} if name in sys.modules) or 0)")
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("module", ["cddpm_core", "cddpm_core.config.schema",
                                    "cddpm_core.runs.stages", "cddpm_core.report.findings"])
def test_does_not_wait_for_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_core_is_thin_and_no_file_is_long():
    core = sum(lines(*CORE).values())
    assert core <= 1900, f"{', '.join(CORE)} have {core} lines: keep the core small, or split it"
    long = {path.name: count for path, count in lines(".").items() if count > 250}
    assert not long, f"more than 250 lines, better two files: {long}"


def test_the_readme_of_the_package_names_every_module():
    told = (PACKAGE / "README.md").read_text()
    folders = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert {name for name in modules(*folders)
            if f"`{name.split('.')[2]}`" not in told} == set()


@pytest.mark.parametrize("name", cddpm_core.__all__)
def test_every_public_name_is_there(name):
    assert getattr(cddpm_core, name) is not None
    assert name in dir(cddpm_core)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'sampel'"):
        _ = cddpm_core.sampel
