"""Conditional DDPM on i-CLEVR: labels -> images -> noise -> network -> samples -> scores."""

from cddpm_core.data import ConditionDataset, IclevrDataset, data_source, load_image
from cddpm_core.errors import UserError
from cddpm_core.evaluation import draw_and_score, get_evaluator, save_images
from cddpm_core.evaluator import Evaluator, load_official, score, stand_in
from cddpm_core.labels import (
    COLOURS,
    OBJECTS,
    SHAPES,
    from_multi_hot,
    read_conditions,
    read_objects,
    read_train,
    to_multi_hot,
)
from cddpm_core.model import ClassConditionedUnet, load_model, make_model
from cddpm_core.params import Params, read_yaml, resolve
from cddpm_core.runs import Run, open_run
from cddpm_core.sampling import image_seeds, sample, trajectory
from cddpm_core.scenes import render_dataset
from cddpm_core.schedule import alpha_bar, draw_timesteps, make_scheduler, sampling_scheduler, snr
from cddpm_core.training import Trainer, load_trained, train

__all__ = [
    "COLOURS",
    "OBJECTS",
    "SHAPES",
    "ClassConditionedUnet",
    "ConditionDataset",
    "Evaluator",
    "IclevrDataset",
    "Params",
    "Run",
    "Trainer",
    "UserError",
    "alpha_bar",
    "data_source",
    "draw_and_score",
    "draw_timesteps",
    "from_multi_hot",
    "get_evaluator",
    "image_seeds",
    "load_image",
    "load_model",
    "load_official",
    "load_trained",
    "make_model",
    "make_scheduler",
    "open_run",
    "read_conditions",
    "read_objects",
    "read_train",
    "read_yaml",
    "render_dataset",
    "resolve",
    "sample",
    "sampling_scheduler",
    "save_images",
    "score",
    "snr",
    "stand_in",
    "to_multi_hot",
    "train",
    "trajectory",
]
