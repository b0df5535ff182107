"""The tables of ``bench.json``: what is faster, and which recipe learns more in the same time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cddpm_core.report.facts import DATA_KINDS, evaluator_phrase
from cddpm_core.report.markdown import code, count, decimals, escape, prose, table

__all__ = ["arithmetic_text", "bench_table", "race_tables"]

RACES = {"recipe_vs_seed_recipe": "The conditions of both files, sampled by recipes",
         "against_peer": "Single objects, each sampled twice, by recipes"}


def bench_table(bench: Mapping[str, Any]) -> str:
    """Return the ratios of ``bench.json``, what they compare, and the memory of both variants."""
    if not bench:
        return f"Speed has not been measured here yet: {code('make bench')}.\n"
    rows = []
    for name, part in bench.items():
        if isinstance(part, Mapping) and "ratio" in part:
            ratio = part["ratio"]
            rows.append([code(name), escape(part["what"]),
                         f"{ratio['median']:.3g} ({ratio['min']:.3g} to {ratio['max']:.3g})",
                         " and ".join(f"{peak:,.0f}" for peak in part["peak_mib"].values())])
    micro = bench["sampling_vs_seed_loop"]["micro"]
    found = ", ".join(f"{escape(variant.replace('_', ' '))} {decimals(value)}"
                      for variant, value in micro.items() if variant != "evaluator")
    return table(
        ["ratio", "first variant, second variant", "times faster, median (range)",
         "peak memory of both, MiB"], rows,
        f"Speed of the second variant relative to the first, {bench['repeats']} turns each, "
        f"measured by {code('make bench')} on {escape(bench['made_with']['machine'])} with run "
        f"{code(bench['run'])} on {DATA_KINDS[bench['data']]}. "
        f"Micro accuracy in {code('sampling_vs_seed_loop')} "
        f"({evaluator_phrase(micro['evaluator'])}): {found}.", numbers=False)


def arithmetic_text(bench: Mapping[str, Any]) -> str:
    """Return how much of the machine's arithmetic training uses."""
    part = bench.get("arithmetic")
    if not part:
        return ""
    used, products = part["training_flops_per_second"], part["matrix_flops_per_second"]
    reached = used / products[part["arithmetic"]]
    rates = " and ".join(f"{rate / 1e9:,.0f} billion per second in {kind}"
                         for kind, rate in products.items())
    return prose(
        f"Training takes {part['training_flops_per_image'] / 1e9:.2f} billion floating-point "
        "operations per image in the forward and backward pass, and reaches "
        f"{used / 1e9:,.0f} billion per second.",
        f"Large matrix products reach {rates} on this machine.",
        f"Training in {part['arithmetic']} runs at {reached:.0%} of that rate.")


def race_tables(bench: Mapping[str, Any]) -> str:
    """Return what each recipe learned in the same minutes, a table for each comparison."""
    found = []
    for name, caption in RACES.items():
        part = bench.get(name)
        if not part:
            continue
        rows = [[code(variant), escape(about["what"]), count(about["steps"]),
                 count(about["images"]), f"{about['parameters'] / 1e6:.1f} M",
                 decimals(about["micro"]), f"{about['peak_mib']:,.0f}"]
                for variant, about in part["variants"].items()]
        chance = f" A random guess scores {decimals(part['chance'])}." if "chance" in part else ""
        found.append(table(
            ["recipe", "what", "steps", "training images", "parameters", "micro",
             "peak memory, MiB"], rows,
            f"{caption} that trained for {part['minutes']:g} minutes each, without the time to "
            f"read the images.{chance} Measured by {code('make bench')} with run "
            f"{code(bench['run'])} ({DATA_KINDS[bench['data']]}; "
            f"{evaluator_phrase(part['evaluator'])}).",
            numbers=False) + (f"\n{escape(part['missing'])}.\n" if part.get("missing") else ""))
    return "\n".join(found)
