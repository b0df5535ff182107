"""Weights as people have them: under some key, with prefixes, in half precision, beside numbers.

No code of a file is run: it is safetensors, or torch's own format read with ``weights_only``, where
plain values that people save beside weights are allowed.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import pathlib
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from cddpm_core.config.errors import UserError, shown

__all__ = ["Weights", "find_weights", "mismatch", "read_weights", "safetensors_header",
           "state_dicts"]

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
BESIDE = {"n_averaged", "total_ops", "total_params"}  # what averaging and profilers add
AVERAGED = {"ema", "swa", "average", "averaged"}
USUAL_KEYS = ("model", "state_dict", "model_state_dict", "net", "network", "unet", "weights")
DEEP = 5  # dictionaries inside dictionaries that are looked into
# Values that people save beside weights; none runs code. Numpy's are named as in versions 1 and 2.
HARMLESS = [
    argparse.Namespace, pathlib.PosixPath, datetime.date, datetime.datetime, datetime.timedelta,
    torch.torch_version.TorchVersion, np.ndarray, np.dtype,
    *(kind for name, kind in vars(np.dtypes).items() if name.endswith("DType")
      and name not in ("ObjectDType", "VoidDType", "StringDType")),
    *((getattr(np._core.multiarray, name), f"numpy.{core}.multiarray.{name}")
      for core in ("core", "_core") for name in ("scalar", "_reconstruct"))]


class Weights(NamedTuple):
    """A state dict in float32, and where in its file it was found.

    ``problem`` says why it is not the one that was expected; it is empty if it is. ``known`` is the
    number of names that were.
    """

    state: dict[str, torch.Tensor]
    where: str
    problem: str = ""
    known: int = 0


def read_weights(path: str | Path, expected: str, max_bytes: int) -> Any:
    """Return what a file of weights holds, on the CPU; see `find_weights`.

    Raises `UserError` for a file that is missing, too large or no such file; the sentence ends
    with what was ``expected``, and says how to save a pickled model anew.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > max_bytes:
            raise UserError(f"{path}: found {size:,} bytes, {expected}")
        with open(path, "rb") as file:
            head = file.read(100)
        if _is_safetensors(head, size):
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of other formats
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, {expected}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}), {expected}") from None
    except UserError:
        raise
    except Exception as error:  # torch.load raises many types of errors for foreign bytes
        raise UserError(f"{path}: found {_what_else(path, head, error)}, {expected}") from None


def safetensors_header(path: str | Path) -> dict[str, Any]:
    """Return the header of a safetensors file: shapes by name; empty for another file."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
            if _is_safetensors(head, Path(path).stat().st_size):
                found = json.loads(head[8:] + file.read(int.from_bytes(head[:8], "little") - 1))
                return found if isinstance(found, dict) else {}
    except (OSError, ValueError, RecursionError):
        pass
    return {}


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size


def _what_else(path: Path, head: bytes, error: Exception) -> str:
    """What a file is that cannot be loaded, and how a file is made of it that can."""
    load, new = f"torch.load({path.name!r}, weights_only=False)", "'weights.pth'"
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS instead of the file"
    if re.match(rb"\s*<(!doctype|html)", head, re.IGNORECASE):
        return "a web page, so its download failed"
    if isinstance(error, SafetensorError):
        return "a damaged safetensors file"
    if "TorchScript" in str(error):
        return (f"a TorchScript model; if you trust it, save its weights: model = torch.jit.load("
                f"{path.name!r}); torch.save(model.state_dict(), {new}), and give that file")
    if "legacy .tar" in str(error):
        return (f"a tar archive; unpack it, or if torch before 0.4 wrote it and you trust it, save "
                f"it anew: found = {load}; torch.save(found, {new}), and give that file")
    if _pickled(path) == b"":
        return "a zip archive; unpack it, and give the file in it"
    if not isinstance(error, pickle.UnpicklingError) or "GLOBAL" not in str(error):
        return "no checkpoint that torch can read"
    key, is_model = _layout(path)
    kind = "a whole pickled model" if is_model else "weights beside other objects"
    line = (f"model = {load}{key}; torch.save(model.state_dict(), {new})" if is_model else
            f"found = {load}; torch.save(found{key}, {new})")
    return (f"{kind}, which would run code of the file when loaded; if you trust it, save the "
            f"weights alone: {line}, and give that file")


def _layout(path: Path) -> tuple[str, bool]:
    """The index of the weights in a pickle, empty if they are all of it; whether it is a model."""
    try:
        if content := _pickled(path):
            read = list(pickletools.genops(content))
        else:
            with open(path, "rb") as file:  # magic number, version and system come first
                read = [list(pickletools.genops(file)) for _ in range(4)][-1]
        ops = [(op.name, str(arg)) for op, arg, _ in read
               if op.name not in ("PROTO", "FRAME", "BINPUT", "LONG_BINPUT", "MEMOIZE")]
        is_dict = [name == "EMPTY_DICT" or arg == "collections OrderedDict" for name, arg in ops]
        if is_dict[0]:
            at = next(i for i, (_, arg) in enumerate(ops) if arg in USUAL_KEYS)
            return f"[{ops[at][1]!r}]", not is_dict[at + 1]
    except Exception:  # damaged, or no usual key
        return "['model']", False
    return "", True


def _pickled(path: Path) -> bytes | None:
    """The pickle in a zip file of torch, empty in another zip file, None in another file."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            with archive.open(names[0]) if names else io.BytesIO() as file:
                return file.read(10**7)
    except Exception:  # zipfile raises many types of errors for foreign bytes
        return None


def find_weights(content: Any, expected: Mapping[str, torch.Tensor], *,
                 averaged: bool = False) -> Weights:
    """Return the state dict with the names and shapes ``expected``, wherever in a file it is.

    It may lie under any key and its names may have any prefix, as wrappers give it. If several
    fit, ``averaged`` says whether a moving average is wanted, known by the name of its key; of
    equal ones the first is taken. If none fits, it is the nearest, with its ``problem``.
    """
    found = []
    for at, tensors in state_dicts(content):
        for prefix, count in _prefixes(tensors, expected).items():
            part = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()
                    if name.startswith(prefix)}
            part |= {name: torch.zeros_like(tensor) for name, tensor in expected.items()
                     if name.endswith("num_batches_tracked") and name not in part}  # before 0.4.1
            where = [*at, *filter(None, prefix.split("."))]
            means = sum(bool(AVERAGED & set(re.split("[^a-z]+", word.lower()))) for word in where)
            problem = mismatch(part, expected)
            found.append((bool(problem), -count if problem else means * (-1) ** averaged,
                          len(found), Weights(part, ".".join(where), problem, count)))
    if not found:
        keys = (f"keys {shown(list(content))}" if isinstance(content, Mapping)
                else type(content).__name__)
        return Weights({}, "", f"{keys} without weights {next(iter(expected))!r}")
    best = min(found, key=lambda each: each[:3])[-1]
    if best.problem:
        return best
    try:
        state = {name: tensor.float() if tensor.is_floating_point() else tensor
                 for name, tensor in best.state.items()}
        wrong = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    except (RuntimeError, NotImplementedError):  # quantised, say
        return best._replace(problem="weights of an unknown kind")
    problem = f"weights {wrong[0]!r} that are not finite" if wrong else ""
    return best._replace(state=state, problem=problem)


def state_dicts(content: Any) -> Iterator[tuple[tuple[str, ...], dict[str, torch.Tensor]]]:
    """Yield all dictionaries of tensors in a file, with their keys; names without wrappers' parts.
    """
    seen: set[int] = set()  # a pickle may hold itself

    def walk(value: Any, at: tuple[str, ...]) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
        if id(value) in seen or len(at) > DEEP:
            return
        seen.add(id(value))
        if isinstance(value, list | tuple) and len(value) < 100:
            value = dict(enumerate(value))
        if not isinstance(value, Mapping):
            return
        plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): tensor
                 for name, tensor in value.items()
                 if isinstance(name, str) and isinstance(tensor, torch.Tensor)
                 and name.split(".")[-1] not in BESIDE}
        if plain:
            yield at, plain
        for key, inner in value.items():
            yield from walk(inner, (*at, str(key)))

    yield from walk(content, ())


def _prefixes(names: Mapping[str, Any], expected: Mapping[str, Any]) -> Counter[str]:
    """What stands before expected names, and before how many of them."""
    found: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        found.update("".join(f"{part}." for part in parts[:i]) for i in range(min(len(parts), 20))
                     if ".".join(parts[i:]) in expected)
    return Counter(dict(found.most_common(10)))


def mismatch(found: Mapping[str, Any], expected: Mapping[str, torch.Tensor]) -> str:
    """Return how a state dict differs from the expected one, or the empty string."""
    for name, tensor in expected.items():
        if not isinstance(found.get(name), torch.Tensor) or found[name].is_meta:
            return f"no weights {name!r}"
        if found[name].shape != tensor.shape:
            return f"{name!r} of shape {tuple(found[name].shape)} for {tuple(tensor.shape)}"
    surplus = sorted(map(str, set(found) - set(expected)))
    return f"weights {shown(surplus[0])} that the network does not have" if surplus else ""
