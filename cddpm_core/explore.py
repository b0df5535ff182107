"""Draw by hand: widgets for labels and sampler, and what comes of them."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import torch
from diffusers import DDPMScheduler
from PIL import Image
from torch.nn import functional as F

from cddpm_core.errors import UserError
from cddpm_core.evaluation import to_uint8
from cddpm_core.evaluator import Evaluator, score
from cddpm_core.facts import GUIDED, evaluator_facts, evaluator_phrase
from cddpm_core.figures import grid_image, rescale
from cddpm_core.labels import OBJECTS, to_multi_hot
from cddpm_core.model import ClassConditionedUnet
from cddpm_core.params import Params
from cddpm_core.sampling import image_seeds, sampling_options, trajectory
from cddpm_core.schedule import SAMPLERS
from cddpm_core.selection import kept_seeds

__all__ = ["draw", "explorer"]

NOTHING = "–"


def draw(model: ClassConditionedUnet, scheduler: DDPMScheduler, evaluator: Evaluator | None,
         names: Sequence[str], params: Params) -> dict[str, Any]:
    """Return what comes of one label set, drawn with the seed and sampler of ``params``.

    ``image`` is (3, H, W) in [-1, 1]; ``film`` a picture of x_t, stretched to its range,
    above the predicted x_0 at ``params.denoise_steps`` moments; ``score`` the entry of
    `evaluator.score`, None without an evaluator; ``seconds`` the time of drawing. `UserError` for
    guidance by an evaluator that is not there.
    """
    if evaluator is None and params.evaluator_guidance:
        raise UserError("evaluator_guidance: no evaluator is trained yet to guide with, expected 0 "
                        "or a run that is scored")
    started = time.perf_counter()
    label, options = to_multi_hot(names), sampling_options(
        params, evaluator and evaluator.log_likelihood)
    seed, = kept_seeds(model, scheduler, label[None], image_seeds(params.seed, 1),
                       params.candidates, **options)
    moments = trajectory(model, scheduler, label, seed, moments=params.denoise_steps, **options)
    x_t, x_0 = (torch.stack([moment[key] for moment in moments]) for key in ("x_t", "x_0"))
    pictures = model.denormalise(x_0.to(model.device)).cpu()
    noisy = rescale(x_t) * 2 - 1
    # White where the network leaves rows to the mean image.
    below = pictures.shape[2] - model.top - noisy.shape[2]
    noisy = F.pad(noisy, (0, 0, model.top, below), value=1.0)
    seconds = time.perf_counter() - started
    found = evaluator and score(evaluator(pictures[-1:]), [tuple(names)])["conditions"][0]
    return {"image": pictures[-1], "seconds": seconds, "score": found,
            "film": grid_image(torch.cat([noisy, pictures]), per_row=len(moments), scale=1)}


def explorer(model: ClassConditionedUnet, scheduler: DDPMScheduler, evaluator: Evaluator | None,
             params: Params) -> widgets.Widget:
    """Return controls for labels, seed and sampler, with image, score and film below.

    They begin with one object, one candidate and the values of ``params``; each change draws
    anew. Without an evaluator there is no score.
    """
    last = scheduler.config.num_train_timesteps
    objects = [widgets.Dropdown(options=[NOTHING, *OBJECTS], value=value, description=f"object {i}")
               for i, value in enumerate(("red sphere", NOTHING, NOTHING), 1)]
    # Ancestral sampling walks all timesteps, too many to wait for.
    samplers = [name for name in SAMPLERS if name != "ddpm"]
    controls = {
        "guidance_scale": widgets.FloatSlider(value=params.guidance_scale, min=1, max=10, step=0.5,
                                              description="guidance", continuous_update=False),
        "num_inference_steps": widgets.IntSlider(
            value=min(100, params.num_inference_steps), min=2, max=min(100, last),
            description="steps", continuous_update=False),
        "sampler": widgets.Dropdown(
            options=samplers, description="sampler",
            value=params.sampler if params.sampler in samplers else Params().sampler),
        "candidates": widgets.IntSlider(value=1, min=1, max=12, description="candidates",
                                        continuous_update=False),
        "seed": widgets.BoundedIntText(value=params.seed, min=0, max=2**31, description="seed"),
    }
    image = widgets.Image(format="png", width=256, height=256)
    film = widgets.Image(format="png")
    said = widgets.HTML()
    for widget, name in ((image, "drawn-image"), (film, "drawn-film"), (said, "drawn-score")):
        widget.add_class(name)
    about = (evaluator_phrase(evaluator_facts(evaluator) if evaluator else {})
             + (GUIDED if params.evaluator_guidance else ""))

    def show(_: Any = None) -> None:
        names = list(dict.fromkeys(w.value for w in objects if w.value != NOTHING))
        if not names:
            said.value = "Choose at least one object."
            return
        try:
            chosen = params.replace(**{key: w.value for key, w in controls.items()})
            made = draw(model, scheduler, evaluator, names, chosen)
        except UserError as error:
            said.value = str(error)
            return
        image.value, film.value = _png(made["image"]), _encoded(made["film"])
        said.value = _score_table(made["score"], about, made["seconds"])

    for widget in (*objects, *controls.values()):
        widget.observe(show, "value")
    show()
    return widgets.VBox([
        widgets.HBox([widgets.VBox(objects), widgets.VBox(list(controls.values()))]),
        widgets.HBox([image, said]), film])


def _score_table(found: dict[str, Any] | None, about: str, seconds: float) -> str:
    if found is None:
        return f"<p>not scored: {about}; drawn in {seconds:.1f} s</p>"
    rows = "".join(f"<tr><td>{name}</td><td>{probability:.3f}</td>"
                   f"<td>{'found' if hit else 'missed'}</td></tr>"
                   for name, probability, hit in zip(found["labels"], found["probabilities"],
                                                     found["hits"], strict=True))
    return (f"<table><tr><th>object</th><th>probability</th><th></th></tr>{rows}</table>"
            f"<p>accuracy {found['accuracy']:.2f}, by the {about}; drawn in {seconds:.1f} s</p>")


def _png(image: torch.Tensor) -> bytes:
    picture = Image.fromarray(to_uint8(image).numpy())
    return _encoded(picture.resize((256, 256), Image.Resampling.NEAREST))


def _encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "png")
    return file.getvalue()
