"""Scores that others have published for this task, as tables."""

from __future__ import annotations

from cddpm_core.report.language import say
from cddpm_core.report.markdown import table

__all__ = ["published_tables"]

HEADER = ("solution", "how", "test", "new_test")
MACRO = [
    ("the original report", "UNet2DModel, 6 plain levels, noise prediction, T = 1000, Adam 1e-5, "
     "batch 8, 100 epochs, DDPM in 1000 steps", "0.807", "0.839"),
    ("the original report", "the same with T = 2000", "0.724", "0.755"),
    ("a public solution", "UNet2DModel, label embedding 512, 300 epochs at 1e-4, T = 1000",
     "0.948", "0.927"),
]
MICRO = [
    ("a public solution", "own U-Net of 70 million weights, object tokens with cross-attention, "
     "EMA, 150 epochs, DDIM in 100 steps", "0.917", "0.964"),
    ("a public solution", "UNet2DModel, classifier-free guidance swept over the scale, T = 500",
     "0.90", "0.96"),
    ("a public solution", "own U-Net, guided by the evaluator itself, which inflates the score",
     "0.931", "0.964"),
    ("the same", "without that guidance", "0.778", "0.857"),
]


def published_tables() -> str:
    """Return a sentence and a table for each metric: they are different quantities."""
    return "\n\n".join([
        say("What others have reported for this task, all with the real data and the official "
            "evaluator. Micro and macro accuracy are different quantities and stand in separate "
            "tables (@tbl:published-macro and @tbl:published-micro)."),
        *(table(HEADER, [[say(cell) for cell in row] for row in rows], say(caption), False, name)
          for rows, caption, name in (
              (MACRO, "Published macro accuracies (real data; official evaluator).",
               "published_macro"),
              (MICRO, "Published micro accuracies (real data; official evaluator).",
               "published_micro")))])
