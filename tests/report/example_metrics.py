"""Made-up results of a run, as the stages write them."""

from __future__ import annotations

import torch

from cddpm_core.config.files import write_json
from cddpm_core.config.schema import Params
from cddpm_core.data.dataset import ConditionDataset
from cddpm_core.data.labels import OBJECTS
from cddpm_core.evaluation.score import score, score_facts
from cddpm_core.runs.run import Run

DATA = {"kind": "rendered", "sha256": "d" * 64, "images": 36,
        "objects_per_image": {"1": 12, "2": 12, "3": 12},
        "per_object": dict.fromkeys(OBJECTS, 3), "conditions": 30,
        "overlap": {"test": {"conditions": 32, "seen": 3},
                    "new_test": {"conditions": 32, "seen": 4}},
        "left_out": 7, "missing": 5, "reference": [
            {"file": "real_<0>.png", "objects": ["red cube"], "difference": 1.51,
             "difference_in_boxes": 3.26},
            {"file": "real_1.png", "objects": ["red cube", "cyan sphere"], "difference": 1.74,
             "difference_in_boxes": 2.98}],
        "pixel_mean": [-0.031, -0.052, -0.063], "pixel_std": [0.141, 0.152, 0.163]}
EVALUATOR = {"kind": "stand-in", "sha256": "e" * 64, "known": True, "released": True,
             "heldout_micro": 0.9876, "heldout_macro": 0.98, "heldout_images": 1000,
             "heldout_augmented_micro": 0.97, "heldout_crowded_micro": 0.96}
OFFICIAL = {"kind": "official", "sha256": "0" * 64, "known": True, "released": False,
            "heldout_micro": None}
TRAIN = {"images_per_second": 81.5, "seconds": 754.2, "steps": 1234, "images": 39488,
         "loss": 0.0421, "parameters": 3_123_456, "device": "cpu", "finished": True}
MADE_WITH = {"machine": "a processor, 2 cores, 24 GiB", "commit": "abcdef123456"}
SAMPLE = {"images_per_second": 3.21, "num_inference_steps": 25, "sampler": "dpm_solver++",
          "guidance_scale": 3.0}
ANALYSE = {
    "quarters": [{"timesteps": [250 * i, 250 * i + 249], "x_0": 0.001 * (i + 1),
                   "x_0_without_label": 0.002 * (i + 1), "epsilon": 0.1} for i in range(4)],
    "images": 256, "image_kind": "held-out images",
    "raw": {name: {"micro": 0.5, "macro": 0.25} for name in ("test", "new_test")},
    "confusion": {"colour": [[9, 4], [1, 9]], "shape": [[18, 2], [0, 3]], "bound": 3, "alien": 2,
                  "reshaped": 2, "other": 6},
    "restored": [{"timestep": 0, "micro": 0.99}, {"timestep": 249, "micro": 0.9},
                 {"timestep": 999, "micro": 0.85}],
    "nearest": {"images": 1000, "generated": 8.25, "heldout": 7.5}}
FIDELITY = {
    "images": 1000, "baseline_images": 498, "image_kind": "held-out images",
    "sharpness": {"value": 0.945, "baseline": 1.0123},
    "kernel_distance": {"value": 0.0075, "baseline": -0.0012},
    "two_sample": {"value": 0.875, "baseline": 0.4987},
    "diversity": {"labels": ["blue cube"], "images": 16, "training": 250, "value": 0.8125,
                  "baseline": 1.0625}}
VARIANTS = [{"sampler": sampler, "num_inference_steps": steps, "guidance_scale": scale,
             "seconds_per_image": steps / 100, "micro": micro, "network_calls": steps}
            for sampler, steps, scale, micro in (
                ("ddim", 10, 1.0, 0.40), ("ddim", 10, 4.0, 0.78), ("unipc", 50, 4.0, 0.80),
                ("unipc", 25, 4.0, 0.70))]
TIMESTEPS = {"objects": {"test": 72, "new_test": 84}, "variants": [
    {"num_train_timesteps": T, "num_inference_steps": 25, "epochs": 6, "finished": True,
     "loss": 0.05, "seconds": 100.0, "test": {"micro": micro, "macro": 0.5},
     "new_test": {"micro": 0.25, "macro": 0.5}} for T, micro in ((1000, 0.5), (2000, 0.75))]}
RACE = {"what": "a | b", "images": 1600, "parameters": 2_500_000, "micro": 0.5, "macro": 0.4,
        "objects": 48, "steps": 100, "peak_mib": 700.0, "sharpness": 0.75, "looks": [
            {"minutes": minutes, "micro": minutes / 6, "sharpness": minutes / 4}
            for minutes in (1.5, 3.0)]}
BENCH = {
    **{name: {"what": f"variant one of {name} | variant two",
              "ratio": {"median": 12.5, "min": 11.75, "max": 13.25},
              "seconds": {"one": [2.0], "two": [1.0]}, "peak_mib": {"one": 1234.5, "two": 678.0}}
       for name in ("rendering", "training_vs_plain_loop", "sampling_vs_seed_loop")},
    "run": "quick", "data": "rendered", "repeats": 3,
    "arithmetic": {"training_flops_per_image": 1.25e9, "training_flops_per_second": 1.1e11,
                   "matrix_flops_per_second": {"float32": 1.3e11, "bfloat16": 2.2e11},
                   "arithmetic": "bfloat16"},
    "recipe_vs_seed_recipe": {"minutes": 3.0, "evaluator": EVALUATOR, "chance": 0.1, "variants": {
        "ours": RACE, "seed_recipe": {**RACE, "micro": 0.0625}}},
    "against_peer": {"minutes": 3.0, "evaluator": EVALUATOR, "variants": {"ours": RACE},
                     "missing": "the peer is not installed"},
    "made_with": MADE_WITH}
BENCH["sampling_vs_seed_loop"] = {**BENCH["sampling_vs_seed_loop"], "micro": {
    "evaluator": EVALUATOR, "ours": 0.8125, "seed_loop": 0.5}}


def noisy_scores() -> dict:
    """Scores of both condition files that are neither perfect nor chance."""
    scores = {}
    for seed, name in enumerate(("test", "new_test")):
        noise = torch.randn(32, 24, generator=torch.Generator().manual_seed(seed))
        conditions = ConditionDataset(name)
        scores[name] = score(conditions.labels + noise, conditions.conditions)
    return scores


def second_verdict(scores: dict, fewer: int = 0) -> dict:
    """What another evaluator says of the images of ``scores``: ``fewer`` hits in each."""
    hits = {name: [sum(entry["hits"]) for entry in found["conditions"]]
            for name, found in scores.items()}
    return {"evaluator": EVALUATOR, **{
        name: {**score_facts(scores[name]), "micro": 0.123,
               "image_hits": [max(0, n - fewer) for n in hits[name]]} for name in scores}}


def write_example(run: Run, **changes) -> Run:
    """Write a run of all stages with these results; ``changes`` are to its parameters."""
    scores = noisy_scores()
    run.write_params(Params(run=run.name, **changes))
    run.update_metrics({
        "data": DATA, "evaluator": EVALUATOR, "train": TRAIN, "sample": SAMPLE,
        "analyse": ANALYSE, "fidelity": FIDELITY, "timesteps": TIMESTEPS, "made_with": MADE_WITH,
        "sampling": {"objects": 156, "variants": VARIANTS},
        **{name: score_facts(scored) for name, scored in scores.items()}})
    write_json(run / "scores.json", scores)
    return run
