import dataclasses
import tomllib

import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from cddpm_core.errors import UserError
from cddpm_core.params import FIELDS, Params, coerce, from_notebook, resolve, sampling_arms
from cddpm_core.presets import read_yaml, to_yaml

PRESETS = sorted((ROOT / "params").glob("*.yaml"))


def test_yaml_round_trip():
    p = Params(learning_rate=1e-5, blocks=[0, 0, 1], channels=[1, 2, 2], title="no: 'on' é 漢")
    assert resolve(yaml.safe_load(to_yaml(p))) == p


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_flat_complete_and_valid(path):
    values = read_yaml(path)
    resolve(values, str(path))
    assert set(values) == set(FIELDS) - {"run"}


def test_text_stays_as_it_is_typed(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("student_id: 0716221\nauthor: 12:30\ntitle: yes\nmixed_precision: no\ndata:\n")
    p = resolve(read_yaml(path))
    assert (p.student_id, p.author, p.title) == ("0716221", "12:30", "yes")
    assert (p.mixed_precision, p.data) == ("no", "")


def test_presets_there():
    assert {"smoke", "quick", "seed", "seed_2000", "tutorial"} <= {path.stem for path in PRESETS}


def test_quick_is_the_default():
    assert resolve(read_yaml(ROOT / "params/quick.yaml")) == Params()


def test_seed_is_the_original_configuration():
    p = resolve(read_yaml(ROOT / "params/seed.yaml"))
    assert (p.batch_size, p.optimizer, p.learning_rate, p.epochs) == (8, "adam", 1e-5, 100)
    assert (p.num_train_timesteps, p.beta_schedule) == (1000, "squaredcos_cap_v2")
    assert (p.class_emb_size, p.blocks, p.channels) == (512, [0] * 6, [1, 1, 2, 2, 4, 4])
    assert (p.sampler, p.num_inference_steps, p.prediction_type) == ("ddpm", 1000, "epsilon")
    assert (p.lr_schedule, p.lr_warmup_steps, p.label_drop, p.ema_decay) == ("constant", 0, 0, 0)
    assert (p.patch_size, p.standardise, p.timestep_sampling) == (1, False, "uniform")
    longer = resolve(read_yaml(ROOT / "params/seed_2000.yaml"))
    assert longer == dataclasses.replace(p, num_train_timesteps=2000, num_inference_steps=2000,
                                         experiment_timesteps=1000)


def test_tutorial_has_the_default_widths():
    p = resolve(read_yaml(ROOT / "params/tutorial.yaml"))
    assert (p.class_emb_size, p.blocks, p.channels) == (128, [0, 1, 1], [1, 2, 2])


@given(st.floats(1e-12, 1.0))
def test_numbers_that_yaml_leaves_as_text_are_coerced(value):
    assert coerce("learning_rate", repr(value)) == value


@pytest.mark.parametrize(("key", "value", "words"), [
    ("epoch", 2, "unknown parameter 'epoch' (did you mean 'epochs'?)"),
    ("epochs", "two", "epochs: expected int, found 'two'"),
    ("epochs", 1.5, "epochs: expected int, found 1.5"),
    ("epochs", True, "epochs: expected int, found True"),
    ("epochs", 0, "epochs: found 0, expected at least 1"),
    ("learning_rate", float("nan"), "learning_rate: expected float"),
    ("blocks", 3, "blocks: expected a list of int"),
    ("blocks", [0, 2], "blocks: found 2, expected at most 1"),
    ("sampler", "dpm", "sampler: found 'dpm'"),
    ("standardise", "maybe", "standardise: expected bool"),
])
def test_bad_values_are_named_in_one_sentence(key, value, words):
    with pytest.raises(UserError) as error:
        coerce(key, value, "a.yaml")
    assert words in str(error.value) and str(error.value).startswith("a.yaml: ")


@given(st.text(max_size=12), st.none() | st.booleans() | st.integers() | st.floats() | st.text()
       | st.lists(st.integers(), max_size=3))
def test_anything_gives_parameters_or_one_sentence(key, value):
    for name in (key, *list(FIELDS)[::7]):
        try:
            resolve({name: value})
        except UserError as error:
            assert str(error)


def test_unquoted_no_is_a_choice():
    assert coerce("mixed_precision", yaml.safe_load("no")) == "no"


def test_notebook_names_a_mistyped_parameter():
    with pytest.raises(UserError, match="unknown parameter 'epochz' .did you mean 'epochs'"):
        from_notebook({"epochs": 2, "epochz": 3, "_i1": "x", "In": [], "print": print})


@pytest.mark.parametrize("content", ["- 1", "a: [", "\x00"])
def test_params_file_that_is_no_mapping(tmp_path, content):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match="bad.yaml"):
        read_yaml(path)


def test_missing_params_file_suggests_the_near_one():
    with pytest.raises(UserError, match="did you mean 'quick.yaml'"):
        read_yaml(ROOT / "params/quik.yaml")


def test_environment_agrees_with_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    assert sorted(pip) == sorted([*wanted, "-e ."])
    assert f"python{project['requires-python']}" in dependencies


def test_arms_of_the_sampling_experiment_are_all_combinations_and_checked():
    p = Params(sweep_samplers=["ddim", "heun"], sweep_steps=[10, 20], sweep_guidance=[1.0])
    assert [(arm.sampler, arm.num_inference_steps) for arm in sampling_arms(p)] == [
        ("ddim", 10), ("ddim", 20), ("heun", 10), ("heun", 20)]
    with pytest.raises(UserError, match="ddim needs a divisor"):
        sampling_arms(p.replace(sweep_steps=[30]))
    with pytest.raises(UserError, match="needs a model that has seen dropped labels"):
        sampling_arms(p.replace(label_drop=0.0, guidance_scale=1.0, sweep_guidance=[2.0]))
    with pytest.raises(UserError, match="expected at least one of each"):
        sampling_arms(p.replace(sweep_steps=[]))
