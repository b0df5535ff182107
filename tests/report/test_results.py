import json

import pytest
from PIL import Image
from report.example_metrics import BENCH, DATA, EVALUATOR, FIDELITY, MADE_WITH, SAMPLE, TRAIN

from cddpm_core.config.files import write_json
from cddpm_core.config.presets import read_yaml
from cddpm_core.config.schema import resolve
from cddpm_core.report.results import write_results
from cddpm_core.runs.run import Run


def write_run(outputs, name, params, micro=0.5, missed=0, **metrics):
    run = Run(name, outputs)
    run.write_params(params.replace(run=name))
    both = {"micro": micro, "macro": micro / 2}
    run.update_metrics({"data": DATA, "evaluator": EVALUATOR, "train": TRAIN, "sample": SAMPLE,
                        "made_with": MADE_WITH, "test": both, "new_test": both, **metrics})
    hits = {"conditions": [{"hits": [row >= missed]} for row in range(32)]}
    (run / "scores.json").write_text(json.dumps({"test": hits, "new_test": hits}))


def preset(name):
    return resolve(read_yaml(f"params/{name}.yaml"))


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    from conftest import ROOT

    monkeypatch.chdir(ROOT)


def test_without_runs_there_are_the_shipped_weights_alone(tmp_path):
    text = write_results(tmp_path).read_text(encoding="utf-8")
    assert "| `metrics.json`, `scores.json` |" in text
    assert "| `best_cpu`, weights in the package |" in text
    assert "`make report PARAMS=params/best_cpu.yaml`" in text
    assert "## Ablations" not in text and "## Speed" not in text and "Table:" not in text
    write_run(tmp_path, "best_cpu", preset("best_cpu"))
    assert "weights in the package" not in write_results(tmp_path).read_text(encoding="utf-8")


def test_seeds_have_a_row_each_and_a_mean_with_its_interval(tmp_path):
    quick = preset("quick")
    for seed, micro in enumerate((0.8, 0.9, 0.7)):
        name = f"quick_seed{seed}" if seed else "quick"
        write_run(tmp_path, name, quick.replace(seed=seed), micro)
    write_run(tmp_path, "mine", quick.replace(epochs=4), 0.6, data={**DATA, "kind": "real"})
    (tmp_path / "begun").mkdir()
    write_json(tmp_path / "begun/metrics.json", {"schema": 1})
    Run("begun", tmp_path).write_params(quick)
    rows = {row.split("|")[1].strip(): row
            for row in write_results(tmp_path).read_text(encoding="utf-8").splitlines()
            if row.startswith("| ")}
    assert "0.800 | 0.400 | 0.800 | 0.400" in rows["`quick`"]
    assert "rendered scenes | released stand-in evaluator, 0.988 micro on" in rows["`quick`"]
    assert "2 epochs in 12 min 34 s" in rows["`quick`"]
    assert "dpm_solver++, 25 steps, guidance 3" in rows["`quick`"]
    assert "`make report PARAMS=params/quick.yaml`" in rows["`quick`"]
    assert "--params params/quick.yaml --run quick_seed1 -p seed 1`" in rows["`quick_seed1`"]
    assert "0.800 ± 0.248" in rows["mean of 3 seeds"]
    assert '`make seeds PARAMS=params/quick.yaml SEEDS="0 1 2"`' in rows["mean of 3 seeds"]
    assert "real i-CLEVR images" in rows["`mine`"] and "--run mine -p epochs 4`" in rows["`mine`"]
    assert "`begun`" not in rows


def test_what_was_measured_has_a_column(tmp_path):
    quick = preset("quick")
    write_run(tmp_path, "mine", quick.replace(epochs=4))
    write_run(tmp_path, "best_cpu", preset("best_cpu"))  # not the weights in the package
    before = write_results(tmp_path).read_text(encoding="utf-8")
    assert "| one layout" not in before and "| sharpness" not in before
    for seed, distance in enumerate((0.007, 0.009)):
        write_run(tmp_path, f"quick_seed{seed}", quick.replace(seed=seed), fidelity={
            **FIDELITY, "kernel_distance": {"value": distance, "baseline": -0.001}})
        for name in ("test", "new_test"):
            Run(f"quick_seed{seed}", tmp_path).update_metrics({name: {"one_layout": {
                "micro": 0.25 + seed / 2, "macro": 0.5}}})
    write_run(tmp_path, "few", quick.replace(epochs=5), fidelity={
        **FIDELITY, "kernel_distance": {"value": None, "baseline": None}})
    table = [row.split(" | ") for row in write_results(tmp_path).read_text(
        encoding="utf-8").splitlines() if row.startswith("| ")]
    header = next(row for row in table if row[0] == "| run")
    rows = {row[0].removeprefix("| "): dict(zip(header, row, strict=True)) for row in table
            if len(row) == len(header)}
    one, two = "test micro, one layout", "new_test micro, one layout"
    assert [rows["`quick_seed0`"][key] for key in (one, two)] == ["0.250", "0.250"]
    assert rows["`quick_seed1`"]["kernel distance"] == "0.0090"
    assert rows["mean of 2 seeds"]["kernel distance"].startswith("0.0080 ± 0.012")
    assert rows["mean of 2 seeds"][one].startswith("0.500 ± ")
    assert "(two sets of held-out images give −0.0010 to −0.0010)" in write_results(
        tmp_path).read_text(encoding="utf-8")
    assert rows["`few`"]["sharpness"] == "0.945"
    assert rows["`few`"]["kernel distance"] == rows["`few`"][one] == "–"
    assert rows["`mine`"]["sharpness"] == rows["`mine`"][one] == "–"


def test_machines_and_unreadable_runs_are_listed(tmp_path):
    write_run(tmp_path, "quick", preset("quick"))
    (tmp_path / "quick2").mkdir()
    (tmp_path / "quick2/metrics.json").write_text("{}")
    (tmp_path / "quick2/params.yaml").write_text("no_such_parameter: 1\n")
    text = write_results(tmp_path).read_text(encoding="utf-8").replace("\\", "")
    assert "- a processor, 2 cores, 24 GiB, commit abcdef123456: `quick`" in text
    assert "## Not readable" in text and "quick2/params.yaml: unknown parameter" in text


def test_ablations_have_gains_over_the_recipe(tmp_path):
    recipe = preset("ablations/recipe").replace(epochs=1)
    for seed in (0, 1):
        suffix = f"_seed{seed}" if seed else ""
        write_run(tmp_path, f"recipe{suffix}", recipe.replace(seed=seed), fidelity={
            "sharpness": {"value": 0.9}, "kernel_distance": {"value": 0.004}})
        write_run(tmp_path, f"adamw{suffix}", preset("ablations/adamw").replace(
            epochs=1, seed=seed), 0.4, missed=16)
    text = write_results(tmp_path).read_text(encoding="utf-8")
    ablations = text[text.index("## Ablations"):]
    assert "| `recipe` | nothing | 2 | 0.500 | 0.500 | – | 0.900 | 0.0040 | – |" in ablations
    assert "| `adamw` | `optimizer` `adamw`" in ablations and "−0.500 ± " in ablations
    assert '`make ablations SEEDS="0 1" EPOCHS=1`' in ablations


def test_speed_is_there_if_it_was_measured(tmp_path):
    write_json(tmp_path / "bench/bench.json", BENCH)
    text = write_results(tmp_path).read_text(encoding="utf-8")
    assert "12.5 (11.8 to 13.2)" in text and "| `seed_recipe` |" in text
    assert "Training takes 1.25 billion" in text
    assert "](race.png)" in text and "single objects below. (rendered scenes; " in text
    assert Image.open(tmp_path / "race.png").width > 500
