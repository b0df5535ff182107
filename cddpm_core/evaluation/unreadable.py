"""What an unreadable checkpoint file is, and how to convert it to a readable one."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path

from safetensors import SafetensorError

__all__ = ["what_else"]

USUAL_KEYS = ("model", "state_dict", "model_state_dict", "net", "network", "unet", "weights")


def what_else(path: Path, head: bytes, error: Exception) -> str:
    """Return what a file is that torch refused with ``error``, and how it is saved anew.

    ``head`` are its first bytes.
    """
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
    content = _pickled(path)
    if content == b"":
        return "a zip archive; unpack it, and give the file in it"
    if content is None and _is_plain_pickle(path):
        return ("a plain pickle; if you trust it, save it anew: import pickle; found = pickle.load"
                f"(open({path.name!r}, 'rb')); torch.save(found, {new}), and give that file")
    if content and "Unsupported operand" in str(error):
        return (f"a file in a later protocol of pickle; if you trust it, save it anew: found = "
                f"{load}; torch.save(found, {new}), and give that file")
    if not isinstance(error, pickle.UnpicklingError) or not (content or "GLOBAL" in str(error)):
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


def _is_plain_pickle(path: Path) -> bool:
    """Whether Python's pickle wrote a file; torch's own older format begins with a number."""
    try:
        with open(path, "rb") as file:
            ops = [op.name for op, _, _ in pickletools.genops(file)]
            return ops[:2] != ["PROTO", "LONG1"] and not file.read(1)
    except Exception:  # pickletools raises many types of errors for foreign bytes
        return False
