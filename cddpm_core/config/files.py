"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from cddpm_core.config.errors import UserError, did_you_mean, shown

__all__ = ["SCHEMA", "atomic", "check_schema", "project_root", "read_json", "read_text",
           "remove_leftovers", "sha256_of", "typed_path", "unwritable", "write_json", "write_png",
           "write_text"]

SCHEMA = 1  # of the files of a run
MAX_TEXT = 50_000_000  # bytes of a text file of an unknown source
# What the user can do about an error of writing.
MENDED_BY = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES,
                     errno.EPERM), "free the disk or change its permissions"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
                    "name another folder"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT),
                    "connect its disk again")}


def project_root() -> Path:
    """Return the folder that holds ``notebooks/`` and ``params/``: the checkout, else the
    nearest such folder at or above the working directory, else that directory itself."""
    here = Path.cwd()
    for folder in (Path(__file__).resolve().parents[2], here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "params").is_dir():
            return folder
    return here


def typed_path(given: str | Path) -> Path:
    """Return a path as somebody typed it, ``~`` being the home of a user that there is.

    Unlike `Path.expanduser`, this leaves alone what only looks like a home: a folder ``~old``, say.
    """
    return Path(os.path.expanduser(given))


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed to ``path``.

    If a folder has been made there, each of its files is renamed into ``path``.
    Raises `UserError` if the disk is full or may not be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_dir():
            for file in sorted(f for f in temporary.rglob("*") if f.is_file()):
                target = path / file.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise unwritable(error, path) from None
    finally:
        _remove(temporary)


def unwritable(error: OSError, path: str | Path) -> UserError | OSError:
    """Return a `UserError` for an error that the user can mend, a full disk say, else the error."""
    if error.errno == errno.ENOENT and not error.filename:  # as tempfile says it
        return UserError(f"{error.strerror}; free the disk or set TMPDIR to another folder")
    if error.errno not in MENDED_BY:
        return error
    return UserError(f"{path}: cannot be written ({error.strerror}); {MENDED_BY[error.errno]}, and "
                     "give the same command again")


def check_schema(found: Mapping[str, Any], path: Path) -> None:
    """Raise `UserError` if a file was written by another version of this package."""
    schema = found.get("schema", SCHEMA)
    if not isinstance(schema, int) or schema != SCHEMA:  # a tensor, say, is equal to nothing
        raise UserError(f"{path}: expected schema {SCHEMA}, found {shown(schema)}; it was "
                        "written by another version of this package")


def _remove(path: Path) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # where it could not be written, there is nothing
            path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    for path in [*folder.rglob(".*.tmp"), *folder.glob(".*.running.ipynb")]:
        pid = re.fullmatch(r"\..+\.(\d+)\.tmp", path.name)
        if not psutil.pid_exists(int(pid[1])) if pid else path.suffix == ".ipynb":
            _remove(path)


def write_text(path: str | Path, content: str) -> None:
    """Write text in UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def png_of(picture: Any) -> bytes:
    """Return the PNG file of a PIL image or a matplotlib figure."""
    file = io.BytesIO()
    if hasattr(picture, "savefig"):
        picture.savefig(file, format="png", dpi=150, bbox_inches="tight")
    else:
        picture.save(file, format="png")
    return file.getvalue()


def write_png(path: str | Path, picture: Any) -> None:
    """Write a PIL image or a matplotlib figure as a PNG file, atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(png_of(picture))


def write_json(path: str | Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: str | Path) -> str:
    """Return a text file in any encoding of Unicode, without its byte order mark.

    Raises `UserError` if it is missing, in another encoding, or too large.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > MAX_TEXT:
            raise UserError(f"{path}: expected at most {MAX_TEXT:,} bytes, found {size:,}")
        content = path.read_bytes()
    except FileNotFoundError:
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")])
        raise UserError(f"{path}: no such file{near}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        return content.decode(json.detect_encoding(content))
    except UnicodeDecodeError as error:
        line = content[:error.start].count(b"\n") + 1
        raise UserError(f"{path}: cannot be read as text, line {line} is not {error.encoding}; "
                        "save it as UTF-8") from None


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file, see `read_text`.

    Raises `UserError` if it is missing or malformed, or gives one key two values.
    """
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        for key, value in pairs if len(found) < len(pairs) else ():
            if found[key] != value:
                raise UserError(f"{path}: {shown(key)} is there twice, with different values")
        return found

    def refuse(constant: str) -> None:
        # Outside of strings, which the first alternative skips.
        found = re.finditer(r'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)', text)
        at = next(match.start() for match in found if match[1])
        raise json.JSONDecodeError(f"{constant} is no value of JSON", text, at)

    text = read_text(path)
    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except json.JSONDecodeError as error:
        why = error.msg if text.strip() else "the file is empty"
        raise UserError(f"{path}: malformed JSON at line {error.lineno}, column {error.colno}: "
                        f"{why}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
