"""All parameters: their types, defaults, bounds and meanings.

To add a parameter, add its line to `Params` and use it. The manual, the parameters cells of the
notebooks (``python -m cddpm_core manual``), the command line and the lists of keys that decide
whether a checkpoint can be resumed all follow from that line.
"""

from __future__ import annotations

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


class Params(Checked):
    """All parameters with their defaults, which are those of ``params/quick.yaml``.

    Raises `UserError` for an unknown name, a value of another type or out of range, and for
    values that exclude one another.
    """

    run: str = key("", "run", "nothing",
                   "name of the run's folder in outputs/; empty: the name of the params file")
    seed: Seed = key(0, "run", "weights", "random seed of training and sampling")
    device: Literal["auto", "cpu", "cuda", "mps"] = key("auto", "run", "nothing",
                                                        "device to compute on")

    data: str = key("", "data", "data",
                    "folder with train.json and the images; empty: use rendered images")
    num_scenes: Count = key(6003, "data", "data",
                            "number of rendered training scenes, three images each")
    heldout_scenes: Count = key(500, "data", "evaluator",
                                "number of rendered held-out scenes, never trained on")
    data_seed: Seed = key(0, "data", "data", "random seed of the rendered scenes")
    renderer: Literal["raytrace", "cycles"] = key(
        "raytrace", "data", "data",
        "the package's ray tracer, or Blender's Cycles, which takes days",
        only_with=("data", ("",)))
    blender: str = key("", "data", "nothing", "path of Blender; empty: the one on the PATH")
    clevr_assets: str = key("", "data", "data",
                            "the folder image_generation/data of CLEVR's public repository")
    cycles_samples: int = key(128, "data", "data", "samples per pixel of Cycles; 128: as i-CLEVR",
                              low=1, high=65_536, only_with=("renderer", ("cycles",)))
    cycles_denoise: bool = key(False, "data", "data", "denoise what Cycles renders; i-CLEVR is not",
                               only_with=("renderer", ("cycles",)))
    image_size: int = key(64, "data", "weights", "height and width of the images in pixels",
                          low=8, high=1_024)
    in_memory: bool = key(True, "data", "nothing", "keep the resized images in memory")
    holdout: Literal["none", "test_conditions"] = key(
        "none", "data", "data",
        "training images to leave out: none, or those with a test condition")
    missing: Literal["error", "skip"] = key(
        "error", "data", "nothing",
        "if images that train.json names are not there: stop, or leave them out")

    evaluator: str = key("", "evaluator", "evaluator",
                         "checkpoint.pth or a private *.safetensors; empty: the released stand-in")

    class_emb_size: int = key(128, "model", "weights", "width of the label and time embeddings",
                              low=8, high=8_192)
    backbone: Literal["unet", "u_vit"] = key(
        "u_vit", "model", "weights",
        "architecture: U-Net, or U-ViT (transformer at the lowest level)")
    transformer_blocks: int = key(2, "model", "weights", "transformer blocks of the U-ViT",
                                  low=1, high=256, only_with=("backbone", ("u_vit",)))
    conditioning: Literal["class_embedding", "object_tokens"] = key(
        "object_tokens", "model", "weights",
        "how labels enter: summed embedding, or a token per object")
    layout: bool = key(True, "model", "weights",
                       "condition the network on the position of each object as well")
    ordered_tokens: bool = key(True, "model", "weights",
                               "add an embedding of the object's index to its token",
                               only_with=("conditioning", ("object_tokens",)))
    blocks: list[Annotated[int, Field(ge=0, le=1)]] = key(
        [0, 0, 1], "model", "weights",
        "per level: 1 with attention, 0 without; mirrored on the way up")
    channels: list[Annotated[int, Field(ge=1, le=256)]] = key(
        [1, 2, 4], "model", "weights", "per level: width in multiples of class_emb_size // 4")
    layers_per_block: int = key(1, "model", "weights", "residual layers per level", low=1, high=64)
    patch_size: int = key(2, "model", "weights", "pixel-unshuffle factor at the input; 1: none",
                          low=1, high=64)
    time_scale_shift: Literal["default", "scale_shift"] = key(
        "scale_shift", "model", "weights",
        "how embeddings enter a layer: added, or as scale and shift")
    attention_head_dim: int = key(32, "model", "weights", "channels per attention head",
                                  low=1, high=1_024)
    standardise: bool = key(True, "model", "weights",
                            "subtract the mean training image and divide by data_scale")
    trim_rows: bool = key(True, "model", "weights",
                          "model only the image rows that vary in the training data",
                          only_with=("standardise", (True,)))
    data_scale: float = key(0.2, "model", "weights", "divisor of the standardised images",
                            low=0.01, high=1_000, only_with=("standardise", (True,)))

    num_train_timesteps: int = key(1000, "noise", "weights", "number of diffusion steps T",
                                   low=2, high=MANY)
    beta_schedule: Literal["squaredcos_cap_v2", "linear", "scaled_linear", "sigmoid"] = key(
        "squaredcos_cap_v2", "noise", "weights", "noise schedule")
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = key(
        "sample", "noise", "weights",
        "what the network predicts: noise, velocity or clean image")
    timestep_sampling: Literal["uniform", "logit_normal"] = key(
        "logit_normal", "noise", "weights", "distribution of the training timesteps")
    timestep_shift: float = key(0.5, "noise", "weights", "mean of the logit of t / T",
                                low=-100, high=100,
                                only_with=("timestep_sampling", ("logit_normal",)))
    loss_weighting: Literal["uniform", "velocity", "min_snr", "balanced"] = key(
        "balanced", "noise", "weights", "weight of each timestep in the loss")
    loss_weight_max: float = key(20.0, "noise", "weights",
                                 "gamma, the upper bound on the weight of an error of x_0",
                                 low=0.1, high=MANY,
                                 only_with=("loss_weighting", ("velocity", "min_snr")))

    gradient_weight: Scale = key(1.0, "noise", "weights",
                                 "weight of the error of differences between neighbouring pixels")

    epochs: Count = key(2, "training", "length", "epochs to train for")
    batch_size: int = key(16, "training", "weights", "images per training step, over all processes",
                          low=1, high=65_536)
    gradient_accumulation_steps: int = key(1, "training", "nothing",
                                           "micro-batches per training step", low=1, high=65_536)
    num_processes: int = key(1, "training", "nothing", "training processes, one per GPU",
                             low=1, high=1_024)
    optimizer: Literal["adam", "adamw", "muon"] = key(
        "muon", "training", "weights",
        "optimiser; muon: Muon for the weight matrices, AdamW for the rest")
    learning_rate: Rate = key(1.2e-3, "training", "weights", "peak learning rate of Adam or AdamW")
    muon_learning_rate: Rate = key(0.02, "training", "weights", "peak learning rate of Muon",
                                   only_with=("optimizer", ("muon",)))
    lr_schedule: Literal["constant", "linear", "cosine"] = key(
        "linear", "training", "weights", "learning-rate schedule after the warm-up")
    lr_warmup_steps: int = key(100, "training", "weights", "steps of linear warm-up",
                               low=0, high=10**9)
    lr_decay_start: Fraction = key(0.5, "training", "weights",
                                   "fraction of training after which a linear schedule decays",
                                   only_with=("lr_schedule", ("linear",)))
    label_drop: Fraction = key(
        0.1, "training", "weights",
        "probability of training without the labels, for classifier-free guidance")
    ema_decay: Fraction = key(0.995, "training", "weights",
                              "decay of the moving average (EMA) of the weights; 0: none")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = key(
        "auto", "training", "weights",
        "auto: bfloat16, on a GPU without it float16, else float32")
    compile: Literal["auto", "yes", "no"] = key(
        "auto", "training", "nothing",
        "use torch.compile, which takes minutes; auto: long trainings on a GPU")
    evaluate_every: int = key(1, "training", "report",
                              "epochs between evaluations during training; 0: only at the end",
                              low=0, high=MANY)
    checkpoint_minutes: float = key(2.0, "training", "nothing", "minutes between checkpoints",
                                    low=0, high=MANY)
    report_to: Literal["none", "tensorboard", "wandb"] = key(
        "none", "training", "nothing",
        "tracker of curves and images; wandb: over the network")
    max_steps: int = key(0, "training", "length",
                         "stop after this many steps, to be resumed later; 0: no limit",
                         low=0, high=10**9)

    sampler: SamplerName = key("sde_dpm_solver++", "sampling", "sampling", "sampler")
    num_inference_steps: Count = key(16, "sampling", "sampling", "number of sampling steps")
    guidance_scale: Scale = key(2.0, "sampling", "sampling",
                                "scale of classifier-free guidance; 1: none")
    guidance_interval: list[Fraction] = key([0.0, 0.6], "sampling", "sampling",
                                            "fractions of T between which guidance is applied")
    evaluator_guidance: float = key(
        0.0, "sampling", "sampling",
        "scale of classifier guidance by the evaluator; 0: none",
        low=0, high=MANY)
    layout_choices: int = key(4, "sampling", "sampling",
                              "layouts sampled per image, of which the least crowded is used",
                              low=1, high=1_000, only_with=("layout", (True,)))
    sample_batch_size: int = key(32, "sampling", "nothing", "images sampled per batch",
                                 low=1, high=65_536)

    experiments: list[Literal["timesteps", "sampling"]] = key(
        [], "experiments", "report", "experiments to run for the report")
    sweep_samplers: list[SamplerName] = key(
        ["ddim", "dpm_solver++", "sde_dpm_solver++", "unipc"], "experiments", "report",
        "samplers of the sampling experiment")
    sweep_steps: list[Count] = key([10, 20, 50], "experiments", "report",
                                   "numbers of steps of the sampling experiment")
    sweep_guidance: list[Scale] = key([1.0, 2.0, 4.0, 6.0], "experiments", "report",
                                      "guidance scales of the sampling experiment")
    experiment_timesteps: int = key(2000, "experiments", "report",
                                    "number of diffusion steps T of the timesteps experiment",
                                    low=2, high=MANY)
    experiment_epochs: int = key(
        1, "experiments", "report",
        "epochs before the timesteps experiment compares; 0: all",
        low=0, high=MANY)
    reference: str = key("", "experiments", "report",
                         "folder with real images to compare the rendered ones with; empty: none")
    analysis_images: int = key(1000, "experiments", "report",
                               "number of sampled images to compare with held-out ones",
                               low=2, high=MANY)
    denoise_steps: int = key(10, "experiments", "report", "images shown of a denoising trajectory",
                             low=10, high=1_000)

    title: str = key("Conditional DDPM on i-CLEVR", "report", "report", "title of the report")
    author: str = key("", "report", "report", "author of the report")
    student_id: str = key("", "report", "report",
                          "number after the author, and in the name of the submission")
    course: str = key("", "report", "report", "name of the course, below the author")
    date: str = key("", "report", "report", "date on the report; empty: today")
    abstract: str = key("", "report", "report", "abstract, in Markdown")
    language: str = key("en", "report", "report",
                        "language code of the report, such as en or zh")
    words: str = key("", "report", "report",
                     "folder of introduction.md and so on; empty: report/ in the run's folder")
    computed_discussion: bool = key(True, "report", "report",
                                    "keep the computed sentences beside the author's own")
    all_parameters: bool = key(False, "report", "report",
                               "list all parameters in the appendix, not only those changed")
    font_paths: list[str] = key([], "report", "report",
                                "font files for characters that the default fonts lack")
    runs: list[str] = key([], "report", "report", "names of runs to compare with in the report")

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
