import json

import pytest
from conftest import ROOT

from cddpm_core.config.errors import UserError
from cddpm_core.runs.modules import reached_modules, read_notebook
from cddpm_core.runs.stages import STAGES

FILES = {
    "__init__.py": "",
    "a/__init__.py": "",
    "a/one.py": "from cddpm_core.a import two\n",
    "a/two.py": "def f():\n    from cddpm_core.b.three import g\n",
    "a/four.py": "import typing\nif typing.TYPE_CHECKING:\n    import cddpm_core.b.three\n",
    "b/__init__.py": "",
    "b/three.py": "g = 'a sentence of the report'\n",
    "b/five.py": "import cddpm_core.a.one as one\n",
    "config/params.py": "from cddpm_core.b.three import g\nfrom cddpm_core.config import errors\n",
    "config/errors.py": "",
    "runs/session.py": """
from cddpm_core.a.four import x
class Session:
    def __init__(self): ...
    def data(self):
        from cddpm_core.b.three import g
    def model(self):
        from cddpm_core.a.one import f
        return self.data
def open_session(): ...
""",
    "runs/train.py": "from cddpm_core.runs.session import Session\ndef f(s): s.model\n",
}


@pytest.fixture
def package(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "cddpm_core" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "cddpm_core"


@pytest.mark.parametrize(("code", "expected"), [
    ("import math", set()),
    ("import cddpm_core.b.three", {"b/three.py", "b/__init__.py"}),
    ("from cddpm_core.b import three", {"b/three.py", "b/__init__.py"}),
    ("from cddpm_core.b.three import g", {"b/three.py", "b/__init__.py"}),
    ("%matplotlib inline\nfrom cddpm_core.b.three import g", {"b/three.py", "b/__init__.py"}),
    ("def f():\n    from cddpm_core.a import one",
     {"a/__init__.py", "a/one.py", "a/two.py", "b/__init__.py", "b/three.py"}),
    ("import cddpm_core.a.four", {"a/__init__.py", "a/four.py"}),
    ("import cddpm_core.config.params", {"config/params.py", "config/errors.py"}),
    ("not python at all", set()),
])
def test_modules_are_reached_through_imports_of_all_kinds(package, code, expected):
    found = set(reached_modules([code], package))
    assert found == {f"cddpm_core/{name}" for name in expected | {"__init__.py"} if expected}


@pytest.mark.parametrize(("use", "there", "absent"), [
    ("s.run", [], ["b/three.py", "a/one.py"]),
    ("s.data", ["b/three.py"], ["a/one.py"]),
    ("s.model", ["b/three.py", "a/one.py"], []),
    ("import cddpm_core.runs.train", ["runs/train.py", "a/one.py", "b/three.py"], []),
])
def test_of_a_session_only_the_properties_that_are_named_count(package, use, there, absent):
    found = reached_modules(["from cddpm_core.runs.session import open_session", use], package)
    assert "cddpm_core/a/four.py" in found
    assert all(f"cddpm_core/{name}" in found for name in there)
    assert not any(f"cddpm_core/{name}" in found for name in absent)


@pytest.mark.parametrize(("text", "matters"), [
    ("# a comment\n\ng   =  'a sentence of the report'\n", False),
    ('"""A docstring."""\n' + FILES["b/three.py"], False),
    ("g = 'another sentence of the report'\n", True),
    ("g = 'a sentence of the report'\nx = 1\n", True),
])
def test_a_hash_changes_with_the_code_alone(package, text, matters):
    name, code = "cddpm_core/b/three.py", ["import cddpm_core.b.three"]
    before = reached_modules(code, package)[name]
    (package / "b/three.py").write_text(text)
    assert (reached_modules(code, package)[name] != before) == matters


def test_a_notebook_is_its_text_without_parameters_and_outputs(tmp_path):
    def written(parameters="seed: int = 0  # of all\nrun = ''", text="x = 1", outputs=()):
        cells = [{"cell_type": "markdown", "metadata": {}, "source": ["# Title"]},
                 {"cell_type": "code", "metadata": {"tags": ["parameters"]},
                  "source": parameters.splitlines(keepends=True), "outputs": []},
                 {"cell_type": "code", "metadata": {}, "source": [text], "outputs": list(outputs)}]
        (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
        return read_notebook(tmp_path / "a.ipynb")

    found = written()
    assert found.declared == ("seed", "run") and found.code == ("x = 1",)
    assert written(outputs=[{"output_type": "stream", "text": "1"}]) == found
    assert written(parameters="seed: int = 3  # other help\nrun = ''") == found
    assert written(text="x = 2").sha256 != found.sha256
    # The notebook itself reports what is no Python.
    assert written(parameters="seed: int =\nrun = ''").declared == ()
    assert written(parameters="a, b = 1, 2\nrun = ''").declared == ("run",)
    for damaged in ("{", "[]", "{}", '{"cells": [{}]}'):
        (tmp_path / "a.ipynb").write_text(damaged)
        with pytest.raises(UserError, match="not a readable notebook"):
            read_notebook(tmp_path / "a.ipynb")


REACHES = {stage: reached_modules(read_notebook(ROOT / f"notebooks/{stage}.ipynb").code)
           for stage in STAGES}


@pytest.mark.parametrize(("module", "stages"), [
    ("report/findings.py", {"report"}),
    ("evaluation/analysis.py", {"analyse"}),
    ("evaluation/fidelity.py", {"train", "timesteps", "analyse"}),
    ("report/diagram.py", {"train", "report"}),
])
def test_a_module_counts_for_the_stages_that_can_reach_it(module, stages):
    assert {name for name in STAGES if f"cddpm_core/{module}" in REACHES[name]} == stages


def test_every_stage_reaches_what_it_needs():
    for stage in ("train", "evaluate", "denoise", "analyse", "sampling"):
        assert "cddpm_core/sampling/guidance.py" in REACHES[stage]
    assert "cddpm_core/model/uvit.py" in REACHES["train"]
    assert "cddpm_core/sampling/guidance.py" not in REACHES["data"]
