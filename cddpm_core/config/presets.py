"""Params files: flat YAML, read strictly and written in the order of the schema.

Aliases, double keys and large files are refused, and every value stays as it was typed. What the
values mean and which are allowed is up to the schema.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from cddpm_core.config.errors import UserError, did_you_mean, shown
from cddpm_core.config.files import project_root, read_text, typed_path
from cddpm_core.config.schema import FIELDS, Params, coerce, resolve

__all__ = ["PATHS", "absolute", "parse_yaml", "read_params", "read_yaml", "to_yaml"]

# parameters that are paths
PATHS = ("data", "blender", "clevr_assets", "evaluator", "reference", "font_paths", "words")

MAX_LENGTH = 100_000  # of a params file


class _PlainLoader(yaml.SafeLoader):
    """YAML whose values are texts as they were typed, or nothing: 0716 is no octal number here.

    Aliases, which can stand for more than a machine holds, and double keys are refused.
    """

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not expected in a params file")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key, count in Counter(keys).items() if count > 1]
        if twice:
            raise yaml.YAMLError(f"{shown(twice[0])} is given twice")
        return super().construct_mapping(node, deep)


_PlainLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("(~|null|Null|NULL|)$"),
                                   ["~", "n", "N", ""])


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the flat mapping of a params file; `UserError` names the file and the fault."""
    path = Path(path)
    if not path.exists():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.yaml")])
        raise UserError(f"{path}: no such params file{near}")
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """Return a flat mapping that is given as YAML; `UserError` names ``where`` and the fault."""
    if len(text) > MAX_LENGTH:
        raise UserError(f"{where}: expected at most {MAX_LENGTH:,} characters of parameters, "
                        f"found {len(text):,}")
    try:
        found = yaml.load(text, _PlainLoader)
    except Exception as error:  # PyYAML meets strange text with errors of many types
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{where}: not readable as YAML ({reason})") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{where}: expected a mapping of parameter to value, "
                        f"found {type(found).__name__}")
    return found


def to_yaml(p: Params) -> str:
    """Return the parameters as YAML that `read_yaml` and `resolve` turn into an equal `Params`."""
    return yaml.safe_dump(p.to_dict(), sort_keys=False, allow_unicode=True)


def read_params(file: str, changes: Sequence[tuple[str, str]] = (), *, run: str = "",
                data: str = "", evaluator: str = "", words: bool = False) -> Params:
    """Return the parameters of a params file, with the values of the command line over them.

    ``changes`` are pairs of key and text. Paths are made absolute. The folder ``report`` beside the
    file holds the author's words, if it is there or ``words`` says so. Raises `UserError`.
    """
    path = typed_path(file)
    if not path.exists() and (project_root() / path).exists():
        path = project_root() / path
    values = {key: coerce(key, value, str(path)) for key, value in read_yaml(path).items()}
    values |= {key: coerce(key, _value(key, text), "-p") for key, text in changes}
    values |= {key: text for key, text in (("data", data), ("evaluator", evaluator)) if text}
    if not values.get("words") and (words or (path.parent / "report").is_dir()):
        values["words"] = str(path.parent / "report")
    values |= {key: absolute(values[key]) for key in PATHS if key in values}
    return resolve({**values, "run": run or values.get("run") or path.stem},
                   f"{path} with -p" if changes else str(path))


def absolute(given: str | list[str], start: str | Path = "") -> str | list[str]:
    """Return a path, or each of a list of paths, made absolute; empty text stays empty.

    ``start`` is what it is relative to; empty: the working directory.
    """
    if isinstance(given, list):
        return [absolute(path, start) for path in given]
    return str(Path(start, typed_path(given)).absolute()) if given else given


def _value(key: str, text: str) -> Any:
    """Text as YAML has it, unless the parameter is text: a title may hold a colon or be 'null'."""
    if key in FIELDS and FIELDS[key].type == "str":
        return text
    try:
        return yaml.load(text, _PlainLoader)
    except Exception:  # yaml raises many kinds; the text itself is refused with a sentence
        return text
