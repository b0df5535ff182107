"""Conditional DDPM on i-CLEVR.

config -> data -> scenes -> scheduler -> model -> sampling -> training -> evaluation -> runs ->
report -> bench. The names below are imported from their modules when first used, so that a command
that needs no network does not wait for torch.
"""

from importlib import import_module

from cddpm_core.config.environment import (
    check_interpreter,
    prefer_own_packages,
    wait_without_spinning,
)

prefer_own_packages()
check_interpreter()
wait_without_spinning()

_NAMES = {
    "config.errors": ("UserError",),
    "config.schema": ("Params", "resolve"),
    "config.presets": ("read_yaml",),
    "data.labels": ("COLOURS", "OBJECTS", "SHAPES", "from_multi_hot", "read_conditions",
                    "to_multi_hot"),
    "data.images": ("load_image",),
    "data.dataset": ("ConditionDataset", "IclevrDataset"),
    "data.source": ("data_source", "load_dataset"),
    "scheduler.process": ("alpha_bar", "make_scheduler", "snr"),
    "scheduler.samplers": ("SAMPLERS", "make_sampler"),
    "model.codec": ("PixelCodec",),
    "model.network": ("ClassConditionedUnet",),
    "sampling.denoiser": ("Denoiser",),
    "sampling.guidance": ("ClassifierGuided", "Guided"),
    "sampling.layout_prior": ("LayoutPrior",),
    "sampling.pipeline": ("ClassConditionedPipeline", "load_pipeline", "make_pipeline",
                          "save_pipeline"),
    "sampling.sample": ("image_seeds", "sample", "sampling_options"),
    "sampling.trajectory": ("trajectory",),
    "training.trainer": ("Trainer",),
    "training.loop": ("train",),
    "evaluation.evaluator": ("Evaluator", "load_official"),
    "evaluation.stand_in": ("load_evaluator", "load_stand_in", "released"),
    "evaluation.score": ("score",),
    "evaluation.given_score": ("score_images",),
    "evaluation.agreement": ("agreement",),
    "evaluation.evaluate": ("sample_and_score",),
    "runs.run": ("Run",),
    "runs.session": ("open_session",),
    "runs.pretrained": ("pretrained_run",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
