import re
import subprocess
import sys

import pytest
from conftest import ROOT

import cddpm_core


@pytest.mark.parametrize("name", cddpm_core.__all__)
def test_every_public_name_is_there(name):
    assert getattr(cddpm_core, name) is not None
    assert name in dir(cddpm_core)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'sampel'"):
        _ = cddpm_core.sampel


def test_importing_the_package_does_not_load_torch():
    code = "import sys, cddpm_core, cddpm_core.pipeline; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_modules_import_one_way_as_the_readme_lists_them():
    table = (ROOT / "README.md").read_text().split("| modules | hold |")[1].split("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines()[2:]]
    place = {name: i for i, names in enumerate(rows) for name in names}
    files = {path.stem: path for path in (ROOT / "cddpm_core").glob("*.py")}
    assert set(place) == set(files) - {"__init__", "__main__"}
    for name in place:
        for other in re.findall(r"^from cddpm_core\.(\w+) import", files[name].read_text(), re.M):
            assert place[other] <= place[name], f"{name} imports {other}"
