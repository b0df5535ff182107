"""One parameter: what the schema says about it, its conversion, and the sentence of an error."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from cddpm_core.config.errors import UserError, did_you_mean, shown

__all__ = ["Checked", "Parameter", "about", "convert", "key", "sentence"]

Chapter = Literal["run", "data", "evaluator", "model", "noise", "training", "sampling",
                  "experiments", "report"]
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
Affects = Literal["weights", "data", "length", "evaluator", "sampling", "report", "nothing"]


@dataclass(frozen=True)
class Parameter:
    """What the schema says about a parameter; choices and bounds of a list are its items'."""

    name: str
    help: str
    chapter: str
    affects: str
    default: Any
    type: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    only_with: tuple[str, tuple] | None = None


class Checked(BaseModel):
    """Parameters that are converted to their types and checked.

    Raises `UserError` for an unknown name, and for a value of another type or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UserError(sentence(error, self.fields())) from None

    @field_validator("*", mode="before")
    @classmethod
    def _convert(cls, value: Any, info: Any) -> Any:
        return convert(value, cls.model_fields[info.field_name].annotation)

    @classmethod
    def fields(cls) -> dict[str, Parameter]:
        """Return what the schema says of each parameter."""
        return {name: about(name, info) for name, info in cls.model_fields.items()}


def key(default: Any, text: str, *, chapter: Chapter, affects: Affects, low: float | None = None,
        high: float | None = None, only_with: tuple[str, tuple] | None = None) -> Any:
    """Return the pydantic field of a parameter.

    ``affects`` is what changes with it, for `keys_affecting`. With ``only_with=(key, values)`` it
    has a meaning only if that other parameter has one of the values.
    """
    extra = {"chapter": chapter, "affects": affects, "only_with": only_with}
    return Field(default, description=text, ge=low, le=high, json_schema_extra=extra)


def about(name: str, info: FieldInfo) -> Parameter:
    """Return the `Parameter` of a pydantic field."""
    kind, bounds = info.annotation, list(info.metadata)
    item = get_args(kind)[0] if get_origin(kind) is list else kind
    if get_origin(item) is Annotated:
        item, field = get_args(item)
        bounds += field.metadata
    return Parameter(
        name=name, help=info.description, default=info.get_default(call_default_factory=True),
        type=type_text(kind), choices=get_args(item) if get_origin(item) is Literal else (),
        low=next((b.ge for b in bounds if hasattr(b, "ge")), None),
        high=next((b.le for b in bounds if hasattr(b, "le")), None), **info.json_schema_extra)


def type_text(kind: Any) -> str:
    """Return a field's type as a notebook writes it: ``int`` or ``list[str]``, say."""
    if get_origin(kind) is list:
        return f"list[{type_text(get_args(kind)[0])}]"
    if get_origin(kind) is Annotated:
        return type_text(get_args(kind)[0])
    return "str" if get_origin(kind) is Literal else kind.__name__


def convert(value: Any, kind: Any) -> Any:
    """Return ``value`` as the type ``kind``, where YAML or a command line wrote another one.

    Text that is a number becomes one, whole floats become integers, nothing becomes empty text.
    Numbers and arrays of numpy are plain ones, and a path is its text. A boolean is never a number.
    A number or boolean is no text: YAML reads 0716 as 462, and no as false. Raises `ValueError`
    with what was expected.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    elif hasattr(value, "tolist"):
        value = value.tolist()
    wanted = type_text(kind)
    if get_origin(kind) is list:
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list of {wanted[5:-1]}, found {shown(value)}")
        return [convert(item, get_args(kind)[0]) for item in value]
    said = BOOLEANS.get(str(value).lower()) if isinstance(value, bool | str) else None
    if (word := {True: "yes", False: "no"}.get(said)) in get_args(kind):
        return word  # what YAML 1.1 makes a boolean, unless it is quoted
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    try:
        if wanted == "bool" and str(value).lower() in BOOLEANS:
            return BOOLEANS[str(value).lower()]
        if wanted == "int" and plain:
            return _whole(value)
        if wanted == "float" and plain and math.isfinite(float(value)):
            return float(value)
        if wanted == "str" and value is None:
            return ""
        if wanted == "str" and isinstance(value, str):
            return value
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"expected {wanted}, found {shown(value)}")


def _whole(number: str | float) -> int:
    """A whole number, also one of more digits than a float has."""
    with contextlib.suppress(ValueError):
        return int(str(number))
    if float(number) != int(float(number)):
        raise ValueError
    return int(float(number))


def sentence(error: ValidationError, fields: Mapping[str, Parameter]) -> str:
    """Return the first fault that pydantic found as one sentence."""
    fault = error.errors(include_url=False)[0]
    key, found, limits = fault["loc"][0], shown(fault["input"]), fault.get("ctx", {})
    if fault["type"] == "extra_forbidden":
        return f"unknown parameter {shown(key)}{did_you_mean(key, fields)}"
    if fault["type"] == "literal_error":
        choices = fields[key].choices
        return (f"{key}: found {found}{did_you_mean(fault['input'], choices)}, expected one of "
                f"{', '.join(choices)}")
    if fault["type"] == "greater_than_equal":
        return f"{key}: found {found}, expected at least {limits['ge']:,.10g}"
    if fault["type"] == "less_than_equal":
        return f"{key}: found {found}, expected at most {limits['le']:,.10g}"
    return f"{key}: {limits.get('error', fault['msg'])}{_how(fields[key], fault['input'])}"


def _how(parameter: Parameter, found: Any) -> str:
    """How a value is given that YAML or papermill's command line reads as something else."""
    if parameter.type.startswith("list") and isinstance(found, str):
        items = found if found.startswith("[") else "[...]"
        return (f"; write {items}, for papermill as -y '{parameter.name}: {items}' or in a file "
                "with -f")
    if parameter.type == "list[str]":
        return "; write each in quotes"
    if parameter.type == "str" and isinstance(found, bool | int | float | date):
        return (f"; it may not be what was typed: write it in quotes, or give it to papermill as "
                f"-r {parameter.name} TEXT")
    return ""
