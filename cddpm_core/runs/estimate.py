"""How long the experiments take, estimated before they run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cddpm_core.config.schema import Params, sampling_variants

__all__ = ["experiment_seconds", "experiments_line"]

IMAGES = 64  # of both condition files


def experiment_seconds(name: str, params: Params, metrics: Mapping[str, Any]) -> float:
    """Return the seconds that an experiment takes, from those of the training and evaluation.

    ``metrics`` is ``metrics.json`` of a run that is evaluated.
    """
    sampled = metrics["sample"]
    if "imported" in metrics["train"] and name == "timesteps":
        return 0.0  # it is left out
    if name == "timesteps":
        epochs = min(params.experiment_epochs or params.epochs, params.epochs)
        return (metrics["train"]["seconds"] * epochs / params.epochs
                + 2 * IMAGES / sampled["images_per_second"])
    calls = _calls(sampled["num_inference_steps"], sampled["guidance_scale"])
    wanted = sum(_calls(variant.num_inference_steps, variant.guidance_scale)
                 for variant in sampling_variants(params))
    return wanted / calls * IMAGES / sampled["images_per_second"]


def _calls(steps: int, guidance: float) -> int:
    """The images that the network sees for one image: with guidance two in a step."""
    return steps * (1 if guidance == 1 else 2)


def experiments_line(names: Sequence[str], params: Params, metrics: Mapping[str, Any]) -> str:
    """Return what is said before a report with experiments; they run only if nothing is kept."""
    said = f"experiments: {' and '.join(names)}, "
    if not {"train", "sample"} <= metrics.keys():
        return said + "about 15 minutes more with quick on 2 CPU cores"
    seconds = sum(experiment_seconds(name, params, metrics) for name in names)
    return said + f"about {max(1, round(seconds / 60))} minutes more, if they have not been run yet"
