"""A trained model as one object, in the manner of diffusers: network, scheduler, codec, layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, ImagePipelineOutput
from safetensors import SafetensorError

from cddpm_core.config.errors import UserError, shown
from cddpm_core.config.files import atomic, read_json
from cddpm_core.config.schema import Params, coerce
from cddpm_core.data.dataset import IclevrDataset
from cddpm_core.data.labels import to_multi_hot
from cddpm_core.model.codec import PixelCodec, make_codec
from cddpm_core.model.loading import load_component
from cddpm_core.model.network import ClassConditionedUnet, make_network
from cddpm_core.sampling.denoiser import Denoiser
from cddpm_core.sampling.guidance import Guided
from cddpm_core.sampling.layout_prior import LayoutPrior
from cddpm_core.sampling.sample import sample
from cddpm_core.scheduler.process import make_scheduler

__all__ = ["ClassConditionedPipeline", "load_pipeline", "make_pipeline", "sampling_of",
           "save_pipeline"]

SAMPLING = ("sampler", "num_inference_steps", "guidance_scale", "guidance_interval",
            "layout_choices", "grain")


class ClassConditionedPipeline(DiffusionPipeline):
    """Samples images of given objects.

    ``scheduler`` is the noise schedule that the network was trained with, ``codec`` turns pixels
    into the x_0 that it sees, ``layout_prior`` gives positions if it is conditioned on them.
    ``sampling`` has the defaults of a call: the parameters in `SAMPLING`, by default those of
    `Params`. They are saved in ``model_index.json``.
    """

    _optional_components = ["layout_prior"]

    def __init__(self, unet: ClassConditionedUnet, scheduler: DDPMScheduler, codec: PixelCodec,
                 layout_prior: LayoutPrior | None = None,
                 sampling: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, codec=codec,
                              layout_prior=layout_prior)
        self.register_to_config(sampling={**sampling_of(Params()), **(sampling or {})})

    def __call__(self, conditions: Sequence[str] | Sequence[Sequence[str]],
                 num_inference_steps: int | None = None, guidance_scale: float | None = None, *,
                 sampler: str | None = None, guidance_interval: Sequence[float] | None = None,
                 layout_choices: int | None = None, batch_size: int = 32,
                 generator: torch.Generator | None = None,
                 output_type: Literal["pil", "pt"] = "pil") -> ImagePipelineOutput:
        """Return ``.images`` of one condition, a list of names, or of a list of conditions.

        ``images`` are PIL images, or with ``output_type`` "pt" a tensor (B, 3, H, W) in [-1, 1].
        ``generator`` gives each image its seed; the other arguments are those of `sample` and
        `Guided`, by default those in ``config.sampling``. Raises `UserError` for an unknown name,
        sampler, type or number of steps.
        """
        if output_type not in ("pil", "pt"):
            raise UserError(f"output_type: expected 'pil' or 'pt', found {shown(output_type)}")
        given = {"sampler": sampler, "num_inference_steps": num_inference_steps,
                 "guidance_scale": guidance_scale, "guidance_interval": guidance_interval,
                 "layout_choices": layout_choices}
        chosen = {**self.config.sampling, **{key: x for key, x in given.items() if x is not None}}
        one = not conditions or isinstance(conditions[0], str)
        several = [conditions] if one else conditions
        labels = torch.stack([to_multi_hot(names) for names in several])
        seeds = torch.randint(2**62, (len(labels),), generator=generator,
                              device=generator.device if generator else None).tolist()
        denoiser = Guided(Denoiser(self.unet, self.scheduler), chosen.pop("guidance_scale"),
                          chosen.pop("guidance_interval"))
        images = sample(self, labels, seeds, denoiser=denoiser, batch_size=batch_size, **chosen)
        if output_type == "pil":
            images = self.numpy_to_pil(((images + 1) / 2).movedim(1, -1).numpy())
        return ImagePipelineOutput(images=images)


def sampling_of(params: Params) -> dict[str, Any]:
    """Return the parameters of a run that a pipeline samples with by default."""
    return {key: getattr(params, key) for key in SAMPLING}


def make_pipeline(params: Params, dataset: IclevrDataset) -> ClassConditionedPipeline:
    """Return an untrained pipeline; its codec and layouts are those of the training images.

    Raises `UserError` if an image has more labels than the network has tokens.
    """
    codec = make_codec(params, dataset)
    layouts = dataset.layouts() if params.layout else ()
    unet = make_network(params, layout=bool(len(layouts)))
    unet.check_labels(dataset.labels)
    prior = LayoutPrior.of(layouts) if len(layouts) else None
    return ClassConditionedPipeline(unet, make_scheduler(params), codec, prior,
                                    sampling_of(params))


def save_pipeline(pipeline: ClassConditionedPipeline, folder: str | Path) -> None:
    """Write a pipeline to ``folder`` in diffusers' layout, each file whole."""
    with atomic(folder) as temporary:
        try:
            pipeline.save_pretrained(temporary, safe_serialization=True)
        except SafetensorError as error:
            raise UserError(f"{folder}: cannot be written ({error})") from None


def load_pipeline(folder: str | Path,
                  device: torch.device | str = "cpu") -> ClassConditionedPipeline:
    """Return the pipeline of a folder on a device.

    Raises `UserError` if a part is missing, or has weights other than its configuration says.
    `ClassConditionedPipeline.from_pretrained` loads the same without these checks.
    """
    folder = Path(folder)
    unet = load_component(ClassConditionedUnet, folder / "unet")
    codec = load_component(PixelCodec, folder / "codec")
    prior = load_component(LayoutPrior, folder / "layout_prior") if unet.config.layout else None
    try:
        scheduler = DDPMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{folder / 'scheduler'}: not a readable scheduler ({reason}), run the "
                        "'train' stage again") from None
    index, found = folder / "model_index.json", read_json(folder / "model_index.json")
    saved = found.get("sampling", {}) if isinstance(found, dict) else None
    if not isinstance(saved, dict):
        raise UserError(f"{index}: expected the index of a pipeline as diffusers writes it")
    sampling = {key: coerce(key, saved[key], str(index)) for key in SAMPLING if key in saved}
    return ClassConditionedPipeline(unet, scheduler, codec, prior, sampling).to(device)
