import tomllib

import papermill.cli
import pytest
import yaml
from click.testing import CliRunner

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import project_root
from cddpm_core.config.presets import read_params, read_yaml, to_yaml
from cddpm_core.config.schema import Params, applies, resolve

ROOT = project_root()
PRESETS = sorted((ROOT / "params").rglob("*.yaml"))


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid_and_hold_only_what_they_change(path):
    values, defaults = read_yaml(path), Params().to_dict()
    p = resolve(values, str(path))
    assert [key for key in values if getattr(p, key) == defaults[key]] == []
    assert [key for key in values if not applies(key, p)] == []
    assert path.read_text().startswith("# ")


def test_quick_is_the_default():
    assert {"smoke", "quick", "seed", "seed_2000", "tutorial"} <= {path.stem for path in PRESETS}
    assert resolve(read_yaml(ROOT / "params/quick.yaml")) == Params()


def test_papermill_reads_a_preset_that_changes_nothing(tmp_path):
    notebook = tmp_path / "a.ipynb"
    notebook.write_text('{"cells": [], "metadata": {"kernelspec": {"name": "python3", "language": '
                        '"python"}}, "nbformat": 4, "nbformat_minor": 5}')
    done = CliRunner().invoke(papermill.cli.papermill, [
        str(notebook), str(tmp_path / "b.ipynb"), "--prepare-only", "-f",
        str(ROOT / "params/quick.yaml")])
    assert done.exit_code == 0, done.output


def test_seed_is_the_original_configuration():
    p = resolve(read_yaml(ROOT / "params/seed.yaml"))
    assert (p.batch_size, p.optimizer, p.learning_rate, p.epochs) == (8, "adam", 1e-5, 100)
    assert (p.num_train_timesteps, p.beta_schedule) == (1000, "squaredcos_cap_v2")
    assert (p.class_emb_size, p.blocks, p.channels) == (512, [0] * 6, [1, 1, 2, 2, 4, 4])
    assert (p.sampler, p.num_inference_steps, p.prediction_type) == ("ddpm", 1000, "epsilon")
    assert (p.lr_schedule, p.lr_warmup_steps, p.label_drop, p.ema_decay) == ("constant", 0, 0, 0)
    assert (p.patch_size, p.standardise, p.timestep_sampling) == (1, False, "uniform")
    longer = resolve(read_yaml(ROOT / "params/seed_2000.yaml"))
    assert longer == p.replace(num_train_timesteps=2000, num_inference_steps=2000,
                               experiment_timesteps=1000)


def test_tutorial_has_the_default_widths():
    p = resolve(read_yaml(ROOT / "params/tutorial.yaml"))
    assert (p.class_emb_size, p.blocks, p.channels) == (128, [0, 1, 1], [1, 2, 2])


def test_text_stays_as_it_is_typed(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("student_id: 0716221\nauthor: 12:30\ntitle: yes\nmixed_precision: no\ndata:\n")
    p = resolve(read_yaml(path))
    assert (p.student_id, p.author, p.title) == ("0716221", "12:30", "yes")
    assert (p.mixed_precision, p.data) == ("no", "")


@pytest.mark.parametrize(("content", "words"), [
    ("- 1", "expected a mapping of parameter to value, found list"),
    ("a: [", "not readable as YAML"),
    ("\x00", "not readable as YAML"),
    ("epochs: 1\nepochs: 2", "'epochs' is given twice"),
    ("blocks: &a [0, 1]\nchannels: *a", "aliases are not expected"),
    ("#" * 100_001, "expected at most 100,000 characters"),
])
def test_bad_params_files(tmp_path, content, words):
    path = tmp_path / "bad.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value)


def test_missing_params_file_suggests_the_near_one():
    with pytest.raises(UserError, match="did you mean 'quick.yaml'"):
        read_yaml(ROOT / "params/quik.yaml")


def test_the_command_line_goes_over_the_file_and_names_what_it_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("epochs: 7\nseed: 3\ndata: set\n")
    p = read_params("mine.yaml", [("epochs", "8"), ("sweep_steps", "[2, 020]")], evaluator="~/a")
    assert (p.run, p.epochs, p.seed, p.sweep_steps) == ("mine", 8, 3, [2, 20])
    assert p.data == str(tmp_path / "set") and p.evaluator.endswith("/a")
    assert "~" not in p.evaluator
    assert read_params("params/quick.yaml") == Params(run="quick")  # from any folder
    with pytest.raises(UserError, match="mine.yaml with -p: image_size: expected a multiple"):
        read_params("mine.yaml", [("image_size", "60")])


@pytest.mark.parametrize(("text", "key", "value"), [
    ("0716221", "student_id", "0716221"), ("1.10", "title", "1.10"), ("no", "language", "no"),
    ("2024-13-45", "title", "2024-13-45"), ("1:30", "author", "1:30"), ("~", "author", ""),
    ("", "author", ""), ("'~'", "author", "~"), ("[007, 1e3, no]", "runs", ["007", "1e3", "no"]),
    ("0042", "seed", 42), ("1_000", "epochs", 1000), ("1e-5", "learning_rate", 1e-5),
    ("yes", "in_memory", True), ("Off", "in_memory", False), ("no", "mixed_precision", "no"),
    ("2147483647", "seed", 2147483647)])
def test_values_of_a_file_are_those_that_are_typed(tmp_path, text, key, value):
    path = tmp_path / "mine.yaml"
    path.write_text(f"{key}: {text}\n")
    params = read_params(str(path))
    assert getattr(params, key) == value
    path.write_text(to_yaml(params))  # and they stay so when they are written and read again
    assert read_params(str(path)) == params


@pytest.mark.parametrize(("text", "words"), [
    ("seed:", "seed: expected int, found None"), ("epochs: 1:30", "expected int, found '1:30'"),
    ("epochs: 0x10", "expected int, found '0x10'"), ("in_memory: maybe", "expected bool"),
    ("blocks: 01", "blocks: expected a list of int, found '01'"),
    ("title: [a]", "title: expected str, found .'a'.")])
def test_a_value_that_can_be_read_in_two_ways_is_refused(tmp_path, text, words):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_params(str(tmp_path / "mine.yaml"))


def test_environment_agrees_with_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in dependencies if isinstance(entry, dict))
    assert sorted(pip) == sorted([*wanted, "-e ."])
    assert f"python{project['requires-python']}" in dependencies
