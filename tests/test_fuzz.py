"""Files of unknown sources: each gives a result or one clear sentence, fast and in little memory.

``make torture`` tries thousands of each kind; ``make test`` a few dozen.
"""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
import torch
import yaml
from click.testing import CliRunner
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from papermill.cli import papermill as papermill_command
from papermill.engines import NBClientEngine
from PIL import Image
from runs.test_papermill_engine import found_in, notebook, parameters_after

from cddpm_core.config.errors import UserError
from cddpm_core.config.presets import parse_yaml, read_yaml
from cddpm_core.config.schema import FIELDS, Params, coerce, resolve
from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.data.images import check_folder, load_image
from cddpm_core.data.labels import (
    OBJECTS,
    condition_file,
    read_conditions,
    read_objects,
    read_train,
)
from cddpm_core.evaluation.evaluator import ResNet18, load_official
from cddpm_core.evaluation.given_images import read_images
from cddpm_core.evaluation.stand_in import WEIGHTS, load_stand_in
from cddpm_core.evaluation.weights import find_weights, read_weights
from cddpm_core.runs.importing import import_model
from cddpm_core.runs.run import OUTPUTS, Run
from cddpm_core.sampling.pipeline import load_pipeline, save_pipeline
from cddpm_core.scenes.fitting import reference_frames
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


def _folder(path: Path, found: dict) -> None:
    """Make a folder of files, of links to text, and of folders."""
    for name, content in found.items():
        with suppress(OSError, ValueError):  # a name that no file can have, or that there is
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                (path / name).write_bytes(content)
            else:
                (path / name).symlink_to(content)


NAMES = ["CLEVR_train_000000_0.png", "CLEVR_train_000000_1.png"]
asked_names = st.sampled_from(NAMES).flatmap(lambda name: st.sampled_from(
    [name, name.upper(), f"iclevr/{name}", f"C:\\x\\{name}", name[:-4], f"../{name}", "/", ".", ""])
) | st.text(max_size=6)
there_names = st.sampled_from(NAMES).flatmap(lambda name: st.sampled_from(
    [name, name.upper(), f"iclevr/{name}", f"iclevr/iclevr/{name}", f"images/._{name}",
     f"iclevr\\{name}", f"a/b/c/d/{name}", f"__MACOSX/{name}", f"{name[:-3]}jpg", f"{name}/x"]))


@given(st.data())
@cases(100)
def test_data_folders(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("set")
    labels = data.draw(st.dictionaries(asked_names, st.lists(st.sampled_from(OBJECTS), max_size=3),
                                       max_size=3))
    text = json.dumps(labels, indent=1).encode(data.draw(st.sampled_from(
        ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])))
    content = st.just(PICTURES[0]) | st.sampled_from(PICTURES).flatmap(damaged) | st.sampled_from(
        ["nowhere", ".", "iclevr", "train.json"])
    _folder(folder, data.draw(st.dictionaries(there_names, content, max_size=6)) | {
        "train.json": data.draw(st.just(text) | damaged(text))})
    skip = data.draw(st.sampled_from(["error", "skip"]))
    for read in (check_folder, lambda *a: IclevrDataset(a[0], 8, missing=a[1]),
                 lambda *a: read_images(a[0]), lambda *a: reference_frames(a[0])):
        found = result_or_sentence(read, folder, skip)
        if isinstance(found, IclevrDataset):
            assert len(found) == len(found.pixels) <= len(labels) or not labels


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


numbers = st.from_regex(r"[-+]?[0-9_.:eExX]{1,9}", fullmatch=True)
typed = numbers | st.text(max_size=8) | st.sampled_from([
    "0716221", "0042", "no", "Yes", "~", "null", "None", "True", "2020-99-99", "1.10", "[0, 1]",
    "[007, no]", "'a'", "# a", "a: b", "漢 {x}", "-p", "!!int 7", "&a 1", "\\n", "'\"\\"])


@given(st.sampled_from(list(FIELDS)), typed, st.sampled_from(["-p", "-r", "-f", "-y", "-b"]))
@cases(100)
def test_values_given_to_papermill(tmp_path_factory, key, text, option):
    """What is typed arrives as it is, or is refused in one sentence."""
    folder = tmp_path_factory.mktemp("papermill")
    nbformat.write(notebook(), folder / "a.ipynb")
    (folder / "a.yaml").write_text(f"{key}: {text}", encoding="utf-8", errors="ignore")
    read = {"-f": lambda: read_yaml(folder / "a.yaml"),
            "-y": lambda: parse_yaml(f"{key}: {text}", "-y"),
            "-b": lambda: parse_yaml(f"{key}: {text}", "-b")}.get(option, lambda: {key: text})
    wanted = result_or_sentence(lambda: {name: coerce(name, value)
                                         for name, value in read().items()})
    given = {"-f": [folder / "a.yaml"], "-y": [f"{key}: {text}"],
             "-b": [base64.b64encode(f"{key}: {text}".encode()).decode()]}.get(option, [key, text])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NBClientEngine, "execute_managed_notebook", lambda *_, **__: None)
        done = CliRunner().invoke(papermill_command, [
            *map(str, (folder / "a.ipynb", folder / "mine/a.ipynb", option, *given))])
    if done.exit_code == 0:
        found = {"run": "", "data": "", **wanted}
        assert found_in(folder / "mine/a.ipynb")[0] == found
    else:
        assert not (folder / "mine").exists() and (wanted is None or key == "run")


names = st.sampled_from(["run", "seed", "epochs", "student_id", "epochz", "x"])
values = st.one_of(st.integers(), st.text(max_size=5).map(repr), st.sampled_from(
    ["x", "[1]", "None", "-1", "1e3", "seed", "f()", "'a' 'b'", "1 if x else 2", "{[1]: 2}"]))
lines = st.one_of(
    st.builds("{}: int = {}".format, names, values), st.builds("{} = {}".format, names, values),
    st.sampled_from(["# Parameters", "import os", "", "del x", "x: int", "for seed in (1,): pass",
                     "run, p = 1, 2", "%time 1", "s = f(globals())", "'text'"]))


@given(st.lists(st.lists(lines, max_size=5).map("\n".join), max_size=6))
@cases(100)
def test_cells_of_a_notebook(cells):
    """Whatever was run, a parameter has a value that some cell's text gives it."""
    found = result_or_sentence(parameters_after, cells)
    assert found is None or all(name in "\n".join(cells) for name in found[0])


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
    return {"model": ResNet18().state_dict()}


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


class Small(torch.nn.Module):
    """A network whose weights are looked for."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2)


SMALL = Small().state_dict()
keys = st.sampled_from(["model", "ema", "state_dict", "module", "_orig_mod", "net", 0]) | st.text(
    max_size=4)


@given(st.data())
@cases(100)
def test_weights_as_people_have_them(tmp_path, data):
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    prefix = "".join(f"{key}." for key in data.draw(st.lists(keys, max_size=3)))
    content = {f"{prefix}{name}": weight.to(dtype) if weight.is_floating_point() else weight
               for name, weight in SMALL.items()}
    for key in data.draw(st.lists(keys, max_size=4)):
        content = {key: content, "beside": data.draw(
            json_values | st.just(torch.zeros(2)) | st.just(np.float64(0.5)) | st.just(SMALL))}
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=data.draw(st.booleans()))
    found = find_weights(read_weights(path, "expected weights", 10**6), SMALL)
    assert not found.problem and found.state.keys() == SMALL.keys()
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    content = result_or_sentence(read_weights, path, "expected weights", 10**6)
    assert isinstance(find_weights(content, SMALL).problem, str)


@given(st.data())
@cases(20, 0.2)
def test_imported_models(tmp_path_factory, checkpoint, tiny, rendered, data):
    folder = tmp_path_factory.mktemp("import")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OUTPUTS, str(folder / "outputs"))
        content = checkpoint.read_bytes()
        (folder / "checkpoint.pt").write_bytes(data.draw(st.just(content) | damaged(content)))
        params = tiny.replace(run="x", data=str(rendered))
        found = result_or_sentence(import_model, folder / "checkpoint.pt", params)
        assert found is None or (found / "model/unet/config.json").exists()


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
