"""The fixed text of the report: what holds for every run, and scores that others published."""

from __future__ import annotations

from cddpm_core.report.language import say
from cddpm_core.report.markdown import table

__all__ = ["encoding_text", "forward_text", "published_tables", "scoring_text", "task_text"]

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


def task_text() -> str:
    """Return the task and the method in a paragraph."""
    return say(
        "The task is to generate images of given objects: one to three objects out of 24, each a "
        "colour and a shape, in a 64 × 64 image in the style of i-CLEVR. The method is a "
        "conditional denoising diffusion probabilistic model (DDPM) [@ho2020]. A network learns to "
        "reverse a gradual corruption by noise. Started from pure noise and conditioned on the "
        "objects, it then produces an image. A pretrained classifier judges whether the requested "
        "objects are there.")


def encoding_text() -> str:
    """Return how images and labels become tensors."""
    return say(
        "The images are resized to squares without keeping their aspect ratio, as in the course, "
        "and scaled to [−1, 1]. A condition becomes a multi-hot vector $y$ of 24 entries with the "
        r"index $8 \cdot \text{shape} + \text{colour}$; the order of its names is kept as well.")


def forward_text() -> str:
    """Return the forward process with its formula."""
    return (say("The forward process adds Gaussian noise in $T$ steps. Step $t$ has the closed "
                "form below, with {alpha}.",
                alpha=r"$\bar\alpha_t = \prod_{s=0}^{t} (1 - \beta_s)$") + "\n\n"
            r"$$x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad "
            r"\epsilon \sim \mathcal{N}(0, I), \qquad "
            r"\operatorname{SNR}(t) = \frac{\bar\alpha_t}{1 - \bar\alpha_t} .$$")


def scoring_text() -> str:
    """Return how images are scored, with the formulas of both accuracies."""
    return (say("An image with $k$ labels is scored by how many of them are among the evaluator's "
                "$k$ highest outputs, the objects that it sees. With $n$ images, $k_i$ labels of "
                "image $i$ and $h_i$ of them found,") + "\n\n"
            r"$$\text{micro} = \frac{\sum_i h_i}{\sum_i k_i}, \qquad "
            r"\text{macro} = \frac{1}{n} \sum_i \frac{h_i}{k_i} .$$" "\n\n"
            + say("The course's evaluator returns micro accuracy for a whole file in one batch. "
                  "If it is called once per image, the mean of its results is the macro accuracy."))


def published_tables() -> str:
    """Return a sentence and a table for each metric: they are different quantities."""
    return "\n\n".join([
        say("What others have reported for this task, all with the real data and the official "
            "evaluator, as they state it; nothing of it was measured here. Micro and macro "
            "accuracy are different quantities and stand in separate tables (@tbl:published-macro "
            "and @tbl:published-micro)."),
        *(table(HEADER, [[say(cell) for cell in row] for row in rows], say(caption), False, name)
          for rows, caption, name in (
              (MACRO, "Published macro accuracies (real data; official evaluator).",
               "published_macro"),
              (MICRO, "Published micro accuracies (real data; official evaluator).",
               "published_micro")))])
