"""Conditional DDPM on i-CLEVR: labels -> images -> noise -> network -> samples -> scores.

The names below are imported from their modules when first used, so that a
command that needs no network does not wait for torch.
"""

from importlib import import_module

_NAMES = {
    "errors": ("UserError",),
    "params": ("Params", "resolve"),
    "presets": ("read_yaml",),
    "runs": ("Run", "open_run"),
    "labels": ("COLOURS", "OBJECTS", "SHAPES", "from_multi_hot", "read_conditions",
               "read_objects", "read_train", "to_multi_hot"),
    "scenes": ("render_dataset", "sample_scene"),
    "images": ("load_image",),
    "data": ("ConditionDataset", "IclevrDataset"),
    "sources": ("data_source",),
    "schedule": ("alpha_bar", "draw_timesteps", "make_scheduler", "sampling_scheduler", "snr"),
    "model": ("ClassConditionedUnet", "load_model", "make_model", "model_for"),
    "sampling": ("image_seeds", "sample", "sampling_options", "trajectory"),
    "selection": ("kept_seeds", "sample_candidates", "support"),
    "evaluator": ("Evaluator", "load_official", "score"),
    "standin": ("stand_in",),
    "evaluation": ("draw_and_score", "get_evaluator", "save_images"),
    "trainer": ("Trainer",),
    "training": ("load_trained", "train"),
    "pretrained": ("pretrained_run",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
