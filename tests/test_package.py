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
    code = "import sys, cddpm_core, cddpm_core.params; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
