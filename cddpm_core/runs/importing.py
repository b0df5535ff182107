"""A model that was trained elsewhere as a run: by an older run of this package or another script.

What needs torch is imported where it is used.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cddpm_core.config.errors import UserError, shown
from cddpm_core.config.files import read_json, sha256_of, typed_path
from cddpm_core.config.schema import Params, applies
from cddpm_core.runs.lock import locked
from cddpm_core.runs.run import Run

if TYPE_CHECKING:
    from cddpm_core.sampling.pipeline import ClassConditionedPipeline

__all__ = ["check_imported", "import_model", "imported", "params_of", "without_training"]

MAX_BYTES = 20_000_000_000  # of a checkpoint, which may hold an optimiser too
NETWORK = ("class_emb_size", "blocks", "channels", "layers_per_block", "image_size", "patch_size",
           "time_scale_shift", "attention_head_dim", "conditioning", "backbone",
           "transformer_blocks", "ordered_tokens", "layout", "refine_channels")
NOISE = ("num_train_timesteps", "beta_schedule", "prediction_type")
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin",
           "model.safetensors", "pytorch_model.bin")  # as diffusers and accelerate name them
EXPECTED = ("expected a model of this package, or a UNet2DModel with a linear layer as its "
            "class_embedding, as the parameters describe it")


def imported(run: Run) -> dict[str, Any]:
    """Return the ``file``, its ``sha256`` and ``where`` in it the weights of a run were.

    Empty for a run that was trained here.
    """
    return run.read("metrics.json").get("train", {}).get("imported", {})


def without_training(run: Run, stage: str) -> str:
    """Return why a stage that trains is left out of a run that is imported; empty if it is not."""
    about = imported(run)
    if not about or stage not in ("train", "timesteps"):
        return ""
    return (f"not trained here, its model is imported from {about['file']}" if stage == "train" else
            "left out, it compares trainings, and the model is imported")


def params_of(source: Path) -> Path:
    """Return the ``params.yaml`` of the run that a model is from; `UserError` if it has none."""
    for folder in (source, *source.absolute().parents[:3]):
        if (folder / "params.yaml").is_file():
            return folder / "params.yaml"
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    raise UserError(f"{source}: there is no params.yaml beside it, say what it is with --params; "
                    "params/seed.yaml describes the original report's network")


def import_model(source: str | Path, params: Params) -> Run:
    """Make the run ``params.run`` of a trained model, and return it.

    ``source`` is a run's folder, its ``model/`` or ``checkpoint.pt``, a folder of diffusers, or a
    file of weights, see `evaluation.weights`. The run has ``model/``, ``params.yaml`` and a stage
    ``train`` that is imported. Raises `UserError` if the run has a model that was trained there,
    or the weights are not those of ``params``.
    """
    from cddpm_core.config.device import device_of
    from cddpm_core.runs.manifest import made_with
    from cddpm_core.sampling.pipeline import save_pipeline

    source, run = typed_path(source), Run(params.run)
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    with locked(run.folder):
        if (run / "checkpoint.pt").exists() or ((run / "model").exists() and not imported(run)):
            raise UserError(f"run: {run.folder} has a model that was trained there, take another "
                            "name with --run")
        pipeline, file, where = _pipeline(source, params, run)
        if file.resolve().is_relative_to((run / "model").resolve()):
            raise UserError(f"{source}: is the model of the run {params.run!r} itself, take "
                            "another name with --run")
        # In this order an interrupted import can be repeated.
        shutil.rmtree(run / "model", ignore_errors=True)
        run.write_params(params)
        prior = pipeline.layout_prior
        run.update_metrics({"train": {
            "imported": {"file": os.path.relpath(file, source.parent) if source.is_dir() else
                         file.name, "sha256": sha256_of(file), "where": where},
            "finished": True, "steps": 0, "images": 0, "seconds": 0.0,
            "parameters": sum(w.numel() for w in pipeline.unet.parameters()),
            "layouts": 0 if prior is None else len(prior.layouts)},
            "made_with": made_with(params, device_of(params))})
        save_pipeline(pipeline, run / "model")
        run.set_stage("train", "imported", finished=time.time())
    return run


def check_imported(run: Run, params: Params) -> None:
    """Raise `UserError` if an imported run's model is not the one that ``params`` describe."""
    if imported(run):
        _check_configuration(run / "model", params)


def _check_configuration(folder: Path, params: Params) -> None:
    """Raise `UserError` unless a pipeline of this package has the configuration of ``params``."""
    for part, keys in (("unet/config.json", NETWORK), ("scheduler/scheduler_config.json", NOISE)):
        config = read_json(folder / part)
        for key in keys if isinstance(config, dict) else ():
            here = getattr(params, key)
            # Without positions in its data, a network has none to be conditioned on.
            differs = key in config and config[key] != here and (config[key] or key != "layout")
            if differs and applies(key, params):
                raise UserError(f"{folder}: its model has {key} {shown(config[key])} where the "
                                f"parameters have {shown(here)}, give those that it was trained "
                                "with, or take another run")


def _pipeline(source: Path, params: Params,
              run: Run) -> tuple[ClassConditionedPipeline, Path, str]:
    """Return the pipeline of a source, the file of its weights, and where in it they are."""
    from cddpm_core.sampling.pipeline import load_pipeline

    inside = source.name in (*WEIGHTS, "unet")  # of a model's folder
    for at in (source, source / "model", *(source.absolute().parents[:2] if inside else ())):
        if _class(at / "unet") == "ClassConditionedUnet":
            _check_configuration(at, params)
            pipeline = load_pipeline(at)
            if bool(pipeline.codec.mean.any()) != params.standardise:
                raise UserError(f"{at}: its model was {'' if not params.standardise else 'not '}"
                                f"trained on standardised images, but standardise is "
                                f"{params.standardise}")
            return pipeline, at / "unet" / WEIGHTS[0], ""
    file = source
    if source.is_dir():
        folders = [source / "unet_ema", source / "unet", source]
        there = [at / name for at in folders for name in WEIGHTS] + [source / "checkpoint.pt"]
        # In half precision, say: diffusers puts the name of a variant before the ending.
        variant = WEIGHTS[0].replace(".", ".*.")
        there += [path for at in folders for path in sorted(at.glob(variant))]
        file = next((path for path in there if path.exists()), None)
        if file is None:
            raise UserError(f"{source}: a folder without a model, {EXPECTED}")
    from cddpm_core.evaluation.weights import read_weights
    from cddpm_core.runs.foreign_unet import check_config, load_unet

    of_diffusers = _class(file.parent) == "UNet2DModel"
    if of_diffusers and params.backbone != "unet":
        raise UserError(f"{file.parent}: its network is a UNet2DModel where the parameters have "
                        f"backbone {shown(params.backbone)}, expected those of a 'unet', as "
                        "params/seed.yaml has them")
    content = read_weights(file, EXPECTED, MAX_BYTES)
    pipeline = _untrained(params, run, content, file)
    if of_diffusers:
        check_config(file.parent, pipeline.unet)
    return pipeline, file, load_unet(pipeline.unet, content, f"{file}", EXPECTED)


def _class(folder: Path) -> str:
    """The class of a model that diffusers saved in a folder, empty if there is none."""
    if not (folder / "config.json").is_file():
        return ""
    config = read_json(folder / "config.json")
    return str(config.get("_class_name", "")) if isinstance(config, dict) else ""


def _untrained(params: Params, run: Run, content: Any, file: Path) -> ClassConditionedPipeline:
    """Return a new pipeline for weights; its data are loaded only if codec or layouts need them."""
    from cddpm_core.data.source import load_dataset
    from cddpm_core.model.codec import PixelCodec
    from cddpm_core.model.network import make_network
    from cddpm_core.sampling.pipeline import (
        ClassConditionedPipeline,
        make_pipeline,
        sampling_of,
    )
    from cddpm_core.scheduler.process import make_scheduler

    ours = isinstance(content, dict) and isinstance(content.get("params"), dict)
    for key in (*NETWORK, *NOISE, "standardise") if ours else ():
        found, here = content["params"].get(key), getattr(params, key)
        if key in content["params"] and found != here and applies(key, params):
            raise UserError(f"{file}: was trained with {key} {shown(found)} where the parameters "
                            f"have {shown(here)}")
    if not params.standardise and not params.layout:
        codec = PixelCodec(params.image_size)
        return ClassConditionedPipeline(make_network(params, layout=False),
                                        make_scheduler(params), codec,
                                        sampling=sampling_of(params))
    dataset = load_dataset(params, run.cache)
    if ours and any(content.get(key) != value for key, value in dataset.fingerprint.items()):
        raise UserError(f"{file}: was trained on other images, of which its mean image or layouts "
                        "are, give these as data, or import the folder model/ beside it")
    return make_pipeline(params, dataset)
