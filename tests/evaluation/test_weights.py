"""Weights as people have them, of a small network with a batch norm."""

from __future__ import annotations

import argparse
import copy
import datetime
import pickle
import tarfile
import types
import zipfile
from collections import OrderedDict, defaultdict
from decimal import Decimal
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cddpm_core.config.errors import UserError
from cddpm_core.evaluation.weights import find_weights, mismatch, read_weights, safetensors_header

EXPECTED = "expected weights"


class Small(nn.Module):
    """A convolution, a batch norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Sequential(nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.conv(x)).mean((2, 3)))


class Wrapped(nn.Module):
    """As a LightningModule has it: a network beside a loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.criterion = net, nn.PReLU()


@pytest.fixture(scope="module")
def small() -> Small:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Small()


def averaged(model: nn.Module) -> nn.Module:
    """Return the model's moving average, with all weights twice as large."""
    twice = copy.deepcopy(model)
    with torch.no_grad():
        for weight in twice.parameters():
            weight.mul_(2)
    return AveragedModel(twice)


SAVED = {
    "under model": lambda m: {"model": m.state_dict(), "epoch": 3},
    "bare": lambda m: m.state_dict(),
    "bare dict": lambda m: dict(m.state_dict()),
    "parameters": lambda m: dict(m.named_parameters()) | dict(m.named_buffers()),
    "DataParallel": lambda m: {"model": nn.DataParallel(m).state_dict()},
    "compiled": lambda m: {"state_dict": torch.compile(m).state_dict()},
    "compiled DataParallel": lambda m: {"net": torch.compile(nn.DataParallel(m)).state_dict()},
    "DataParallel of compiled": lambda m: nn.DataParallel(torch.compile(m)).state_dict(),
    "Lightning": lambda m: {"state_dict": Wrapped(m).state_dict(), "epoch": 1, "callbacks": {},
                            "optimizer_states": [torch.optim.Adam(m.parameters()).state_dict()],
                            "hyper_parameters": {"lr": 1e-3}},
    "Lightning, compiled": lambda m: {"state_dict": Wrapped(torch.compile(m)).state_dict()},
    "nested": lambda m: {"weights": {"classifier": {"model_state_dict": m.state_dict()}}},
    "list": lambda m: [3, m.state_dict()],
    "tuple": lambda m: ({"lr": 0.1}, m.state_dict(), 0.5),
    "averaged alone": lambda m: {"ema": AveragedModel(m).state_dict()},
    "beside its average": lambda m: {"ema": averaged(m).state_dict(), "model": m.state_dict()},
    "beside its average, in one": lambda m: (
        {f"ema_model.{k}": v for k, v in averaged(m).module.state_dict().items()}
        | {f"model.{k}": v for k, v in m.state_dict().items()}),
    "beside its optimiser": lambda m: {"net": m.state_dict(),
                                       "optim": torch.optim.SGD(m.parameters()).state_dict()},
    "beside numbers of numpy": lambda m: {
        "model": m.state_dict(), "acc": np.float64(0.9), "step": np.int64(3), "f": np.float32(1),
        "done": np.bool_(True), "name": np.str_("a"), "losses": np.arange(3.0)},
    "beside options": lambda m: {
        "args": argparse.Namespace(lr=0.1, out=Path("a/b")), "weights": m.state_dict(),
        "torch": torch.__version__, "at": datetime.datetime.now(), "set": {1, 2},
        "history": {"loss": [1.0]}, "device": torch.device("cuda:0")},
    "beside paths of other systems": lambda m: {
        "paths": [PureWindowsPath("C:/a"), PurePosixPath("/a")], "model": m.state_dict(),
        "options": types.SimpleNamespace(lr=0.1, at=datetime.UTC),
        "more": [frozenset({1}), Decimal("0.1")]},
    "beside a dictionary with a default": lambda m: {
        "model": m.state_dict(), "log": defaultdict(list, loss=[1.0]), "n": defaultdict(int, a=1)},
    "arrays": lambda m: {"net": {k: v.numpy() for k, v in m.state_dict().items()}, "epoch": 1},
    "half": lambda m: {"model": copy.deepcopy(m).half().state_dict()},
    "bfloat16": lambda m: copy.deepcopy(m).bfloat16().state_dict(),
    "double": lambda m: copy.deepcopy(m).double().state_dict(),
    "channels last": lambda m: copy.deepcopy(m).to(memory_format=torch.channels_last).state_dict(),
    "before torch 0.4.1": lambda m: {k: v for k, v in m.state_dict().items()
                                     if not k.endswith("num_batches_tracked")},
    "after a profiler": lambda m: m.state_dict() | {"conv.total_ops": torch.zeros(1)},
    "OrderedDict": lambda m: OrderedDict(model=OrderedDict(m.state_dict())),
}


def write(content: object, path: Path, form: str) -> None:
    if form == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("kind", SAVED)
def test_weights_are_found_however_they_were_saved(tmp_path, small, kind, form) -> None:
    write(SAVED[kind](small), tmp_path / "a.pth", form)
    found = find_weights(read_weights(tmp_path / "a.pth", EXPECTED, 10**6), small.state_dict())
    assert not found.problem and found.state.keys() == small.state_dict().keys()
    for name, weight in small.state_dict().items():
        assert found.state[name].dtype == weight.dtype and found.state[name].shape == weight.shape
        torch.testing.assert_close(found.state[name], weight, atol=4e-3, rtol=1e-2)


@pytest.mark.parametrize(("kind", "where"), [
    ("beside its average", "ema"), ("beside its average, in one", "ema_model"),
    ("averaged alone", "ema"), ("under model", "model"), ("bare", ""),
    ("Lightning, compiled", "state_dict.net"), ("nested", "weights.classifier.model_state_dict")])
def test_an_average_is_taken_if_it_is_wanted(small, kind, where) -> None:
    found = find_weights(SAVED[kind](small), small.state_dict(), averaged=True)
    assert found.where == where and not found.problem
    factor = 2 if kind.startswith("beside") else 1
    torch.testing.assert_close(found.state["conv.weight"], factor * small.conv.weight.detach())


@given(st.lists(st.sampled_from(["module", "_orig_mod", "model", "net", "a.b", "ema_model"]),
                max_size=4), st.lists(st.sampled_from(["model", "state_dict", "x", 0]), max_size=4))
def test_prefixes_and_keys_in_any_combination(small, prefixes, keys) -> None:
    content = {".".join([*prefixes, name]): weight for name, weight in small.state_dict().items()}
    for key in keys:
        content = {key: content, "other": {"weight": torch.zeros(3)}}
    found = find_weights(content, small.state_dict())
    assert not found.problem and torch.equal(found.state["conv.weight"], small.conv.weight)


def test_safetensors_are_known_by_their_content(tmp_path, small) -> None:
    write({f"module.{k}": v.bfloat16() for k, v in small.state_dict().items()},
          tmp_path / "a.ckpt", "safetensors")
    found = find_weights(read_weights(tmp_path / "a.ckpt", EXPECTED, 10**6), small.state_dict())
    assert not found.problem and found.state["fc.0.bias"].dtype == torch.float32
    assert "module.fc.0.bias" in safetensors_header(tmp_path / "a.ckpt")[0]
    (tmp_path / "b.ckpt").write_bytes((9).to_bytes(8, "little") + b"{[[[[[[[]" * 2)
    assert safetensors_header(tmp_path / "b.ckpt") == (set(), {})
    assert safetensors_header(tmp_path / "nowhere") == (set(), {})


def changed(path: Path, change) -> None:
    """Change the pickle inside a file of torch."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, change(content) if name.endswith("data.pkl") else content)


@pytest.mark.parametrize(("old", "new"), [
    (b"numpy._core.multiarray", b"numpy.core.multiarray"),  # as numpy 1 writes it
    (b"pathlib\nPurePosixPath", b"pathlib._local\nPosixPath"),  # as Python 3.13 writes it
    (b"pathlib\nPurePosixPath", b"pathlib\nWindowsPath"),
    (b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:1")])
def test_weights_of_another_machine(tmp_path, small, old, new) -> None:
    path = tmp_path / "a.pth"
    torch.save({"model": small.state_dict(), "a": np.float64(0.5), "b": np.arange(2),
                "c": PurePosixPath("a")}, path)

    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new)

    changed(path, change)
    content = read_weights(path, EXPECTED, 10**6)
    assert content["a"] == 0.5 and not find_weights(content, small.state_dict()).problem


class Other:
    """An object that a script of somebody's saved."""


LOAD = "torch.load('a.pth', weights_only=False)"
ALONE = "torch.save(model.state_dict(), 'weights.pth'), and give that file"


@pytest.mark.parametrize(("content", "words"), [
    (lambda m: m, f"a whole pickled model, which .*: model = {LOAD}; {ALONE}"),
    (nn.DataParallel, f"a whole pickled model, which .*: model = {LOAD}; {ALONE}"),
    (lambda m: {"epoch": 1, "net": m}, f"pickled model, .*: model = {LOAD}['net']; {ALONE}"),
    (lambda m: {"args": Other(), "state_dict": m.state_dict()},
     f"weights beside other objects, .*: found = {LOAD}; torch.save(found['state_dict'], 'weig"),
    (lambda m: {"model": m.state_dict(), "criterion": nn.BCELoss()},
     f"weights beside other objects, .*: found = {LOAD}; torch.save(found['model'], 'weights"),
])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_what_is_not_loaded_says_how_it_is_saved_anew(tmp_path, small, content, words, form,
                                                      monkeypatch) -> None:
    path = tmp_path / "a.pth"
    write(content(small), path, form)
    with pytest.raises(UserError) as caught:
        read_weights(path, EXPECTED, 10**6)
    sentence = str(caught.value)
    start, end = words.split(".*")
    assert sentence.startswith(f"{path}: found ") and sentence.endswith(EXPECTED)
    assert start in sentence and end in sentence and "\n" not in sentence
    lines = sentence.split("alone: ")[1].split(", and give")[0]
    monkeypatch.chdir(tmp_path)
    exec(lines, {"torch": torch})
    found = find_weights(read_weights("weights.pth", EXPECTED, 10**6), small.state_dict())
    assert not found.problem


@pytest.mark.parametrize(("save", "words"), [
    (lambda content, path: torch.save(content, path, pickle_protocol=4), "a later protocol of "),
    (lambda content, path: torch.save(content, path, pickle_protocol=5), "a later protocol of "),
    *((lambda content, path, protocol=protocol: path.write_bytes(pickle.dumps(content, protocol)),
       "a plain pickle; if you trust it") for protocol in range(6))])
def test_pickles_of_other_protocols_say_how_they_are_saved_anew(tmp_path, small, save, words,
                                                                monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save({"model": small.state_dict(), "epoch": 1}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=words) as caught:
        read_weights("a.pth", EXPECTED, 10**6)
    exec(str(caught.value).split("anew: ")[1].split(", and give")[0], {"torch": torch})
    found = find_weights(read_weights("weights.pth", EXPECTED, 10**6), small.state_dict())
    assert not found.problem


@pytest.mark.parametrize("beside", [np.array([{}, None]), np.zeros(2, [("a", "f4")])])
def test_arrays_of_other_things_are_objects_too(tmp_path, small, beside) -> None:
    torch.save({"log": beside, "model": small.state_dict()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="weights beside other objects, .*'model'.*, 'weights.pth'"):
        read_weights(tmp_path / "a.pth", EXPECTED, 10**6)


def _script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(Small().eval(), torch.zeros(1, 3, 8, 8)), path)


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "checkpoint.pth")


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("checkpoint.pth", b"x")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize(("make", "words"), [
    (lambda path: None, "no such file"),
    (Path.mkdir, "cannot be read (Is a directory)"),
    (Path.touch, "found an empty file"),
    (lambda path: path.write_bytes(b"no checkpoint"), "found no checkpoint that torch can read"),
    (lambda path: path.write_text("\n<!DOCTYPE html><html>"), "found a web page, so its download"),
    (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1"),
     "found a pointer of Git LFS"),
    (lambda path: path.write_bytes(b"x" * 10**6 + b"x"), "found 1,000,001 bytes"),
    (lambda path: path.write_bytes(pickle.dumps({"a": 1}) + b"x"), "found no checkpoint that to"),
    (_zip, "a zip archive; unpack it"),
    (_tar, "a tar archive; unpack it"),
    (_script, "a TorchScript model; if you trust it, save its weights: model = torch.jit.load"),
])
def test_other_files_are_one_sentence(tmp_path, make, words) -> None:
    path = tmp_path / "a.pth"
    make(path)
    with pytest.raises(UserError) as caught:
        read_weights(path, EXPECTED, 10**6)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ") and words in sentence and sentence.endswith(EXPECTED)
    assert "\n" not in sentence


@pytest.mark.parametrize(("change", "words"), [
    (lambda s: {**s, "fc.0.bias": torch.zeros(3)}, "'fc.0.bias' of shape (3,) for (2,)"),
    (lambda s: {k: v for k, v in s.items() if k != "fc.0.bias"}, "no weights 'fc.0.bias'"),
    (lambda s: {k: v for k, v in s.items() if k != "conv.weight"}, "no weights 'conv.weight'"),
    (lambda s: {**s, "head.bias": torch.zeros(3)}, "weights 'head.bias' that the network does not"),
    (lambda s: {**s, "fc.0.bias": torch.tensor([1, torch.nan])}, "'fc.0.bias' that are not finite"),
    (lambda s: {**s, "fc.0.bias": torch.zeros(2, device="meta")}, "no weights 'fc.0.bias'"),
    (lambda s: {"x": torch.zeros(2)}, "keys ['x'] without weights 'conv.weight'"),
    (lambda s: 3, "int without weights 'conv.weight'"),
    (lambda s: {"net": {f"a.{k}": v for k, v in s.items()} | {"a.b": torch.zeros(1)}}, "'b' that"),
])
def test_weights_of_something_else_are_one_phrase(small, change, words) -> None:
    found = find_weights(change(small.state_dict()), small.state_dict())
    assert words in found.problem and "\n" not in found.problem


def test_a_file_that_holds_itself_is_looked_at_once(small) -> None:
    content: dict = {"model": small.state_dict()}
    for key in range(50):
        content[key] = content
    many: list = [small.state_dict()]
    for _ in range(10):
        many = [many] * 90
    assert not find_weights(content, small.state_dict()).problem
    assert find_weights(many, small.state_dict()).problem


def test_a_state_dict_is_that_of_its_network(small) -> None:
    assert mismatch(small.state_dict(), small.state_dict()) == ""
    assert mismatch({}, small.state_dict()) == "no weights 'conv.weight'"
