"""The lines that the command line prints at the end of a run and of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cddpm_core.data.labels import CONDITION_FILES
from cddpm_core.report.facts import DATA_KINDS, GUIDED, evaluator_phrase

__all__ = ["accuracy_lines", "bench_lines", "run_lines"]


def accuracy_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return the accuracies of a part of ``metrics.json``, a line for each file of conditions."""
    return [f"{name}: {_accuracies(metrics[name])}" + (
        f"; with layout_choices 1: {_accuracies(alone)}"
        if (alone := metrics[name].get("one_layout")) else "") for name in CONDITION_FILES]


def _accuracies(found: Mapping[str, Any]) -> str:
    return f"micro {found['micro']:.4f}, macro {found['macro']:.4f}"


def run_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Return the results of a finished run: data, evaluator, accuracies and times."""
    data, evaluator, sample = metrics["data"], metrics["evaluator"], metrics["sample"]
    second = metrics.get("second")
    guided = f"; {GUIDED}" if sample.get("evaluator_guidance") else ""
    return [f"data: {DATA_KINDS[data['kind']]}, {data['images']} images",
            f"scored by: {evaluator_phrase(evaluator)}{guided}", *accuracy_lines(metrics),
            *([f"scored by: {evaluator_phrase(second['evaluator'])}", *accuracy_lines(second)]
              if second else []),
            _training_line(metrics["train"]),
            f"sampling: {sample['num_inference_steps']} steps, "
            f"{sample['images_per_second']:.2f} images/s",
            f"total: {metrics['total_seconds'] / 60:.1f} minutes"]


def _training_line(train: Mapping[str, Any]) -> str:
    if "imported" in train:
        return f"model: imported from {train['imported']['file']}, not trained here"
    return (f"training: {train['seconds'] / 60:.1f} minutes, "
            f"{train['images_per_second']:.1f} images/s")


def bench_lines(results: Mapping[str, Any]) -> list[str]:
    """Return the results of ``bench.json``: accuracies of variants, and ratios of speeds."""
    lines = []
    for name, found in results.items():
        if isinstance(found, Mapping) and "variants" in found:
            lines.append(f"{name}, {found['minutes']:g} minutes each: " + ", ".join(
                f"{variant} {part['micro']:.3f}" for variant, part in found["variants"].items()))
        if isinstance(found, Mapping) and "ratio" in found:
            ratio = found["ratio"]
            lines.append(f"{name}: {ratio['median']:.1f}x ({ratio['min']:.1f} to "
                         f"{ratio['max']:.1f}); {found['what']}")
    return lines
