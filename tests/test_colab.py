"""Colab and Kaggle, as far as can be told here: versions, and the notebook that starts there."""

import ast
import re
import shlex
import tomllib

import nbformat
import papermill
import pytest
from conftest import ROOT
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement

from cddpm_core.__main__ import commands
from cddpm_core.config.presets import read_params

# What ``pip freeze`` prints on Colab, from the public repository googlecolab/backend-info; images
# of Kaggle begin with those of Colab. What a service has in another version is installed beside it.
COLAB = {
    "2026.01": "torch==2.9.0 torchvision==0.24.0 numpy==2.0.2 scipy==1.16.3 diffusers==0.36.0 "
               "accelerate==1.12.0 safetensors==0.7.0 pillow==11.3.0 matplotlib==3.10.0 "
               "pydantic==2.12.3 click==8.3.1 pyyaml==6.0.3 tqdm==4.67.1 fonttools==4.61.1 "
               "nbconvert==7.16.6 pandocfilters==1.5.1 tensorboard==2.19.0 wandb==0.24.0",
    "2026.02": "torch==2.10.0+cu128 torchvision==0.25.0+cu128 numpy==2.0.2 scipy==1.16.3 "
               "diffusers==0.36.0 accelerate==1.12.0 safetensors==0.7.0 pillow==11.3.0 "
               "matplotlib==3.10.0 pydantic==2.12.3 click==8.3.1 pyyaml==6.0.3 tqdm==4.67.3 "
               "fonttools==4.61.1 nbconvert==7.17.0 pandocfilters==1.5.1 tensorboard==2.19.0 "
               "wandb==0.25.0",
}


@pytest.mark.parametrize("image", COLAB)
def test_what_colab_ships_is_kept(image):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {found.name: found.specifier for found in map(Requirement, [
        *project["dependencies"], *extras["tensorboard"], *extras["wandb"]])}
    for name, version in (found.split("==") for found in COLAB[image].split()):
        assert version in wanted[name], f"{name} {version} would be replaced"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(ROOT / "notebooks/colab.ipynb", as_version=4)


@pytest.fixture(scope="module")
def source(notebook):
    """The code of the notebook as Python, with ``!`` and ``%`` as calls."""
    return "\n".join(TransformerManager().transform_cell(cell.source)
                     for cell in notebook.cells if cell.cell_type == "code")


def test_the_notebook_is_clean_and_defines_nothing(notebook, source):
    """It has no session: when it starts, the package is not installed."""
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# ")
    assert notebook.cells[1].metadata.tags == ["parameters"]
    for cell in notebook.cells:
        assert cell.id and not cell.get("outputs") and cell.get("execution_count") is None
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]


def test_the_notebook_runs_commands_that_exist_on_files_that_exist(source):
    parameters = papermill.inspect_notebook(str(ROOT / "notebooks/colab.ipynb"))
    values = {name: about["default"].strip("\"'") for name, about in parameters.items()}
    assert read_params(str(ROOT / values["params"])).run == "colab"
    found = []
    for line in re.findall(r"get_ipython\(\)\.system\((.*)\)", source):
        line = re.sub(r"{(\w+)}", lambda name: values[name[1]], ast.literal_eval(line))
        words = shlex.split(line)
        if "cddpm_core" in words:
            name, *arguments = words[words.index("cddpm_core") + 1:]
            commands.commands[name].make_context(name, arguments)
            found.append(name)
    assert found == ["report"]
