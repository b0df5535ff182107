"""The weights that come with the package: a finished run, reduced to what sampling needs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cddpm_core.config.cells import cell_parameters
from cddpm_core.config.errors import UserError
from cddpm_core.config.schema import Params, keys_affecting, resolve
from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.runs.modules import PACKAGE
from cddpm_core.runs.run import Run, command, open_run
from cddpm_core.runs.session import Session

__all__ = ["NAME", "open_trained", "pack", "pretrained_run"]

NAME = "pretrained"


def pretrained_run() -> Run:
    """Return the run that comes with the package, for reading only.

    It has ``params.yaml``, ``metrics.json`` and ``model/``. Its cache is that of all runs.
    """
    run = Run(NAME, outputs=PACKAGE)
    run.cache = Run(NAME).cache
    return run


def open_trained(namespace: Mapping[str, Any]) -> Session:
    """Return a session that looks at a trained model and changes nothing.

    It is on the run that the notebook names. Without a name, it is on the usual run, or on
    `pretrained_run` if that is not trained.
    """
    values, paths = cell_parameters(namespace, Params)
    named, run = values.get("run"), pretrained_run()
    if named != NAME:
        usual, params = open_run({**values, **paths}, write=False)
        if named or (usual / "model").exists() or not run.folder.exists():
            print(f"run {usual.name!r}")
            return Session(usual, params)
    params = resolve({**run.params().to_dict(), **values, "run": NAME}, "notebook parameters")
    print(f"run {NAME!r}, whose weights come with the package")
    return Session(run, params)


def pack(run: Run, package: Path = PACKAGE) -> Run:
    """Write a finished run as the one that comes with the package, its weights in bfloat16.

    Codec and layouts stay as they are. The accuracies are those of the rounded weights, the
    fidelity is that of the run. Raises `UserError` for a training that is not finished, or a run
    on data or with an evaluator that cannot be published, or with classifier guidance by it.
    """
    import torch

    from cddpm_core.data.dataset import ConditionDataset
    from cddpm_core.evaluation.evaluate import one_layout, sample_and_score
    from cddpm_core.evaluation.score import evaluator_facts, score_facts
    from cddpm_core.evaluation.stand_in import load_evaluator
    from cddpm_core.sampling.pipeline import load_pipeline, sampling_of, save_pipeline

    params, train = run.params(), run.need("train", command(run, "train"))
    if not train["finished"]:
        raise UserError(f"{run.folder}: its training is not finished, first run "
                        f"'{command(run, 'train')}'")
    if (params.data or params.renderer != "raytrace" or params.evaluator
            or params.evaluator_guidance):
        raise UserError(f"{run.folder}: expected a run on the rendered scenes and the released "
                        "stand-in, without evaluator_guidance")
    pipeline = load_pipeline(run / "model")
    for weight in pipeline.unet.parameters():  # not its buffer, the noise levels
        weight.data = weight.data.to(torch.bfloat16)
    for part in (pipeline.unet, pipeline.codec, pipeline.layout_prior):
        if part is not None:  # the folder it was loaded from is nobody's business
            part.register_to_config(_name_or_path=NAME)
    pipeline.register_to_config(sampling=sampling_of(params))  # as scored, if not as trained
    packed = Run(NAME, outputs=package)
    (packed / "metrics.json").unlink(missing_ok=True)  # first: it is about the weights there
    shutil.rmtree(packed / "model", ignore_errors=True)
    save_pipeline(pipeline, packed / "model")
    params = params.replace(run=NAME, runs=[])
    packed.write_params(params)
    pipeline, evaluator = load_pipeline(packed / "model"), load_evaluator(params.evaluator)
    found = {}
    for name in CONDITION_FILES:
        given = pipeline, evaluator, ConditionDataset(name), params, name
        found[name] = {**score_facts(sample_and_score(*given)[1]), "one_layout": one_layout(*given)}
    metrics = run.read("metrics.json")
    kept = {key: metrics[key] for key in ("train", "made_with", "fidelity") if key in metrics}
    packed.update_metrics({
        **kept, "data": {"kind": "rendered"}, "evaluator": evaluator_facts(evaluator),
        "sample": {key: getattr(params, key) for key in keys_affecting("sampling")}, **found})
    return packed
