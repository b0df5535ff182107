"""The weights that come with the package: a finished run, as small as it goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cddpm_core.data import ConditionDataset
from cddpm_core.errors import UserError
from cddpm_core.evaluation import draw_and_score, get_evaluator
from cddpm_core.facts import command, evaluator_facts, score_facts
from cddpm_core.params import Params, from_notebook
from cddpm_core.runs import Run, open_run
from cddpm_core.training import load_trained, save_model

__all__ = ["NAME", "open_trained", "pack", "pretrained_run"]

NAME = "pretrained"
ASSETS = Path(__file__).with_name("assets")


def pretrained_run() -> Run:
    """Return the run that comes with the package, to be read only; its cache is that of all runs.

    It has ``params.yaml``, ``metrics.json`` and ``model/``, so that `load_trained` gives its model.
    """
    run = Run(NAME, outputs=ASSETS)
    run.cache = Run(NAME).cache
    return run


def open_trained(namespace: Mapping[str, Any]) -> tuple[Run, Params]:
    """Return run and parameters as `runs.open_run` does, to look at a trained model.

    Where the notebook names no run and the usual one is not trained, they are `pretrained_run`'s.
    """
    given = namespace.get("run")
    named = given.name if isinstance(given, Run) else given
    if named != NAME:
        run, params = open_run(namespace, write=False)
        if named or (run / "model").exists() or not pretrained_run().folder.exists():
            return run, params
    run = pretrained_run()
    return run, from_notebook({**namespace, "run": NAME}, run.params().to_dict())


def pack(run: Run, assets: Path = ASSETS) -> Run:
    """Write a finished run as the one that comes with the package, its weights in bfloat16.

    Its scores are drawn anew, with the rounded weights. Raises `UserError` for a training that is
    not finished, or images that the evaluator would help to draw.
    """
    params, train = run.params(), run.need("train", command(run, "train"))
    if not train["finished"]:
        raise UserError(f"{run.folder}: its training is not finished, first run "
                        f"'{command(run, 'train')}'")
    if params.data or params.evaluator or params.evaluator_guidance:
        raise UserError(f"{run.folder}: expected a run on the rendered scenes and the stand-in "
                        "evaluator, without guidance by it")
    model, scheduler = load_trained(run, params.replace(device="cpu"))
    mean, scale = model.pixel_mean, model.pixel_scale
    model = model.to(torch.bfloat16)
    model.pixel_mean, model.pixel_scale = mean, scale  # they are pixels, not weights
    model.register_to_config(_name_or_path=NAME)  # instead of the folder it was loaded from
    packed = Run(NAME, outputs=assets)
    save_model(model, scheduler, packed.folder)
    params = params.replace(run=NAME, runs=[])
    packed.write_params(params)
    model, scheduler = load_trained(packed, params)
    evaluator = get_evaluator(params, run)
    found = {name: score_facts(draw_and_score(model, scheduler, evaluator, ConditionDataset(name),
                                              params, desc=name)[1])
             for name in ("test", "new_test")}
    metrics = run.read("metrics.json")
    kept = {key: metrics[key] for key in ("train", "made_with", "sample") if key in metrics}
    packed.update_metrics({**kept, "evaluator": evaluator_facts(evaluator), **found})
    return packed
