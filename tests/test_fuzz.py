"""Files of unknown sources: each gives a result or one clear sentence, fast and in little memory.

``make torture`` tries thousands of each kind; ``make test`` a few dozen.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.config.presets import read_yaml
from cddpm_core.config.schema import FIELDS, Params, resolve
from cddpm_core.data.images import load_image
from cddpm_core.data.labels import (
    OBJECTS,
    condition_file,
    read_conditions,
    read_objects,
    read_train,
)
from cddpm_core.evaluation.evaluator import build_resnet18, load_official
from cddpm_core.evaluation.stand_in import WEIGHTS, load_stand_in
from cddpm_core.runs.run import Run
from cddpm_core.sampling.pipeline import load_pipeline, save_pipeline
from cddpm_core.training.trainer import Trainer

CASES = int(os.environ.get("CDDPM_CASES", "0"))


def cases(few: int, fraction: float = 1.0):
    """Settings for a fraction of the cases asked for, or for a few."""
    return settings(max_examples=int(CASES * fraction) or few,
                    suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def little_memory():
    """No test of this file may make the process a GiB larger, for however short a time."""
    before = psutil.Process().memory_info().rss
    with suppress(OSError):  # where the peak cannot be set back, it is that of all tests so far
        Path("/proc/self/clear_refs").write_text("5")
    yield
    peak = next((int(line.split()[1]) * 1024 for line in _status() if line.startswith("VmHWM")), 0)
    assert peak - before < 2**30


def _status() -> list[str]:
    with suppress(OSError):
        return Path("/proc/self/status").read_text().splitlines()
    return []


def result_or_sentence(read, *arguments):
    """Return what a reader gives, or None where it says what is wrong in one sentence.

    It may not hang: 5 seconds are what the worst file may cost it.
    """
    started = time.perf_counter()
    try:
        return read(*arguments)
    except UserError as error:
        said = str(error)
        assert "\n" not in said and 10 < len(said) < 1500, said
        return None
    finally:
        assert time.perf_counter() - started < 5


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """Bytes, some of which are changed, deleted, repeated, inserted or cut off."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        match draw(st.sampled_from(["change", "delete", "repeat", "cut", "insert"])):
            case "change" if found:
                found[at] = draw(st.integers(0, 255))
            case "delete":
                del found[at:at + draw(st.integers(1, 40))]
            case "repeat":
                found[at:at] = found[at:at + draw(st.integers(1, 400))]
            case "cut":
                del found[at:]
            case "insert":
                found[at:at] = draw(st.binary(max_size=20))
    return bytes(found)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(OBJECTS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.text(max_size=6) | st.sampled_from(OBJECTS), inner, max_size=4), max_leaves=12)
LABELS = json.dumps({"a.png": ["red cube", "cyan sphere"], "b.png": ["gray cylinder"]}).encode()
CONDITIONS = condition_file("test").read_bytes()[:600]
INDICES = json.dumps({name: i for i, name in enumerate(OBJECTS)}).encode()


@given(st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode())
       | damaged(LABELS) | damaged(CONDITIONS) | damaged(INDICES),
       st.sampled_from([read_train, read_conditions, read_objects]))
@cases(150)
def test_label_files(tmp_path, content, read):
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    found = result_or_sentence(read, path)
    if found is not None and read is not read_objects:
        conditions = found.values() if isinstance(found, dict) else found
        assert all(set(names) <= set(OBJECTS) and names for names in conditions)


@pytest.mark.parametrize("content", [
    b"[" * 100_000, b'{"a": ' * 50_000, b"9" * 100_000, b"[[" + b'"red cube", ' * 99_999 + b'"x"]]',
    b"\xff\xfe" + '["red cube"]'.encode("utf-16-le"), b"NaN", b'["\\ud800"]', b'[["\\ud800"]]',
    b'{"a\\n\\nb": [["red cube"]]}', b"[[" + b'"' + b"a" * 10**6 + b'"]]'])
@pytest.mark.parametrize("read", [read_train, read_conditions, read_objects])
def test_label_files_that_go_to_extremes(tmp_path, content, read):
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    assert result_or_sentence(read, path) is None


yaml_values = json_values | st.dates() | st.lists(st.integers(-3, 10**30), max_size=5)
QUICK = (ROOT / "params/quick.yaml").read_bytes()


def read_params(path) -> Params:
    return resolve(read_yaml(path), str(path))


@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode) | damaged(QUICK)
       | st.dictionaries(st.sampled_from(list(FIELDS)) | st.text(max_size=8), yaml_values,
                         max_size=5).map(lambda v: yaml.safe_dump(v).encode())
       | st.dictionaries(st.sampled_from(list(FIELDS)), st.text(max_size=30), max_size=3).map(
           lambda v: "\n".join(f"{k}: {t}" for k, t in v.items()).encode()))
@cases(150)
def test_params_files(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    found = result_or_sentence(read_params, path)
    if found is not None:
        assert resolve(found.to_dict()) == found


LAUGHS = "\n".join(["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"] + [
    f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, 12)])
MERGES = "\n".join(["a0: &a0 {ha: 1}"] + [
    f"a{i}: &a{i} {{<<: [" + ", ".join([f"*a{i - 1}"] * 9) + "]}" for i in range(1, 12)])


@pytest.mark.parametrize("content", [
    LAUGHS, MERGES, "epochs: " + "9" * 50_000, "epochs: 1\nepochs: 2", "epochs: 2020-99-99",
    "a: " + "[" * 5000, "- " * 3000, "!!python/object/apply:os.system [touch harmed]",
    "epochs: !!timestamp no", "epochs: !!bool no way", "? [a, b]\n: 1", "epochs: 1e999",
    "blocks: [" + "0, " * 20_000 + "1]", "#" * 200_000, "class_emb_size: 4000000000",
    "run: ../../elsewhere", "run: /etc", "run: a/b", "run: ..", "run: ''\nruns: [../quick]"])
def test_params_files_that_go_to_extremes(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    path.write_text(content)
    found = result_or_sentence(read_params, path)
    assert not (tmp_path / "harmed").exists()
    if found is not None:  # a name is looked at where it becomes a folder
        assert result_or_sentence(Run, found.run or found.runs[0]) is None


def picture(mode: str, size: tuple[int, int], form: str, **options) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(noise).convert(mode)
    image.save(file, form, **options)
    return file.getvalue()


def animation() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (20, 10), (i * 40, 0, 0)) for i in range(5)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


PICTURES = [
    *(picture(mode, (32, 24), "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
    *(picture(mode, (32, 24), "JPEG") for mode in ("RGB", "L", "CMYK")),
    *(picture(mode, (32, 24), "TIFF") for mode in ("RGB", "F", "CMYK", "I;16", "I")),
    picture("RGB", (1, 1), "BMP"), picture("RGB", (3, 500), "PNG"), picture("P", (9, 9), "GIF"),
    picture("RGB", (32, 24), "WEBP"), picture("RGB", (32, 24), "PPM"), animation()]


@pytest.mark.parametrize("content", PICTURES)
def test_every_kind_of_picture_is_read(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    assert load_image(path).shape == (64, 64, 3) and load_image(path).dtype == np.uint8


@given(st.sampled_from(PICTURES).flatmap(damaged) | st.binary(max_size=300))
@cases(150)
def test_image_files(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    found = result_or_sentence(load_image, path)
    assert found is None or (found.shape, found.dtype) == ((64, 64, 3), np.uint8)


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 1), (9000, 9000), (60_000, 600)])
def test_huge_images_are_refused_before_they_are_unpacked(tmp_path, size):
    plain = Image.new("1", (8, 8))
    plain.save(tmp_path / "image.png")
    content = bytearray((tmp_path / "image.png").read_bytes())
    at = content.index(b"IHDR")
    content[at + 4:at + 12] = b"".join(side.to_bytes(4, "big") for side in size)
    import zlib

    content[at + 17:at + 21] = zlib.crc32(content[at:at + 17]).to_bytes(4, "big")
    (tmp_path / "image.png").write_bytes(content)
    assert result_or_sentence(load_image, tmp_path / "image.png") is None


@pytest.fixture(scope="module")
def trainer(tiny, dataset) -> Trainer:
    return Trainer(tiny, dataset)


@pytest.fixture(scope="module")
def checkpoint(trainer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.pt"
    trainer.save(path)
    return path


@given(st.data())
@cases(60)
def test_checkpoints(tmp_path, checkpoint, trainer, data):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(data.draw(damaged(checkpoint.read_bytes()) | st.binary(max_size=100)))
    result_or_sentence(trainer.load, path)


@given(st.data())
@cases(25)
def test_checkpoints_that_hold_something_else(tmp_path, checkpoint, trainer, data):
    state = torch.load(checkpoint, weights_only=True)
    other = data.draw(json_values | st.just(torch.zeros(3)) | st.just({"a": torch.zeros(2, 2)}))
    inside = state
    key = data.draw(st.sampled_from(sorted(inside)))
    while isinstance(inside[key], dict) and inside[key] and data.draw(st.booleans()):
        inside = inside[key]
        key = data.draw(st.sampled_from(list(inside)))
    inside[key] = other
    path = tmp_path / "checkpoint.pt"
    torch.save(state, path)
    result_or_sentence(trainer.load, path)


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("pack", [
    lambda bomb, path: torch.save(bomb, path),
    lambda bomb, path: torch.save({"model": {"conv1.weight": bomb}}, path),
    lambda bomb, path: torch.save({"model": bomb}, path, _use_new_zipfile_serialization=False),
    lambda bomb, path: path.write_bytes(pickle.dumps({"model": bomb}))])
def test_a_pickle_bomb_does_not_go_off(tmp_path, trainer, pack):
    path = tmp_path / "checkpoint.pth"
    pack(Bomb(tmp_path / "harmed"), path)
    for read in (load_official, trainer.load):
        assert result_or_sentence(read, path) is None
    assert not (tmp_path / "harmed").exists()


@pytest.fixture(scope="module")
def official() -> dict:
    return {"model": build_resnet18().state_dict()}


@given(st.data())
@cases(10, 0.05)
def test_evaluators_of_other_shapes(tmp_path, official, data):
    weights = dict(official["model"])
    name = data.draw(st.sampled_from(sorted(weights)))
    match data.draw(st.sampled_from(["shape", "gone", "surplus", "kind"])):
        case "shape":
            weights[name] = torch.zeros(data.draw(st.lists(st.integers(0, 5), max_size=4)))
        case "gone":
            del weights[name]
        case "surplus":
            weights[data.draw(st.text(max_size=9))] = torch.zeros(1)
        case "kind":
            weights[name] = data.draw(json_values)
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": weights}, path)
    result_or_sentence(load_official, path)
    path.write_bytes(path.read_bytes()[:data.draw(st.integers(0, 10**6))])
    assert result_or_sentence(load_official, path) is None


@given(st.data())
@cases(10, 0.05)
def test_damaged_stand_ins(tmp_path, data):
    content = bytearray(WEIGHTS.read_bytes())
    # The header holds names, shapes and facts; what follows are numbers, and any number is one.
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    path = tmp_path / "mine.safetensors"
    path.write_bytes(content[:data.draw(st.one_of(st.none(), st.integers(0, 10**7)))])
    result_or_sentence(load_stand_in, path)


def test_a_zip_that_unpacks_to_more_than_there_is_room_for(tmp_path, trainer):
    path = tmp_path / "checkpoint.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\0" * 300_000_000)
    assert path.stat().st_size < 10**6
    for read in (load_official, trainer.load):
        assert result_or_sentence(read, path) is None


@pytest.fixture(scope="module")
def saved(tiny_pipeline, tmp_path_factory) -> dict[Path, bytes]:
    """The files of a pipeline."""
    folder = tmp_path_factory.mktemp("model")
    save_pipeline(tiny_pipeline, folder)
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


@given(st.data())
@cases(40)
def test_model_folders(tmp_path, saved, data):
    files = dict(saved)
    name = data.draw(st.sampled_from(sorted(files)))
    if name.name == "config.json" and data.draw(st.booleans()):
        config = json.loads(files[name])
        key = data.draw(st.sampled_from(sorted(k for k in config if not k.startswith("_"))))
        config[key] = data.draw(json_values | st.sampled_from([10**9, [10**9] * 2, -1, 0]))
        files[name] = json.dumps(config).encode()
    else:
        files[name] = data.draw(damaged(files[name]))
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(content)
    result_or_sentence(load_pipeline, tmp_path)
