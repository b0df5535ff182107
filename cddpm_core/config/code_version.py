"""A version of code that changes with what it does, not with its comments and docstrings."""

from __future__ import annotations

import ast
import hashlib
from importlib.util import find_spec

__all__ = ["code_hash", "code_without_text"]


def code_hash(*modules: str) -> str:
    """Return 12 hexadecimal digits of the SHA-256 of the code of modules, in the given order.

    Comments, docstrings and layout do not count. The modules are read, not run; only the packages
    that hold them are imported. Raises `ModuleNotFoundError` for a module that is not there.
    """
    code = hashlib.sha256()
    for name in modules:
        spec = find_spec(name)
        source = spec and spec.loader and spec.loader.get_source(name)
        if source is None:
            raise ModuleNotFoundError(f"no source of module {name!r}", name=name)
        code.update(code_without_text(source).encode() + b"\0")
    return code.hexdigest()[:12]


def code_without_text(source: str) -> str:
    """Return Python source without comments and docstrings, in one layout.

    Unparsed rather than dumped, since the dump of a tree differs between versions of Python.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        holder = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, holder) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
