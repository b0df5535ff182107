"""The one schema of parameters: every key of every preset and every notebook.

A params file is flat YAML. Papermill reads YAML 1.1, where ``1e-5`` is a
string and ``no`` a boolean, so `resolve` coerces each value to the type its
field declares and rejects what it cannot, or does not, know.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_origin, get_type_hints

from cddpm_core.checks import check_together
from cddpm_core.errors import UserError, did_you_mean, shown

SAMPLER_NAMES = ("ddpm", "ddim", "dpm_solver++", "sde_dpm_solver++", "unipc", "heun")

# What runs made before a parameter was there have in its place.
BEFORE = {"layout": False, "ordered_tokens": False, "candidates": 1, "layout_choices": 1,
          "guidance_interval": [0.0, 1.0]}

# The parameters that make the weights; a checkpoint is resumed only with the same ones.
# More epochs may be asked for; with a falling learning rate that is not quite one long training.
TRAIN_KEYS = ("seed", "image_size", "class_emb_size", "backbone", "transformer_blocks",
              "conditioning", "layout", "ordered_tokens", "blocks", "channels", "layers_per_block",
              "patch_size", "time_scale_shift", "attention_head_dim", "standardise",
              "trim_rows", "data_scale",
              "num_train_timesteps", "beta_schedule", "prediction_type", "timestep_sampling",
              "timestep_shift", "loss_weighting", "loss_weight_max", "batch_size", "optimizer",
              "learning_rate", "muon_learning_rate", "lr_schedule", "lr_warmup_steps",
              "lr_decay_start", "label_drop", "ema_decay", "mixed_precision")
# Those that make the data it is trained on.
DATA_KEYS = ("data", "num_scenes", "data_seed", "holdout")

__all__ = ["BEFORE", "DATA_KEYS", "FIELDS", "TRAIN_KEYS", "Params", "coerce", "from_notebook",
           "resolve", "sampling_arms"]


def _key(default: Any, help: str, *, choices: tuple = (), low: float | None = None,
         high: float | None = None) -> Any:
    about = {"help": help, "choices": choices, "low": low, "high": high}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=about)
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Params:
    """All parameters, with the defaults of ``params/quick.yaml``."""

    run: str = _key("", "name of the folder under outputs/; empty: taken from the params file")
    seed: int = _key(0, "seed of training and sampling", low=0, high=2**31)
    runs: list[str] = _key([], "names of further runs that the report compares with this one")
    device: str = _key("auto", "where to compute", choices=("auto", "cpu", "cuda", "mps"))
    title: str = _key("Conditional DDPM on i-CLEVR", "title of the report")
    author: str = _key("", "author of the report")
    student_id: str = _key("", "number after the author, and in the submission's folder name")
    language: str = _key("en", "language the report is marked as, a code such as en or zh")
    font_paths: list[str] = _key([], "fonts for characters in title and author that no other has")

    data: str = _key("", "folder with train.json and the images; empty: render the embedded data")
    num_scenes: int = _key(6003, "scenes to render, three frames each", low=1, high=1_000_000)
    heldout_scenes: int = _key(500, "further scenes that nothing trains on", low=1, high=1_000_000)
    data_seed: int = _key(0, "seed of the rendered scenes", low=0, high=2**31)
    image_size: int = _key(64, "side of the square images in pixels", low=8, high=1_024)
    reference: str = _key("", "folder with real frames to compare the renders with; empty: none")
    holdout: str = _key("none", "training images left out: those of the label sets to be drawn",
                        choices=("none", "test_conditions"))
    in_memory: bool = _key(True, "hold the resized images in memory as uint8")

    evaluator: str = _key("", "path of the official checkpoint.pth; empty: train a stand-in")
    evaluator_images: int = _key(26000, "rendered images the stand-in trains on",
                                 low=32, high=10_000_000)
    evaluator_epochs: int = _key(3, "epochs the stand-in trains for", low=1, high=1_000)

    class_emb_size: int = _key(256, "width of the class and time embedding", low=8, high=8_192)
    backbone: str = _key("u_vit", "network: a U-Net, or one with a transformer at its core",
                         choices=("unet", "u_vit"))
    transformer_blocks: int = _key(2, "blocks of the transformer of u_vit", low=1, high=256)
    conditioning: str = _key("object_tokens", "how the label enters the network",
                             choices=("class_embedding", "object_tokens"))
    layout: bool = _key(True, "the network is told where each object is to stand, as in a scene")
    ordered_tokens: bool = _key(True, "object tokens know their place in the label")
    blocks: list[int] = _key([0, 1], "per level: 0 plain, 1 with attention; up side mirrored",
                             low=0, high=1)
    channels: list[int] = _key([1, 2], "per level: width in multiples of class_emb_size // 4",
                               low=1, high=256)
    layers_per_block: int = _key(2, "residual layers a level", low=1, high=64)
    patch_size: int = _key(4, "pixel-unshuffle factor at the input; 1: none", low=1, high=64)
    time_scale_shift: str = _key("scale_shift", "how the embedding enters a residual layer",
                                 choices=("default", "scale_shift"))
    attention_head_dim: int = _key(32, "channels of one attention head", low=1, high=1_024)
    standardise: bool = _key(True, "subtract the mean training image and divide by data_scale")
    trim_rows: bool = _key(True, "draw only the rows that vary over the standardised images")
    data_scale: float = _key(0.2, "spread that standardised images are divided by",
                             low=0.01, high=1_000)

    num_train_timesteps: int = _key(1000, "T, the number of diffusion steps", low=2, high=1_000_000)
    beta_schedule: str = _key("squaredcos_cap_v2", "noise schedule",
                              choices=("squaredcos_cap_v2", "linear", "scaled_linear", "sigmoid"))
    prediction_type: str = _key("sample", "what the network predicts",
                                choices=("epsilon", "v_prediction", "sample"))
    timestep_sampling: str = _key("logit_normal", "distribution of the timesteps trained on",
                                  choices=("uniform", "logit_normal"))
    timestep_shift: float = _key(0.5, "mean of the logit for logit_normal timesteps")
    loss_weighting: str = _key("balanced", "weight of each noise level in the loss",
                               choices=("uniform", "velocity", "min_snr", "balanced"))
    loss_weight_max: float = _key(20.0, "gamma, the greatest weight of an error of x_0", low=0.1)

    epochs: int = _key(2, "passes over the training images", low=1, high=1_000_000)
    batch_size: int = _key(32, "images a training step, over all processes", low=1, high=65_536)
    gradient_accumulation_steps: int = _key(1, "passes a step's images are divided into",
                                            low=1, high=65_536)
    num_processes: int = _key(1, "processes that train side by side, one a GPU", low=1, high=1_024)
    optimizer: str = _key("muon", "optimiser", choices=("adam", "adamw", "muon"))
    learning_rate: float = _key(1.2e-3, "peak learning rate of Adam or AdamW", low=0.0)
    muon_learning_rate: float = _key(0.02, "peak learning rate of Muon's matrices", low=0.0)
    lr_schedule: str = _key("linear", "learning rate over training",
                            choices=("constant", "linear", "cosine"))
    lr_warmup_steps: int = _key(100, "steps of linear warm-up", low=0, high=1_000_000_000)
    lr_decay_start: float = _key(0.5, "share of training after which a linear schedule decays",
                                 low=0.0, high=1.0)
    label_drop: float = _key(0.1, "share of labels dropped, for classifier-free guidance",
                             low=0.0, high=1.0)
    ema_decay: float = _key(0.995, "decay of the moving average of the weights; 0: none",
                            low=0.0, high=1.0)
    mixed_precision: str = _key("bf16", "arithmetic of the network", choices=("no", "bf16"))
    compile: bool = _key(False, "train the network as torch.compile makes it, which takes minutes")
    evaluate_every: int = _key(1, "epochs between accuracies and grids; 0: only at the end", low=0)
    checkpoint_minutes: float = _key(2.0, "minutes between checkpoints", low=0.0)
    max_steps: int = _key(0, "stop after this many steps, to be resumed; 0: no limit",
                          low=0, high=1_000_000_000)

    sampler: str = _key("dpm_solver++", "sampler", choices=SAMPLER_NAMES)
    num_inference_steps: int = _key(8, "steps of the sampler", low=1, high=1_000_000)
    guidance_scale: float = _key(3.0, "classifier-free guidance; 1: none", low=0.0, high=1_000)
    guidance_interval: list[float] = _key(
        [0.0, 0.6], "shares of T between which it guides", low=0.0, high=1.0)
    evaluator_guidance: float = _key(
        0.0, "guidance by the evaluator itself, and labelled so; 0: none",
        low=0.0, high=1_000_000)
    candidates: int = _key(1, "images drawn for each label set, of which the network keeps one",
                           low=1, high=1_000)
    layout_choices: int = _key(4, "layouts the seed draws for an image, of which the clearest is "
                                  "taken", low=1, high=1_000)
    sample_batch_size: int = _key(32, "images sampled at once", low=1, high=65_536)

    experiments: list[str] = _key([], "experiments that make report includes",
                                  choices=("timesteps", "sampling"))
    sweep_samplers: list[str] = _key(
        ["ddim", "dpm_solver++", "sde_dpm_solver++", "unipc", "heun"],
        "samplers of the sampling experiment", choices=SAMPLER_NAMES)
    sweep_steps: list[int] = _key([10, 20, 50], "numbers of steps of the sampling experiment",
                                  low=1, high=1_000_000)
    sweep_guidance: list[float] = _key(
        [1.0, 2.0, 4.0, 6.0], "guidance scales of the sampling experiment", low=0.0, high=1_000)
    analysis_images: int = _key(128, "images drawn to be compared with held-out ones",
                                low=2, high=1_000_000)
    denoise_steps: int = _key(12, "moments shown of the denoising process", low=10, high=1_000)
    experiment_timesteps: int = _key(2000, "T of the timesteps experiment", low=2, high=1_000_000)
    experiment_epochs: int = _key(1, "epochs after which its arms are compared; 0: at the end",
                                  low=0)

    def __post_init__(self) -> None:
        check_together(self)

    def replace(self, **changes: Any) -> Params:
        """Return a copy with some values changed, checked like any other."""
        return dataclasses.replace(self, **{k: coerce(k, v) for k, v in changes.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as plain values, in the order of the schema."""
        return dataclasses.asdict(self)


FIELDS = {f.name: f for f in dataclasses.fields(Params)}
_TYPES = get_type_hints(Params)


def sampling_arms(p: Params) -> list[Params]:
    """Return ``p`` for each arm of the sampling experiment; `UserError` if one is impossible."""
    if not (p.sweep_samplers and p.sweep_steps and p.sweep_guidance):
        raise UserError("sweep_samplers, sweep_steps and sweep_guidance: expected at least one of "
                        f"each, found {p.sweep_samplers}, {p.sweep_steps} and {p.sweep_guidance}")
    return [p.replace(sampler=sampler, num_inference_steps=steps, guidance_scale=scale,
                      candidates=1)
            for sampler in p.sweep_samplers for steps in p.sweep_steps
            for scale in p.sweep_guidance]


def coerce(key: str, value: Any, where: str = "") -> Any:
    """Return ``value`` as the type that ``key`` declares; `UserError` if that cannot be.

    ``where`` (a file name, say) opens the sentence of the error.
    """
    at = f"{where}: {key}" if where else key
    if key not in FIELDS:
        raise UserError(f"{where + ': ' if where else ''}unknown parameter {shown(key)}"
                        f"{did_you_mean(key, FIELDS)}")
    wanted, about = _TYPES[key], FIELDS[key].metadata
    if value is False and "no" in about["choices"]:
        value = "no"  # what YAML 1.1 makes of an unquoted no
    if get_origin(wanted) is list:
        if not isinstance(value, list | tuple):
            raise UserError(f"{at}: expected a list of {get_args(wanted)[0].__name__}, "
                            f"found {shown(value)}")
        items = [_scalar(v, get_args(wanted)[0], at) for v in value]
    else:
        items = [_scalar(value, wanted, at)]
    for item in items:
        if about["choices"] and item not in about["choices"]:
            raise UserError(f"{at}: found {shown(item)}{did_you_mean(item, about['choices'])}, "
                            f"expected one of {', '.join(about['choices'])}")
        if about["low"] is not None and item < about["low"]:
            raise UserError(f"{at}: found {shown(item)}, expected at least {about['low']:g}")
        if about["high"] is not None and item > about["high"]:
            raise UserError(f"{at}: found {shown(item)}, expected at most {about['high']:g}")
    return items if get_origin(wanted) is list else items[0]


def _scalar(value: Any, wanted: type, at: str) -> Any:
    plain = isinstance(value, str | int | float) and not isinstance(value, bool)
    try:
        if wanted is bool and isinstance(value, bool):
            return value
        if wanted is bool and str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        if wanted is int and plain and float(value) == int(float(value)):
            return int(value) if isinstance(value, int) else int(float(value))
        if wanted is float and plain and math.isfinite(float(value)):
            return float(value)
        if wanted is str and value is None:
            return ""
        if wanted is str and plain:
            return str(value)
    except (ValueError, OverflowError):
        pass
    raise UserError(f"{at}: expected {wanted.__name__}, found {shown(value)}")


def resolve(values: Mapping[str, Any], where: str = "") -> Params:
    """Return `Params` with the given values over the defaults; `UserError` for unknown keys."""
    for key in values:
        if not isinstance(key, str):
            raise UserError(f"{where or 'parameters'}: expected names as keys, found {shown(key)}")
    return Params(**{key: coerce(key, value, where) for key, value in values.items()})


def from_notebook(namespace: Mapping[str, Any],
                  base: Mapping[str, Any] | None = None) -> Params:
    """Return `Params` from a notebook's ``globals()``, right after its parameters cell.

    Every plain value there is taken for a parameter, so a mistyped
    ``-p epoch 2`` is found although papermill only warns about it. Once the
    notebook holds a `Params`, later cells have run and named values of their
    own, and these are passed over. ``base`` has the values of keys not there.
    """
    plain = (str, int, float, bool, list, tuple, dict, types.NoneType)
    values = {key: value for key, value in namespace.items()
              if isinstance(value, plain) and not key.startswith("_")
              and key not in ("In", "Out", "exit", "quit")
              and not key.startswith("PAPERMILL_")}
    if any(isinstance(value, Params) for value in namespace.values()):
        values = {key: value for key, value in values.items() if key in FIELDS}
    return resolve({**(base or {}), **values}, "notebook parameters")
