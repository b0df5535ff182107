import subprocess
import sys

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.config.errors import UserError
from cddpm_core.config.presets import to_yaml
from cddpm_core.config.schema import (
    CHAPTERS,
    FIELDS,
    Params,
    applies,
    coerce,
    keys_affecting,
    keys_in,
    resolve,
    sampling_variants,
)
from cddpm_core.scheduler.samplers import SAMPLERS


def test_yaml_round_trip():
    p = Params(learning_rate=1e-5, blocks=[0, 0, 1], channels=[1, 2, 2], title="no: 'on' é 漢")
    assert resolve(yaml.safe_load(to_yaml(p))) == p


@given(st.floats(1e-12, 1.0))
def test_numbers_that_yaml_leaves_as_text_are_coerced(value):
    assert coerce("learning_rate", repr(value)) == value


@pytest.mark.parametrize(("key", "value", "wanted"), [
    ("epochs", "4", 4), ("epochs", 4.0, 4), ("epochs", "1e2", 100), ("guidance_scale", 2, 2.0),
    ("layout", "TRUE", True), ("data", None, ""), ("student_id", "0716", "0716"),
    ("seed", "0042", 42), ("seed", "2147483647", 2147483647), ("in_memory", "off", False),
    ("blocks", (0, 0, 1), [0, 0, 1]), ("channels", ["1", 2.0, 4], [1, 2, 4]),
    ("mixed_precision", yaml.safe_load("no"), "no"), ("compile", "false", "no"),
    ("compile", True, "yes"), ("compile", "Yes", "yes"),
])
def test_values_are_converted_to_the_type_of_the_field(key, value, wanted):
    for found in (coerce(key, value), getattr(resolve({key: value}), key)):
        assert found == wanted and type(found) is type(wanted)


BAD = [
    ("epoch", 2, "unknown parameter 'epoch' (did you mean 'epochs'?)"),
    ("candidates", 2, "unknown parameter 'candidates'"),
    ("epochs", "two", "epochs: expected int, found 'two'"),
    ("epochs", 1.5, "epochs: expected int, found 1.5"),
    ("epochs", True, "epochs: expected int, found True"),
    ("epochs", 0, "epochs: found 0, expected at least 1"),
    ("epochs", 10**5000, "epochs: expected int, found a very large int"),
    ("num_scenes", 10**7, "num_scenes: found 10000000, expected at most 1,000,000"),
    ("learning_rate", float("nan"), "learning_rate: expected float, found nan"),
    ("learning_rate", "inf", "learning_rate: expected float, found 'inf'"),
    ("blocks", 3, "blocks: expected a list of int, found 3"),
    ("blocks", [0, "x"], "blocks: expected int, found 'x'"),
    ("blocks", [0, 2], "blocks: found 2, expected at most 1"),
    ("sampler", "dpm", "sampler: found 'dpm' (did you mean 'ddpm'?), expected one of ddpm, "),
    ("sampler", [1], "sampler: expected str, found [1]"),
    ("experiments", ["sampl"], "experiments: found 'sampl' (did you mean 'sampling'?), expected"),
    ("standardise", "maybe", "standardise: expected bool, found 'maybe'"),
    ("standardise", 1, "standardise: expected bool, found 1"),
    ("run", b"a", "run: expected str, found b'a'"),
]


@pytest.mark.parametrize(("key", "value", "words"), BAD, ids=range(len(BAD)))
def test_bad_values_are_named_in_one_sentence(key, value, words):
    for read in (lambda: coerce(key, value, "a.yaml"), lambda: resolve({key: value}, "a.yaml")):
        with pytest.raises(UserError) as error:
            read()
        assert str(error.value).startswith(f"a.yaml: {words}") and "\n" not in str(error.value)
    with pytest.raises(UserError):
        Params(**{key: value})
    with pytest.raises(UserError):
        Params().replace(**{key: value})


@given(st.text(max_size=12), st.none() | st.booleans() | st.integers() | st.floats() | st.text()
       | st.binary() | st.lists(st.integers() | st.text(), max_size=3))
def test_anything_gives_parameters_or_one_sentence(key, value):
    for name in (key, *list(FIELDS)[::7]):
        try:
            p = resolve({name: value})
        except UserError as error:
            assert str(error)
        else:
            assert coerce(name, value) == getattr(p, name)


def test_parameters_cannot_be_changed_in_place():
    p = Params()
    with pytest.raises(ValueError, match="frozen"):
        p.epochs = 3
    p.to_dict()["channels"].append(3)
    assert p == Params() and p.replace(epochs=3) != p


@pytest.mark.parametrize("key", FIELDS)
def test_every_parameter_has_what_the_manual_and_the_notebooks_need(key):
    field = FIELDS[key]
    assert field.help and field.chapter in CHAPTERS and key in keys_in(field.chapter)
    assert key in keys_affecting(field.affects)
    assert coerce(key, field.default) == field.default
    if field.only_with:
        other, values = field.only_with
        assert all(coerce(other, value) == value for value in values)
    numbers = field.type in ("int", "float", "list[int]", "list[float]")
    assert numbers == (field.low is not None) == (field.high is not None)


def test_kinds_of_parameters():
    weights = keys_affecting("weights")
    assert {"seed", "channels", "learning_rate", "batch_size", "mixed_precision"} <= set(weights)
    assert not {"title", "epochs", "sampler", "compile", "num_processes"} & set(weights)
    assert keys_affecting("data") == (
        "data", "num_scenes", "data_seed", "renderer", "clevr_assets", "cycles_samples",
        "cycles_denoise", "holdout")
    assert keys_affecting("length") == ("epochs", "max_steps")
    assert keys_affecting("length", "data") == (*keys_affecting("data"), "epochs", "max_steps")


def test_some_parameters_apply_only_with_a_value_of_another():
    p = Params(optimizer="muon", loss_weighting="min_snr")
    assert applies("muon_learning_rate", p) and applies("loss_weight_max", p)
    assert applies("epochs", p)
    p = p.replace(optimizer="adamw", loss_weighting="uniform")
    assert not applies("muon_learning_rate", p) and not applies("loss_weight_max", p)


def test_the_samplers_are_those_of_the_registry():
    assert FIELDS["sampler"].choices == FIELDS["sweep_samplers"].choices == tuple(SAMPLERS)


def test_the_schema_is_read_without_torch():
    code = ("import sys, cddpm_core.config.schema, cddpm_core.__main__; "
            "sys.exit(bool({'torch', 'papermill', 'numpy'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_variants_of_the_sampling_experiment_are_all_combinations_and_checked():
    p = Params(sweep_samplers=["ddim", "unipc"], sweep_steps=[10, 20], sweep_guidance=[1.0])
    assert [(v.sampler, v.num_inference_steps) for v in sampling_variants(p)] == [
        ("ddim", 10), ("ddim", 20), ("unipc", 10), ("unipc", 20)]
    with pytest.raises(UserError, match="unipc cannot divide"):
        sampling_variants(p.replace(sweep_steps=[61]))
    with pytest.raises(UserError, match="needs a model trained with dropped labels"):
        sampling_variants(p.replace(label_drop=0.0, guidance_scale=1.0, sweep_guidance=[2.0]))
    with pytest.raises(UserError, match="expected at least one of each"):
        sampling_variants(p.replace(sweep_steps=[]))
