"""The pictures that a Markdown text names: read, checked, never fetched."""

from __future__ import annotations

import base64
import binascii
import io
import re
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from PIL import Image

from cddpm_core.config.errors import UserError, did_you_mean, shown

__all__ = ["data_uri", "read_picture"]

FORMATS = {"PNG": "png", "JPEG": "jpeg", "GIF": "gif", "WEBP": "webp"}


def read_picture(target: str, folder: Path) -> tuple[bytes, str]:
    """Return the bytes of a picture and their kind, such as ``png``.

    ``target`` is what stands in the text: a ``data:`` URI, or the path of a file, relative to
    ``folder``. Raises `UserError` if it is not there, is no picture or lies on the network.
    """
    if target.startswith("data:"):
        name, found = "a picture", _decoded(target)
    elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", target) or target.startswith("//"):
        raise UserError(f"{shown(target)}: expected a picture in a file, found an address; save "
                        "the picture beside the text")
    else:
        path = next((path for path in (folder / target, folder / unquote(target))
                     if path.is_file()), None)
        if path is None:
            missing = folder / unquote(target)
            near = did_you_mean(missing.name, [file.name for file in missing.parent.glob("*")])
            raise UserError(f"{missing}: no such picture{near}")
        name, found = str(path), path.read_bytes()
    if found.lstrip()[:5] in (b"<?xml", b"<svg ") and b"<svg" in found[:2000]:
        return found, "svg"
    try:
        with Image.open(io.BytesIO(found)) as opened:
            opened.verify()
            return found, FORMATS[opened.format or ""]
    except Exception:  # Pillow meets damaged files with errors of many types
        raise UserError(f"{name}: not a readable picture, expected PNG, JPEG, GIF, WebP or SVG"
                        ) from None


def data_uri(target: str, folder: Path) -> str:
    """Return a picture as a ``data:`` URI; see `read_picture`."""
    found, kind = read_picture(target, folder)
    kind = "svg+xml" if kind == "svg" else kind
    return f"data:image/{kind};base64,{base64.b64encode(found).decode()}"


def _decoded(uri: str) -> bytes:
    about, _, data = uri.partition(",")
    try:
        return base64.b64decode(data) if about.endswith(";base64") else unquote_to_bytes(data)
    except (binascii.Error, ValueError):
        return b""
