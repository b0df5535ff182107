"""Figures of the report with alt text and caption, as Markdown."""

from __future__ import annotations

import os
from pathlib import Path

from cddpm_core.config.progress import headless
from cddpm_core.report.facts import Facts
from cddpm_core.report.markdown import escape

__all__ = ["denoising_figures", "figure", "timesteps_grids"]


def figure(facts: Facts, name: str, alt: str, caption: str) -> str:
    """Return ``figures/<name>.png`` with alt text and caption, or nothing if it is not there.

    Both texts are Markdown; the data and the evaluator are added to them.
    """
    path = facts.run / f"figures/{name}.png"
    if not path.exists():
        return ""
    # A link is relative to the notebook: the run's folder, or by hand the working directory.
    relative = os.path.relpath(path, facts.run.folder if headless() else Path.cwd())
    origin = escape(facts.origin())
    return f"![{alt} ({origin})]({relative})\n\n*{caption} ({origin}.)*\n"


def denoising_figures(facts: Facts, name: str) -> str:
    """Return the trajectory of one condition, normalised and denormalised."""
    about = facts.metrics.get("denoise", {}).get(name)
    if not about:
        return ""
    condition = escape(f"{', '.join(about['labels'])} ({name}.json, row {about['row']})")
    return "\n".join(
        figure(facts, f"denoise_{name}_{kind}",
               f"Sampler state and predicted image at {len(about['timesteps'])} moments from "
               f"noise to image, {kind}",
               f"Denoising of {condition}, {kind}: $x_t$ above, predicted $x_0$ below.")
        for kind in ("normalised", "denormalised"))


def timesteps_grids(facts: Facts, name: str) -> str:
    """Return the image grids of both variants of the timesteps experiment for a condition file."""
    file = escape(f"{name}.json")
    return "\n".join(
        figure(facts, f"timesteps_{index}_{name}_grid",
               f"The images sampled for {file} with T = {variant['num_train_timesteps']}",
               f"{file} with T = {variant['num_train_timesteps']}, sampled from the same seeds as "
               "the other variant.")
        for index, variant in enumerate(facts.metrics.get("timesteps", {}).get("variants", ())))
