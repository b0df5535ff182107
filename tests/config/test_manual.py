import shutil

import pytest

from cddpm_core.config.files import project_root
from cddpm_core.config.manual import (
    NOTEBOOKS,
    declared,
    manual,
    parameters_cell,
    write_manual,
)
from cddpm_core.config.schema import FIELDS

ROOT = project_root()


@pytest.fixture
def copy(tmp_path):
    for folder in ("params", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


def test_manual_and_parameters_cells_are_current(copy):
    changed = [str(path.relative_to(copy)) for path in write_manual(copy)]
    assert changed == [], "write them again: python -m cddpm_core manual"


def test_what_is_out_of_date_is_written_again(copy):
    for name in ("params/README.md", "notebooks/train.ipynb"):
        path = copy / name
        path.write_text(path.read_text().replace(FIELDS["epochs"].help, "old words"))
    changed = write_manual(copy)
    assert changed == [copy / "params/README.md", copy / "notebooks/train.ipynb"]
    for path in changed:
        assert path.read_text() == (ROOT / path.relative_to(copy)).read_text()


def test_every_parameter_is_in_the_manual_with_its_meaning_and_range():
    lines = manual(ROOT / "params").splitlines()
    for key, field in FIELDS.items():
        row, = (line for line in lines if line.startswith(f"| `{key}` |"))
        assert field.help in row
        assert row.count(" | ") == 4
        assert all(f"`{choice}`" in row for choice in field.choices)
    guidance, = (line for line in lines if line.startswith("| `guidance_scale` |"))
    assert "number, 0 to 1,000" in guidance and "seed `1.0`" in guidance


def test_every_preset_is_in_the_manual():
    text = manual(ROOT / "params")
    for path in (ROOT / "params").rglob("*.yaml"):
        assert f"- `{path.name}`: " in text
    for path in (ROOT / "params").glob("*/*.yaml"):
        assert f"- `{path.name}`: quick, " in text


def test_every_notebook_declares_parameters():
    assert {*NOTEBOOKS, "colab"} == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(FIELDS) - {key for name in NOTEBOOKS for key in declared(name)} == {
        "experiments"}  # which decides what notebooks run


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_parameters_cell_runs_and_gives_the_defaults(name):
    found = {}
    exec(parameters_cell(name), {}, found)
    assert list(found.pop("__annotations__")) == list(declared(name))
    assert {key: field.default for key, field in declared(name).items()} == found
