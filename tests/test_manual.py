from conftest import ROOT

from cddpm_core.manual import manual
from cddpm_core.params import FIELDS


def test_the_manual_is_that_of_the_schema_and_the_presets():
    written = (ROOT / "params/README.md").read_text(encoding="utf-8")
    assert written == manual(ROOT / "params"), "write it anew with: python -m cddpm_core manual"


def test_the_manual_has_every_parameter_with_its_meaning_and_range():
    lines = manual(ROOT / "params").splitlines()
    for key, field in FIELDS.items():
        row, = (line for line in lines if line.startswith(f"| `{key}` |"))
        assert field.metadata["help"] in row
        assert row.count(" | ") == 5
    guidance, = (line for line in lines if line.startswith("| `guidance_scale` |"))
    assert "0 to 1,000" in guidance and "seed" in guidance


def test_the_manual_says_what_each_ablation_and_experiment_is():
    text = manual(ROOT / "params")
    for path in (ROOT / "params").glob("*/*.yaml"):
        assert f"- `{path.name}`: quick, " in text
