import json

import pytest
import torch

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import sha256_of
from cddpm_core.evaluation.stand_in import WEIGHTS
from cddpm_core.runs.manifest import verify, write_manifest
from cddpm_core.runs.run import Run


@pytest.fixture
def made(tmp_path, rendered, tiny):
    """A run with two files, on a data folder, with an evaluator of the user's."""
    run = Run("made", outputs=tmp_path)
    (tmp_path / "mine.safetensors").write_bytes(b"weights")
    run.update_metrics({"evaluator": {"sha256": "e" * 64}})
    (run / "images").mkdir()
    (run / "images/0.png").write_bytes(b"picture")
    (run / ".lock").write_text("")
    params = tiny.replace(run="made", data=str(rendered),
                          evaluator=str(tmp_path / "mine.safetensors"))
    run.write_params(params)
    return run, write_manifest(run, params)


def test_holds_parameters_inputs_versions_and_every_file(made, rendered):
    run, manifest = made
    assert manifest == json.loads((run / "manifest.json").read_text())
    assert manifest["params"]["seed"] == 0 and manifest["params"]["run"] == "made"
    assert set(manifest["files"]) == {"images/0.png", "metrics.json", "params.yaml"}
    assert set(manifest["inputs"]) == {"data", "evaluator", "released stand-in"}
    assert manifest["inputs"]["released stand-in"]["sha256"] == sha256_of(WEIGHTS)
    assert manifest["inputs"]["data"]["path"] == str(rendered / "train.json")
    assert {"torch", "diffusers", "commit", "machine"} <= set(manifest["made_with"])
    assert torch.backends.cpu.get_cpu_capability() in manifest["made_with"]["machine"]
    assert manifest["made_with"]["arithmetic"] in ("float32", "bfloat16")
    assert verify(run) == []


CHANGES = {
    "images/0.png: has changed": lambda run: (run / "images/0.png").write_bytes(b"picturf"),
    "images/0.png: does not exist any more": lambda run: (run / "images/0.png").unlink(),
    "images/1.png: did not exist when": lambda run: (run / "images/1.png").write_bytes(b"x"),
    "mine.safetensors has changed": lambda run: (
        run.outputs / "mine.safetensors").write_bytes(b"other"),
    "mine.safetensors does not exist any more": lambda run: (
        run.outputs / "mine.safetensors").unlink()}


@pytest.mark.parametrize("fault", CHANGES)
def test_what_differs_is_named(made, fault):
    run, _ = made
    CHANGES[fault](run)
    found = verify(run)
    assert len(found) == 1 and fault in found[0]


@pytest.mark.parametrize(("text", "words"), [
    (None, "no manifest, 'make report' writes it"), ("{", "malformed JSON"),
    ('{"schema": 1}', "no manifest, 'make report' writes it"),
    ('{"schema": 9, "inputs": {}, "files": {}}', "expected schema 1, found 9")])
def test_a_manifest_that_cannot_be_read_is_one_sentence(made, text, words):
    run, _ = made
    (run / "manifest.json").unlink() if text is None else (run / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=words):
        verify(run)
