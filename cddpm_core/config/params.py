"""All parameters: their types, defaults, bounds and meanings.

To add a parameter, add its line to `Params` and use it. The manual, the parameters cells of the
notebooks (``python -m cddpm_core manual``), the command line and the lists of keys that decide
whether a checkpoint can be resumed all follow from that line.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cddpm_core.config.checks import check_together
from cddpm_core.config.parameter import Checked, Parameter, key
from cddpm_core.scheduler.samplers import SAMPLERS

__all__ = ["FIELDS", "Params"]

MANY = 1_000_000
Count = Annotated[int, Field(ge=1, le=MANY)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, le=1_000)]
Scale = Annotated[float, Field(ge=0, le=1_000)]
Seed = Annotated[int, Field(ge=0, le=2**31)]
SamplerName = Literal[tuple(SAMPLERS)]

# A parameter of each chapter, with what changes with most of them.
_run = partial(key, chapter="run", affects="nothing")
_data = partial(key, chapter="data", affects="data")
_evaluator = partial(key, chapter="evaluator", affects="evaluator")
_model = partial(key, chapter="model", affects="weights")
_noise = partial(key, chapter="noise", affects="weights")
_training = partial(key, chapter="training", affects="weights")
_sampling = partial(key, chapter="sampling", affects="sampling")
_experiments = partial(key, chapter="experiments", affects="report")
_report = partial(key, chapter="report", affects="report")


class Params(Checked):
    """All parameters with their defaults, which are those of ``params/quick.yaml``.

    Raises `UserError` for an unknown name, a value of another type or out of range, and for
    values that exclude one another.
    """

    run: str = _run("", "name of the run's folder in outputs/; empty: the name of the params file")
    seed: Seed = _run(0, "random seed of training and sampling", affects="weights")
    device: Literal["auto", "cpu", "cuda", "mps"] = _run("auto", "device to compute on")

    data: str = _data("", "folder with train.json and the images; empty: use rendered images")
    num_scenes: Count = _data(6003, "number of rendered training scenes, three images each")
    heldout_scenes: Count = _data(500, "number of rendered held-out scenes, never trained on",
                                  affects="evaluator")
    data_seed: Seed = _data(0, "random seed of the rendered scenes")
    renderer: Literal["raytrace", "cycles"] = _data(
        "raytrace", "the package's ray tracer, or Blender's Cycles, which takes days",
        only_with=("data", ("",)))
    blender: str = _data("", "path of Blender; empty: the one on the PATH", affects="nothing")
    clevr_assets: str = _data("", "the folder image_generation/data of CLEVR's public repository")
    cycles_samples: int = _data(128, "samples per pixel of Cycles; 128: as in i-CLEVR",
                                low=1, high=65_536, only_with=("renderer", ("cycles",)))
    cycles_denoise: bool = _data(False, "denoise what Cycles renders; i-CLEVR was not denoised",
                                 only_with=("renderer", ("cycles",)))
    image_size: int = _data(64, "height and width of the images in pixels", affects="weights",
                            low=8, high=1_024)
    in_memory: bool = _data(True, "keep the resized images in memory", affects="nothing")
    holdout: Literal["none", "test_conditions"] = _data(
        "none", "training images to leave out: none, or those with a test condition")
    missing: Literal["error", "skip"] = _data(
        "error", "if images that train.json names are not there: stop, or leave them out",
        affects="nothing")

    evaluator: str = _evaluator(
        "", "official checkpoint.pth or private *.safetensors; empty: released stand-in")

    class_emb_size: int = _model(128, "width of the label and time embeddings", low=8, high=8_192)
    backbone: Literal["unet", "u_vit"] = _model(
        "u_vit", "architecture: U-Net, or U-ViT (transformer at the lowest level)")
    transformer_blocks: int = _model(2, "transformer blocks of the U-ViT", low=1, high=256,
                                     only_with=("backbone", ("u_vit",)))
    conditioning: Literal["class_embedding", "object_tokens"] = _model(
        "object_tokens", "how labels enter: summed embedding, or a token per object too")
    layout: bool = _model(True, "condition the network on the position of each object as well")
    ordered_tokens: bool = _model(True, "add an embedding of the object's index to its token",
                                  only_with=("conditioning", ("object_tokens",)))
    blocks: list[Annotated[int, Field(ge=0, le=1)]] = _model(
        [0, 0, 1], "per level: 1 with attention, 0 without; mirrored on the way up")
    channels: list[Annotated[int, Field(ge=1, le=256)]] = _model(
        [1, 2, 4], "per level: width in multiples of class_emb_size // 4")
    layers_per_block: int = _model(1, "residual layers per level", low=1, high=64)
    patch_size: int = _model(2, "pixel-unshuffle factor at the input; 1: none", low=1, high=64)
    refine_channels: int = _model(
        16, "width of pixel convolutions that combine prediction and x_t; 0: none",
        low=0, high=1_024, only_with=("prediction_type", ("sample",)))
    time_scale_shift: Literal["default", "scale_shift"] = _model(
        "scale_shift", "how embeddings enter a layer: added, or as scale and shift")
    attention_head_dim: int = _model(32, "channels per attention head", low=1, high=1_024)
    standardise: bool = _model(True, "subtract the mean training image and divide by data_scale")
    data_scale: float = _model(0.2, "what centred images are divided by", low=0.01, high=1_000,
                               only_with=("standardise", (True,)))

    num_train_timesteps: int = _noise(1000, "number of diffusion steps T", low=2, high=MANY)
    beta_schedule: Literal["squaredcos_cap_v2", "linear", "scaled_linear", "sigmoid"] = _noise(
        "squaredcos_cap_v2", "noise schedule")
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = _noise(
        "sample", "what the network predicts: noise, velocity or clean image")
    timestep_sampling: Literal["uniform", "logit_normal"] = _noise(
        "logit_normal", "distribution of the training timesteps")
    timestep_shift: float = _noise(0.5, "mean of the logit of t / T", low=-100, high=100,
                                   only_with=("timestep_sampling", ("logit_normal",)))
    loss_weighting: Literal["uniform", "velocity", "min_snr", "balanced"] = _noise(
        "balanced", "weight of each timestep in the loss")
    loss_weight_max: float = _noise(20.0, "gamma, the upper bound on the weight of an error of x_0",
                                    low=0.1, high=MANY,
                                    only_with=("loss_weighting", ("velocity", "min_snr")))
    gradient_weight: Scale = _noise(
        1.0, "weight of the error of differences between neighbouring pixels")

    epochs: Count = _training(2, "epochs to train for", affects="length")
    batch_size: int = _training(8, "images per training step, over all processes",
                                low=1, high=65_536)
    image_sampling: Literal["uniform", "by_objects"] = _training(
        "by_objects", "sample images uniformly, or by their number of objects")
    gradient_accumulation_steps: int = _training(1, "micro-batches per training step",
                                                 affects="nothing", low=1, high=65_536)
    num_processes: int = _training(1, "training processes, one per GPU", affects="nothing",
                                   low=1, high=1_024)
    optimizer: Literal["adam", "adamw", "muon"] = _training(
        "muon", "optimiser; muon: Muon for the weight matrices, AdamW for the rest")
    learning_rate: Rate = _training(1.2e-3, "peak learning rate of Adam or AdamW")
    muon_learning_rate: Rate = _training(0.02, "peak learning rate of Muon",
                                         only_with=("optimizer", ("muon",)))
    lr_schedule: Literal["constant", "linear", "cosine"] = _training(
        "linear", "learning-rate schedule after the warm-up")
    lr_warmup_steps: int = _training(100, "steps of linear warm-up", low=0, high=10**9)
    lr_decay_start: Fraction = _training(
        0.5, "fraction of training after which a linear schedule decays",
        only_with=("lr_schedule", ("linear",)))
    label_drop: Fraction = _training(
        0.1, "probability of dropping labels and positions (classifier-free guidance)")
    ema_decay: Fraction = _training(
        0.995, "decay of the moving average (EMA) of the weights; 0: none")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = _training(
        "auto", "auto: bfloat16, on a GPU without it float16, else float32")
    compile: Literal["auto", "yes", "no"] = _training(
        "auto", "use torch.compile, which takes minutes; auto: for long training on a GPU",
        affects="nothing")
    evaluate_every: int = _training(
        1, "epochs between evaluations during training; 0: only at the end", affects="report",
        low=0, high=MANY)
    checkpoint_minutes: float = _training(2.0, "minutes between checkpoints", affects="nothing",
                                          low=0, high=MANY)
    report_to: Literal["none", "tensorboard", "wandb"] = _training(
        "none", "tracker of curves and images; wandb: over the internet", affects="nothing")
    max_steps: int = _training(0, "stop after this many steps, to be resumed later; 0: no limit",
                               affects="length", low=0, high=10**9)

    sampler: SamplerName = _sampling("sde_dpm_solver++", "sampler")
    num_inference_steps: Count = _sampling(12, "number of sampling steps")
    guidance_scale: Scale = _sampling(1.25, "scale of classifier-free guidance; 1: none")
    guidance_interval: list[Fraction] = _sampling(
        [0.0, 0.6], "fractions of T between which guidance is applied")
    evaluator_guidance: float = _sampling(
        0.0, "scale of classifier guidance by the evaluator; 0: none", low=0, high=MANY)
    layout_choices: int = _sampling(
        4, "layouts sampled per image, of which the least crowded is used", low=1, high=1_000,
        only_with=("layout", (True,)))
    grain: bool = _sampling(True, "add the grain of the training images to the sampled ones",
                            only_with=("standardise", (True,)))
    sample_batch_size: int = _sampling(32, "images sampled per batch", affects="nothing",
                                       low=1, high=65_536)

    experiments: list[Literal["timesteps", "sampling"]] = _experiments(
        [], "experiments to run for the report")
    sweep_samplers: list[SamplerName] = _experiments(
        ["ddim", "dpm_solver++", "sde_dpm_solver++", "unipc"],
        "samplers of the sampling experiment")
    sweep_steps: list[Count] = _experiments(
        [10, 20, 50], "numbers of steps of the sampling experiment")
    sweep_guidance: list[Scale] = _experiments(
        [1.0, 2.0, 4.0, 6.0], "guidance scales of the sampling experiment")
    experiment_timesteps: int = _experiments(
        2000, "number of diffusion steps T of the timesteps experiment", low=2, high=MANY)
    experiment_epochs: int = _experiments(
        1, "epochs after which the timesteps variants are compared; 0: all", low=0, high=MANY)
    reference: str = _experiments(
        "", "folder with real images to compare the rendered ones with; empty: none")
    analysis_images: int = _experiments(
        1000, "number of sampled images to compare with held-out ones", low=2, high=MANY)
    denoise_steps: int = _experiments(10, "number of images shown of a denoising trajectory",
                                      low=10, high=1_000)

    title: str = _report("Conditional DDPM on i-CLEVR", "title of the report")
    author: str = _report("", "author of the report")
    student_id: str = _report("", "student number, after the author and in the zip's name")
    course: str = _report("", "name of the course, below the author")
    date: str = _report("", "date on the report; empty: today")
    abstract: str = _report("", "abstract, in Markdown")
    language: str = _report("en", "language code of the report, such as en or zh")
    words: str = _report(
        "", "folder of introduction.md and so on; empty: report/ in the run's folder")
    computed_discussion: bool = _report(True, "keep the generated text beside the author's own")
    all_parameters: bool = _report(
        False, "list all parameters in the appendix, not only those changed")
    font_paths: list[str] = _report([], "font files for characters that the default fonts lack")
    runs: list[str] = _report([], "names of runs to compare with in the report")

    @model_validator(mode="after")
    def _check(self) -> Params:
        check_together(self)
        return self

    def replace(self, **changes: Any) -> Params:
        """Return a copy with some values changed, checked like any other."""
        return Params(**{**self.to_dict(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as plain values, in the order of the schema."""
        return self.model_dump()


FIELDS: dict[str, Parameter] = Params.fields()
