"""The fixed text of the report: what holds for every run."""

from __future__ import annotations

from cddpm_core.report.language import say

__all__ = ["encoding_text", "forward_text", "scoring_text", "task_text"]


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
        "The images are squashed to squares of `image_size` pixels without keeping their aspect "
        "ratio, as in the course, and scaled to [−1, 1]. A condition becomes a multi-hot vector "
        r"$y$ of 24 entries with the index $8 \cdot \text{shape} + \text{colour}$, which also "
        "keeps the order of the names.")


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
                "$k$ highest outputs. With $n$ images, $k_i$ labels of image $i$ and $h_i$ of them "
                "found,") + "\n\n"
            r"$$\text{micro} = \frac{\sum_i h_i}{\sum_i k_i}, \qquad "
            r"\text{macro} = \frac{1}{n} \sum_i \frac{h_i}{k_i} .$$" "\n\n"
            + say("The course's evaluator returns micro accuracy for a whole file in one batch. "
                  "Called image by image, its mean is macro accuracy."))
