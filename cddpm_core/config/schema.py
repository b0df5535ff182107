"""The one schema of parameters: every key of every preset and every notebook.

A params file is flat YAML. Papermill reads YAML 1.1, where ``1e-5`` is a string and ``no`` a
boolean, so each value is converted to the type that its field declares, and refused if it cannot
be, or may not be what was typed. `Params` (in ``params.py``) declares the fields; this module
answers questions about them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from cddpm_core.config.errors import UserError, did_you_mean, shown
from cddpm_core.config.parameter import Checked, Parameter, convert, sentence
from cddpm_core.config.params import FIELDS, Params
from cddpm_core.scheduler.samplers import SAMPLERS

__all__ = ["CHAPTERS", "FIELDS", "Parameter", "Params", "applies", "coerce",
           "keys_affecting", "keys_in", "resolve", "sampling_variants", "timestep_variants"]

Kind = TypeVar("Kind", bound=Checked)
CHAPTERS = tuple(dict.fromkeys(field.chapter for field in FIELDS.values()))


def keys_affecting(*kinds: str) -> tuple[str, ...]:
    """Return the parameters that affect one of ``kinds``, in the order of the schema.

    The kinds are weights, data, length, evaluator, sampling, report and nothing.
    """
    return tuple(key for key, field in FIELDS.items() if field.affects in kinds)


def keys_in(*chapters: str) -> tuple[str, ...]:
    """Return the parameters of the given `CHAPTERS`, in the order of the schema."""
    return tuple(key for key, field in FIELDS.items() if field.chapter in chapters)


def applies(key: str, p: Params) -> bool:
    """Return whether a parameter has a meaning, given the values of the others."""
    other, values = FIELDS[key].only_with or (key, (getattr(p, key),))
    return getattr(p, other) in values


def sampling_variants(p: Params) -> list[Params]:
    """Return ``p`` for each variant of the sampling experiment; `UserError` if one is invalid."""
    if not (p.sweep_samplers and p.sweep_steps and p.sweep_guidance):
        raise UserError("sweep_samplers, sweep_steps and sweep_guidance: expected at least one of "
                        f"each, found {p.sweep_samplers}, {p.sweep_steps} and {p.sweep_guidance}")
    return [p.replace(sampler=sampler, num_inference_steps=steps, guidance_scale=scale)
            for sampler in p.sweep_samplers for steps in p.sweep_steps
            for scale in p.sweep_guidance]


def timestep_variants(p: Params) -> dict[int, Params]:
    """Return ``p`` for both T of the timesteps experiment; `UserError` if one is invalid."""
    if p.experiment_timesteps == p.num_train_timesteps:
        raise UserError(f"experiment_timesteps: found {p.experiment_timesteps}, the "
                        "num_train_timesteps of the run itself, expected another number")
    return {T: p.replace(num_train_timesteps=T, experiment_epochs=0, num_inference_steps=(
        T if SAMPLERS[p.sampler].all_steps else min(p.num_inference_steps, T)))
        for T in (p.num_train_timesteps, p.experiment_timesteps)}


@cache
def _adapter(key: str) -> TypeAdapter:
    info = Params.model_fields[key]
    before = BeforeValidator(lambda value: convert(value, info.annotation))
    # As in a dictionary, so that an error names the key as it does in `Params`.
    return TypeAdapter(dict[str, Annotated[info.annotation, *info.metadata, before]])


def coerce(key: str, value: Any, where: str = "") -> Any:
    """Return ``value`` as the type that ``key`` declares; `UserError` if that cannot be.

    ``where`` (a file name, say) opens the sentence of the error.
    """
    at = f"{where}: " if where else ""
    if key not in FIELDS:
        raise UserError(f"{at}unknown parameter {shown(key)}{did_you_mean(key, FIELDS)}")
    try:
        return _adapter(key).validate_python({key: value})[key]
    except ValidationError as error:
        raise UserError(at + sentence(error, FIELDS)) from None


def resolve(values: Mapping[str, Any], where: str = "", kind: type[Kind] = Params) -> Kind:
    """Return `Params` with the given values over the defaults; `UserError` for unknown keys."""
    for key in values:
        if not isinstance(key, str):
            raise UserError(f"{where or 'parameters'}: expected names as keys, found {shown(key)}")
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None
