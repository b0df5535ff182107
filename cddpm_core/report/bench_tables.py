"""The tables of ``bench.json``: what is faster, and which recipe learns more in the same time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cddpm_core.report.facts import DATA_KINDS, evaluator_phrase
from cddpm_core.report.language import say
from cddpm_core.report.markdown import code, count, decimals, escape, listed, prose, table

__all__ = ["arithmetic_text", "bench_origin", "bench_table", "gpu_table", "race_tables", "races"]

RACES = {
    "recipe_vs_seed_recipe": "The conditions of both files, sampled by recipes that trained for "
                             "{minutes} minutes each, without the time to read the images.",
    "against_peer": "Single objects, each sampled twice, by recipes that trained for {minutes} "
                    "minutes each, without the time to read the images."}


def bench_origin(bench: Mapping[str, Any]) -> str:
    """Return the data and the evaluator of ``bench.json``."""
    evaluator = bench["sampling_vs_seed_loop"]["micro"]["evaluator"]
    return say("; ").join([say(DATA_KINDS[bench["data"]]), evaluator_phrase(evaluator)])


def bench_table(bench: Mapping[str, Any]) -> str:
    """Return the ratios of ``bench.json``, what they compare, and the memory of both variants."""
    if not bench:
        return ""
    rows = []
    for name, part in bench.items():
        if isinstance(part, Mapping) and "ratio" in part:
            ratio = part["ratio"]
            rows.append([code(name), escape(part["what"]),
                         say("{median} ({least} to {most})", median=f"{ratio['median']:.3g}",
                             least=f"{ratio['min']:.3g}", most=f"{ratio['max']:.3g}"),
                         listed([f"{peak:,.0f}" for peak in part["peak_mib"].values()])])
    micro = bench["sampling_vs_seed_loop"]["micro"]
    found = ", ".join(f"{escape(variant.replace('_', ' '))} {decimals(value)}"
                      for variant, value in micro.items() if variant != "evaluator")
    return table(
        ["ratio", "first variant, second variant", "times faster, median (range)",
         "peak memory of both, MiB"], rows,
        say("Speed of the second variant relative to the first, {repeats} repetitions each, "
            "measured by {command} on {machine} with run {run} on {data}. Micro accuracy in {name} "
            "({evaluator}): {found}.", repeats=bench["repeats"], command=code("make bench"),
            machine=escape(bench["made_with"]["machine"]), run=code(bench["run"]),
            data=say(DATA_KINDS[bench["data"]]), name=code("sampling_vs_seed_loop"),
            evaluator=evaluator_phrase(micro["evaluator"]), found=found),
        numbers=False, name="bench")


def arithmetic_text(bench: Mapping[str, Any]) -> str:
    """Return how much of the machine's arithmetic training uses."""
    part = bench.get("arithmetic")
    if not part:
        return ""
    used, products = part["training_flops_per_second"], part["matrix_flops_per_second"]
    rates = listed([say("{rate} billion per second in {kind}", rate=f"{rate / 1e9:,.0f}", kind=kind)
                    for kind, rate in products.items()])
    return prose(
        say("Training takes {operations} billion floating-point operations per image in the "
            "forward and backward pass, and reaches {speed} billion per second.",
            operations=f"{part['training_flops_per_image'] / 1e9:.2f}",
            speed=f"{used / 1e9:,.0f}"),
        say("Large matrix products reach {rates} on this machine.", rates=rates),
        say("Training in {kind} runs at {reached} of that rate.", kind=part["arithmetic"],
            reached=f"{used / products[part['arithmetic']]:.0%}"))


def races(bench: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the parts of ``bench.json`` that compare recipes in equal time."""
    return {name: bench[name] for name in RACES if bench.get(name)}


def race_tables(bench: Mapping[str, Any]) -> str:
    """Return what each recipe learned in the same minutes, a table for each comparison."""
    found = []
    for name, part in races(bench).items():
        rows = [[code(variant), escape(about["what"]), count(about["steps"]),
                 count(about["images"]), f"{about['parameters'] / 1e6:.1f} M",
                 decimals(about["micro"]), decimals(about["sharpness"]),
                 f"{about['peak_mib']:,.0f}"]
                for variant, about in part["variants"].items()]
        found.append(table(
            ["recipe", "what", "steps", "training images", "parameters", "micro", "sharpness",
             "peak memory, MiB"], rows,
            prose(say(RACES[name], minutes=f"{part['minutes']:g}"),
                  say("A random guess scores {chance}.", chance=decimals(part["chance"]))
                  if "chance" in part else "",
                  say("Measured by {command} with run {run} ({data}; {evaluator}).",
                      command=code("make bench"), run=code(bench["run"]),
                      data=say(DATA_KINDS[bench["data"]]),
                      evaluator=evaluator_phrase(part["evaluator"]))).strip(),
            numbers=False, name=name)
            + (f"\n{escape(part['missing'])}.\n" if part.get("missing") else ""))
    return "\n".join(found)


def gpu_table(found: Mapping[str, Any]) -> str:
    """Return the figures of ``gpu.json``, for the results of all runs; parts may be missing."""
    rates, rows = found["matrix_flops_per_second"], []
    for name, part in (("seed", found.get("seed", {}).get("ours")),
                       ("full", found.get("full", {}).get("speed"))):
        if part:
            share = part["flops_per_second"] / rates[part["arithmetic"]]
            kind = part["arithmetic"]
            rows += [[f"{name}: training images per second", f"{part['images_per_second']:,.0f}"],
                     [f"{name}: share of the rate of {kind} matrix products", f"{share:.0%}"],
                     [f"{name}: minutes of training at that speed",
                      f"{part['projected_minutes']:,.1f}"]]
    if "seed" in found:
        rows.append(["seed: times as fast as its own loop in float32",
                     f"{found['seed']['ratio']:.1f}"])
    if full := found.get("full"):
        rows += [["full: peak memory, GiB", "" if (peak := full["speed"]["peak_mib"]) is None
                  else f"{peak / 1024:.1f}"],
                 ["full: minutes trained", f"{full['trained']['minutes']:.1f}"],
                 *([f"full: micro on {file}", decimals(micro)]
                   for file, micro in full["micro"].items()),
                 ["full: sharpness, kernel distance", f"{full['fidelity']['sharpness']:.3f}, "
                                                      f"{full['fidelity']['kernel_distance']:.4f}"],
                 ["full: seconds to sample 64 conditions",
                  f"{full['sampling']['seconds_of_64']:.1f}"]]
    if "tests" in found:
        rows.append(["tests", escape(found["tests"]["printed"].strip().splitlines()[-1])])
    return table(["figure", "value"], rows,
                 f"Measured by `python -m cddpm_core bench --gpu` on {escape(found['card'])}, "
                 f"torch {escape(found['torch'])}, on rendered scenes with the released stand-in "
                 "evaluator.", name="gpu")
