"""Interactive sampling: widgets for labels and sampler, and the image, trajectory and score."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import torch
from PIL import Image

from cddpm_core.config.errors import UserError
from cddpm_core.config.files import png_of
from cddpm_core.config.schema import Params
from cddpm_core.data.labels import OBJECTS, to_multi_hot
from cddpm_core.evaluation.evaluator import Evaluator
from cddpm_core.evaluation.images import grid_image, rescale, to_uint8
from cddpm_core.evaluation.score import evaluator_facts, score
from cddpm_core.report.facts import GUIDED, evaluator_phrase
from cddpm_core.sampling.pipeline import ClassConditionedPipeline
from cddpm_core.sampling.sample import image_seeds, sampling_options
from cddpm_core.sampling.trajectory import trajectory
from cddpm_core.scheduler.samplers import SAMPLERS

__all__ = ["explorer", "generate"]

NOTHING = "–"
MAX_STEPS = 100  # of the slider: more are too slow to wait for


def generate(pipeline: ClassConditionedPipeline, evaluator: Evaluator, names: Sequence[str],
             params: Params) -> dict[str, Any]:
    """Return an image of one condition, with the seed and sampler of ``params``.

    ``image`` is (3, H, W) in [-1, 1]; ``trajectory`` a picture of x_t, stretched to its range,
    above the predicted x_0 at ``params.denoise_steps`` moments; ``score`` the condition's entry
    in what `score` returns; ``seconds`` the time of sampling.
    """
    started = time.perf_counter()
    seed, = image_seeds(params.seed, 1)
    moments = trajectory(pipeline, to_multi_hot(names), seed, moments=params.denoise_steps,
                         **sampling_options(pipeline, params, evaluator))
    seconds = time.perf_counter() - started
    codec = pipeline.codec
    x_t, x_0 = (torch.stack([moment[key] for moment in moments]) for key in ("x_t", "x_0"))
    pictures = codec.decode(x_0.to(pipeline.device)).cpu()
    noisy = rescale(x_t) * 2 - 1
    found = score(evaluator(pictures[-1:]), [tuple(names)])["conditions"][0]
    return {"image": pictures[-1], "seconds": seconds, "score": found,
            "trajectory": grid_image(torch.cat([noisy, pictures]), per_row=len(moments), scale=1)}


def explorer(pipeline: ClassConditionedPipeline, evaluator: Evaluator,
             params: Params) -> widgets.Widget:
    """Return controls for labels, seed and sampler, with image, score and trajectory below.

    They start with one object and the values of ``params``; each change samples again.
    """
    last = pipeline.scheduler.config.num_train_timesteps
    objects = [widgets.Dropdown(options=[NOTHING, *OBJECTS], value=value, description=f"object {i}")
               for i, value in enumerate(("red sphere", NOTHING, NOTHING), 1)]
    # A sampler that takes all timesteps is too slow to wait for.
    samplers = [name for name, sampler in SAMPLERS.items() if not sampler.all_steps]
    controls = {
        "guidance_scale": widgets.FloatSlider(value=params.guidance_scale, min=1, max=10, step=0.5,
                                              description="guidance", continuous_update=False),
        "num_inference_steps": widgets.IntSlider(
            value=min(MAX_STEPS, params.num_inference_steps), min=2, max=min(MAX_STEPS, last),
            description="steps", continuous_update=False),
        "sampler": widgets.Dropdown(
            options=samplers, description="sampler",
            value=params.sampler if params.sampler in samplers else Params().sampler),
        "seed": widgets.BoundedIntText(value=params.seed, min=0, max=2**31, description="seed"),
    }
    image = widgets.Image(format="png", width=256, height=256)
    moments = widgets.Image(format="png")
    message = widgets.HTML()
    for widget, name in ((image, "sampled-image"), (moments, "sampled-trajectory"),
                         (message, "sampled-score")):
        widget.add_class(name)
    about = evaluator_phrase(evaluator_facts(evaluator))
    if params.evaluator_guidance:
        about += f"; {GUIDED}"

    def show(_: Any = None) -> None:
        names = list(dict.fromkeys(w.value for w in objects if w.value != NOTHING))
        if not names:
            message.value = "Choose at least one object."
            return
        try:
            chosen = params.replace(**{key: w.value for key, w in controls.items()})
            made = generate(pipeline, evaluator, names, chosen)
        except UserError as error:
            message.value = str(error)
            return
        image.value, moments.value = _png(made["image"]), png_of(made["trajectory"])
        message.value = _score_table(made["score"], about, made["seconds"])

    for widget in (*objects, *controls.values()):
        widget.observe(show, "value")
    show()
    return widgets.VBox([
        widgets.HBox([widgets.VBox(objects), widgets.VBox(list(controls.values()))]),
        widgets.HBox([image, message]), moments])


def _score_table(found: dict[str, Any], about: str, seconds: float) -> str:
    rows = "".join(f"<tr><td>{name}</td><td>{probability:.3f}</td>"
                   f"<td>{'found' if hit else 'missed'}</td></tr>"
                   for name, probability, hit in zip(found["labels"], found["probabilities"],
                                                     found["hits"], strict=True))
    return (f"<table><tr><th>object</th><th>probability</th><th></th></tr>{rows}</table>"
            f"<p>accuracy {found['accuracy']:.2f}, {about}; sampled in {seconds:.1f} s</p>")


def _png(image: torch.Tensor) -> bytes:
    picture = Image.fromarray(to_uint8(image).numpy())
    return png_of(picture.resize((256, 256), Image.Resampling.NEAREST))
