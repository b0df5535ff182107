"""Which modules of the package a notebook reaches through its imports.

They are found statically, in the notebook's code cells and in turn in the modules, also inside
functions. Nothing is executed.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cddpm_core.config.code_version import code_without_text
from cddpm_core.config.errors import UserError

__all__ = ["Notebook", "PACKAGE", "reached_modules", "read_notebook", "short_hash"]

PACKAGE = Path(__file__).resolve().parents[1]
SESSION = "runs/session.py"


@dataclass(frozen=True)
class Notebook:
    """A notebook as a stage reads it: the parameters it declares, its code cells, and a hash of
    the text of all cells but the parameters cell, without outputs."""

    declared: tuple[str, ...]
    code: tuple[str, ...]
    sha256: str


def read_notebook(path: Path) -> Notebook:
    """Return what a stage depends on in its notebook; `UserError` if it cannot be read."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        texts = [(cell["cell_type"], "".join(cell["source"]),
                  "parameters" in cell["metadata"].get("tags", ())) for cell in cells]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a readable notebook ({type(error).__name__})") from None
    targets = [node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
               for _, text, first in texts if first for node in _parse_cell(text).body
               if isinstance(node, ast.AnnAssign | ast.Assign)]
    declared = [target.id for target in targets if isinstance(target, ast.Name)]
    own = [(kind, text) for kind, text, first in texts if not first]
    return Notebook(tuple(declared), tuple(text for kind, text in own if kind == "code"),
                    short_hash(own))


def reached_modules(code: Iterable[str], package: Path = PACKAGE) -> dict[str, str]:
    """Return the modules of the package that pieces of code import, directly or in turn.

    Keys are paths such as ``cddpm_core/data/labels.py``, values hashes of the code without
    comments and docstrings. What a property of `Session` imports counts only if the code, or a
    module that imports `Session`, names that property. `config` checks parameters and
    computes nothing, so what it imports from other folders does not count.
    """
    cells = [_parse_cell(text) for text in code]
    names = {name for cell in cells for name in _attributes(cell)}
    todo = [name for cell in cells for name in _imports(cell, package.name)]
    found: dict[Path, str] = {}
    while todo:
        for path in _files(todo.pop(), package):
            if path in found:
                continue
            tree, found[path] = _parsed(path, path.stat().st_mtime_ns)
            inside = path.relative_to(package).as_posix()
            if inside == SESSION:
                tree = _without_unused_properties(tree, names)
            imported = list(_imports(tree, package.name))
            if f"{package.name}.runs.session" in imported and not _attributes(tree) <= names:
                names |= _attributes(tree)
                found.pop(package / SESSION, None)  # more of its properties count now
            if inside.startswith("config/"):
                imported = [n for n in imported if n.startswith(f"{package.name}.config")]
            todo += imported
    return {path.relative_to(package.parent).as_posix(): found[path] for path in sorted(found)}


@lru_cache(maxsize=1000)
def _parsed(path: Path, changed: int) -> tuple[ast.Module, str]:
    """The syntax tree of a module and a hash of it; ``changed`` makes a changed file another."""
    source = path.read_text(encoding="utf-8")
    return ast.parse(source), short_hash(code_without_text(source))


def _parse_cell(text: str) -> ast.Module:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("%", "!"))]
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError:  # which the notebook itself will report
        return ast.Module([], [])


def _attributes(tree: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """The dotted names of the package that are imported, except for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.split(".")[0] == package)
        yield from _imports(node, package)


def _files(name: str, package: Path) -> list[Path]:
    """The files that the import of a dotted name executes; none for a name inside a module."""
    parts = name.split(".")[1:]
    found = [package.joinpath(*parts[:i], "__init__.py") for i in range(len(parts) + 1)]
    if parts:
        found.append(package.joinpath(*parts).with_suffix(".py"))
    return [path for path in found if path.is_file()]


def _without_unused_properties(tree: ast.Module, names: set[str]) -> ast.Module:
    """The module of `Session` without the properties that nobody names."""
    methods = {node.name: node for cls in tree.body if isinstance(cls, ast.ClassDef)
               for node in cls.body if isinstance(node, ast.FunctionDef)}
    used: set[str] = set()
    todo = [name for name in methods if name in names or name.startswith("__")]
    while todo:
        if (name := todo.pop()) not in used:
            used.add(name)
            todo += [other for other in _attributes(methods[name]) if other in methods]
    body: list[ast.stmt] = []
    for node in tree.body:
        body += [methods[n] for n in sorted(used)] if isinstance(node, ast.ClassDef) else [node]
    return ast.Module(body, [])


def short_hash(thing: Any) -> str:
    """Return 16 hex digits of the SHA-256 of a value as JSON has it."""
    return hashlib.sha256(json.dumps(thing).encode()).hexdigest()[:16]
