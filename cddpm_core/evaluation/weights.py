"""Weights as people have them: under some key, with prefixes, in half precision, beside numbers.

No code of a file is run: it is safetensors, or torch's own format read with ``weights_only``, where
plain values that people save beside weights are allowed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import decimal
import pathlib
import re
import types
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from cddpm_core.config.errors import UserError, shown
from cddpm_core.evaluation.unreadable import what_else

__all__ = ["Weights", "find_weights", "mismatch", "read_weights", "safetensors_header",
           "state_dicts"]

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
BESIDE = {"n_averaged", "total_ops", "total_params"}  # what averaging and profilers add
AVERAGED = {"ema", "swa", "average", "averaged", "avg"}
DEEP = 5  # dictionaries inside dictionaries that are looked into


def _plain_dict(*_: Any) -> dict[Any, Any]:
    return {}


# Values that people save beside weights; none runs code. Numpy's are named as in versions 1 and 2,
# paths as on other systems and in other versions of Python. A dictionary with a default is a plain
# one here, the only kind that torch fills.
HARMLESS = [
    argparse.Namespace, types.SimpleNamespace, datetime.date, datetime.datetime,
    datetime.timedelta, datetime.timezone, decimal.Decimal, torch.torch_version.TorchVersion,
    np.ndarray, np.dtype,
    *((pathlib.PurePath, f"{module}.{kind}") for module in ("pathlib", "pathlib._local")
      for kind in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    (_plain_dict, "collections.defaultdict"),
    *((kind, f"builtins.{kind.__name__}") for kind in (
        dict, float, frozenset, int, list, str, tuple)),
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
        raise UserError(f"{path}: found {what_else(path, head, error)}, {expected}") from None


def safetensors_header(path: str | Path) -> tuple[set[str], dict[str, str]]:
    """Return the names and the metadata of a safetensors file; both are empty for another file."""
    with contextlib.suppress(OSError, SafetensorError), safe_open(path, "pt") as file:
        return set(file.keys()), file.metadata() or {}
    return set(), {}


def _is_safetensors(head: bytes, size: int) -> bool:
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size


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
        if not any(isinstance(tensor, torch.Tensor) for tensor in value.values()):
            value = {name: torch.from_numpy(array) if isinstance(array, np.ndarray)
                     and array.dtype.kind in "fi" else array for name, array in value.items()}
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
