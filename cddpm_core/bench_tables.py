"""The tables of ``bench.json``: what is faster, and what has learned more in the same time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cddpm_core.facts import evaluator_phrase
from cddpm_core.markdown import code, count, escape, share, table

__all__ = ["arithmetic_text", "bench_table", "race_tables"]


def bench_table(bench: Mapping[str, Any]) -> str:
    """Return the ratios of ``bench.json``, what they compare, and the memory it took."""
    if not bench:
        return f"Speed has not been measured here yet: {code('make bench')}.\n"
    rows = []
    for name, part in bench.items():
        if isinstance(part, Mapping) and "ratio" in part:
            ratio = part["ratio"]
            rows.append([code(name), escape(part["what"]),
                         f"{ratio['median']:.3g} ({ratio['least']:.3g} to {ratio['greatest']:.3g})",
                         " and ".join(f"{peak:,.0f}" for peak in part["peak_mib"].values())])
    micro = bench["sampling_vs_seed_loop"]["micro"]
    found = ", ".join(f"{escape(arm.replace('_', ' '))}: {share(value)}"
                      for arm, value in micro.items() if arm != "evaluator")
    machine = bench["made_with"]
    return table(
        ["ratio", "first arm against second", "times faster, median (range)",
         "peak memory of both, MiB"], rows,
        f"Speed of two ways side by side, {bench['repeats']} turns each, measured by "
        f"{code('make bench')} on {escape(machine['machine'])} with run {code(bench['run'])}, "
        f"{bench['data']} data. "
        f"Micro accuracy of the images drawn in {code('sampling_vs_seed_loop')} "
        f"({evaluator_phrase(micro['evaluator'])}): {found}.", numbers=False)


def arithmetic_text(bench: Mapping[str, Any]) -> str:
    """Return how much of the machine's arithmetic training uses."""
    part = bench.get("arithmetic")
    if not part:
        return ""
    used, products = part["training_flops_per_second"], part["matrix_flops_per_second"]
    most = products[part["arithmetic"]]
    rates = " and ".join(f"{rate / 1e9:,.0f} billion a second in {kind}"
                         for kind, rate in products.items())
    return (f"Training does {part['training_flops_per_image'] / 1e9:.2f} billion floating-point "
            f"operations an image in its forward and backward pass, {used / 1e9:,.0f} billion a "
            f"second. Large matrix products reach {rates} on this machine, and training in "
            f"{part['arithmetic']} is at {used / most:.0%} of that rate.\n")


def race_tables(bench: Mapping[str, Any]) -> str:
    """Return what each recipe learned in the same minutes, a table a comparison."""
    drawn_of = {"recipe_vs_seed_recipe": "The label sets of both files, drawn by recipes",
                "against_peer": "Each object alone, drawn twice by recipes"}
    said = []
    for name, caption in drawn_of.items():
        part = bench.get(name)
        if not part:
            continue
        chance = f", guessing {share(part['chance'])}" if "chance" in part else ""
        rows = [[code(arm), escape(found["what"]), count(found["steps"]), count(found["images"]),
                 f"{found['parameters'] / 1e6:.1f} M", share(found["micro"]),
                 f"{found['peak_mib']:,.0f}"] for arm, found in part["arms"].items()]
        said.append(table(
            ["recipe", "what", "steps", "images trained on", "weights", "micro",
             "peak memory, MiB"], rows,
            f"{caption} that trained for {part['minutes']:g} minutes each, reading the images not "
            f"counted{chance}, measured by {code('make bench')} with run {code(bench['run'])} "
            f"({bench['data']} data; {evaluator_phrase(part['evaluator'])}).", numbers=False)
            + (f"\n{escape(part['missing'])}.\n" if part.get("missing") else ""))
    return "\n".join(said)
