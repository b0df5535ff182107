"""Folders as people have them: hidden files, endings in any case, pictures one folder deeper."""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from cddpm_core.config.errors import UserError, shown

__all__ = ["ARCHIVES", "DEPTH", "FolderFiles", "archives", "by_number", "elsewhere", "files_in",
           "find_by_name", "folder_of_pictures", "look_up", "pictures_in"]

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
ADDED = ("__macosx", "@eadir", "$recycle.bin")  # folders that systems add
DEPTH = 3  # folders inside folders that are looked into


def files_in(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the files of a folder, and of the folders in it down to ``depth``.

    Links are followed, and those that lead nowhere are no files. Names that begin with a dot are
    hidden, ``._a.png`` of macOS say, and left out like what file managers add. Raises `UserError`
    if the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            there = [entry for entry in entries
                     if not entry.name.startswith(".") and entry.name.lower() not in ADDED]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from None
    for entry in there:
        # Only links cost another look at the disk, which may be far away.
        if os.path.isfile(entry) if entry.is_symlink() else entry.is_file():
            yield Path(entry.path)
    for path in sorted(entry.path for entry in there if os.path.isdir(entry)) if depth else ():
        with contextlib.suppress(UserError):  # such as lost+found
            yield from files_in(Path(path), depth - 1)


def pictures_in(folder: Path, depth: int = 0) -> list[Path]:
    """Return the pictures among `files_in`, in the order of the numbers in their names."""
    found = (path for path in files_in(folder, depth) if path.suffix.lower() in PICTURES)
    return sorted(found, key=lambda path: (by_number(path), path))


def folder_of_pictures(folder: Path) -> Path:
    """Return the folder itself, or the only one inside it that holds pictures if it has none.

    Raises `UserError` if there are none, or in several folders.
    """
    if pictures_in(folder):
        return folder
    inside = sorted({path.parent for path in pictures_in(folder, DEPTH)})
    if len(inside) == 1:
        return inside[0]
    if inside:
        named = " and ".join(str(path.relative_to(folder)) for path in inside[:2])
        raise UserError(f"{folder}: the images are in {len(inside)} folders inside it, such as "
                        f"{named}; give one of these")
    others = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    raise UserError(f"{folder}: a folder without images, found "
                    + (", ".join(others[:5]) + ", ..." * (len(others) > 5) or "nothing")
                    + archives(folder))


@dataclass(frozen=True)
class FolderFiles:
    """Which of the ``named`` images a folder has; ``images`` is the subfolder that holds them.

    ``found`` has the paths of those that are there, ``missing`` are the others, ``surplus`` are
    pictures that are there but not named.
    """

    images: Path
    named: tuple[str, ...]
    found: dict[str, Path]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]


def look_up(folder: Path, named: Sequence[str], usual: Sequence[str]) -> FolderFiles:
    """Return which named images a folder has in one of the ``usual`` subfolders.

    Names that are not there as they are written are looked for in all folders inside, see
    `find_by_name`, which may raise `UserError`.
    """
    there = {folder / part: {path.name: path for path in files_in(folder / part)}
             for part in usual if (folder / part).is_dir()}
    images = max(there, key=lambda part: sum(name in there[part] for name in named))
    found = {name: there[images][name] for name in named if name in there[images]}
    if len(found) < len(named):
        found = find_by_name(folder, named, images)
        parents = sorted({path.parent for path in found.values()})
        images = Path(os.path.commonpath(parents)) if parents else folder / usual[0]
    used = set(found.values())
    surplus = sorted(path.name for path in (files_in(images) if found else ())
                     if path not in used and path.suffix.lower() in PICTURES)
    return FolderFiles(images, tuple(named), found,
                       tuple(name for name in named if name not in found), tuple(surplus))


def find_by_name(folder: Path, names: Iterable[str], usual: Path) -> dict[str, Path]:
    """Return the pictures below a folder that names stand for, whatever system wrote the names.

    The case of letters does not matter, nor do an ending and folders that are not there. Of
    several pictures that fit equally well the one in the folder ``usual`` is meant. Raises
    `UserError` if there are still two, and if two names stand for one picture.
    """
    there, found = defaultdict(list), {}
    for path in files_in(folder, DEPTH):
        *_, stem = parts = _parts(path.relative_to(folder))
        there[stem].append((path, parts))
    for name in names:
        wanted, ending = _parts(name), PurePath(name).suffix.lower()
        ranked = sorted((((path.suffix.lower() == ending, _alike(parts, wanted),
                           path.parent == usual, path.name == name), -len(parts), path)
                         for path, parts in there.get(wanted[-1], ())
                         if path.suffix.lower() in (ending, *PICTURES)), reverse=True)
        if ranked:
            found[name] = ranked[0][2]
        if len(ranked) > 1 and ranked[0][0] == ranked[1][0] and not found[name].samefile(
                ranked[1][2]):
            twice = " and ".join(str(path.relative_to(folder)) for *_, path in ranked[:2])
            raise UserError(f"{folder}: {shown(name)} is there twice, as {twice}")
    owner = {path: name for name, path in found.items()}
    for name, path in found.items():
        if owner[path] != name:
            raise UserError(f"{folder}: {shown(name)} and {shown(owner[path])} are names of one "
                            f"image, {path.relative_to(folder)}")
    return found


def _parts(path: str | Path) -> list[str]:
    """The parts of a path in lower case, without the ending, whichever system wrote it.

    An ending may be there twice, where a system hides it.
    """
    *parts, name = [part for part in re.split(r"[\\/]", str(path).lower()) if part] or [""]
    while name.endswith(PICTURES) and PurePath(name).stem != name:
        name = PurePath(name).stem
    return [*parts, name]


def _alike(parts: Sequence[str], others: Sequence[str]) -> int:
    """How many parts are the same at the end."""
    return len(os.path.commonprefix([parts[::-1], others[::-1]]))


def archives(folder: Path) -> str:
    """Return the end of a sentence that names archives that are not unpacked, or nothing."""
    found = sorted(path.name for path in files_in(folder, DEPTH)
                   if path.suffix.lower() in ARCHIVES and not re.search(
                       r"\.(pt|pth|bin)\.", path.name.lower()))  # as torch's users call weights
    return f"; {', '.join(found[:3])} is not unpacked" if found else ""


def elsewhere(folder: Path, name: str) -> str:
    """Return the end of a sentence that says where, inside or above a folder, a file is instead.

    That is also one of another case, or with an ending more that a system hides.
    """
    others = [path for path in (folder.parent / name, *files_in(folder, DEPTH))
              if path.name.lower().startswith(name) and path.exists()]
    return (f", but there is {others[0]}" if others else "") + archives(folder)


def by_number(path: Path) -> list[Any]:
    """Return a key that sorts numbers within names by value: 2.png before 10.png."""
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [int(part) if part.isdecimal() else part for part in parts]
