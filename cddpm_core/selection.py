"""Several images a label set, and which of them the network itself takes for the right one.

A network that draws can also judge: noise is easier to take off an image when one is told what is
in it, so that the error with the label, against that with another one, says how well the label
fits (Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier"). No evaluator
takes part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import DDPMScheduler
from tqdm import tqdm

from cddpm_core.model import ClassConditionedUnet
from cddpm_core.sampling import autocast, sample
from cddpm_core.schedule import alpha_bar, predicted_x_0

__all__ = ["NOISES", "candidate_seeds", "kept_seeds", "sample_candidates", "support"]

# Shares of T at which an image is given noise; places and colours show at the later ones.
NOISES = (0.35, 0.5, 0.6, 0.7, 0.775, 0.85, 0.9, 0.94, 0.97) * 2


def candidate_seeds(seed: int, candidates: int) -> list[int]:
    """Return the seeds of the images drawn in place of that of ``seed``, which comes first."""
    return [seed + 1_000_000_000 * number for number in range(candidates)]


def sample_candidates(model: ClassConditionedUnet, scheduler: DDPMScheduler, labels: torch.Tensor,
                      seeds: Sequence[int], candidates: int, *, bar: tqdm | None = None,
                      places: torch.Tensor | None = None,
                      **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images (N, candidates, 3, H, W) in [-1, 1] for N labels, and which to keep, (N,).

    The first of each label are those that `sample` returns for ``seeds``. Kept is the one of most
    `support`. ``places``, (N, 24, 2), and ``options`` are those of `sample`; ``bar`` is advanced
    once a step of the sampler and once a noise level.
    """
    seeds_of_all = [s for seed in seeds for s in candidate_seeds(seed, candidates)]
    of_all = labels.repeat_interleave(candidates, 0)
    places = (model.draw_places(of_all, seeds_of_all, options.get("layout_choices", 1))
              if places is None else places.repeat_interleave(candidates, 0))
    drawn = sample(model, scheduler, of_all, seeds_of_all, bar=bar, places=places, **options)
    drawn = drawn.unflatten(0, (len(labels), candidates))
    if candidates == 1:
        return drawn, torch.zeros(len(labels), dtype=torch.long)
    found = support(model, scheduler, drawn, labels, seeds, bar=bar, places=places,
                    batch_size=options.get("batch_size", 32),
                    mixed_precision=options.get("mixed_precision", "no"))
    return drawn, found.argmax(1)


def kept_seeds(model: ClassConditionedUnet, scheduler: DDPMScheduler, labels: torch.Tensor,
               seeds: Sequence[int], candidates: int, **options) -> list[int]:
    """Return the seeds of the images that `sample_candidates` keeps, for `sampling.sample`."""
    if candidates == 1:
        return list(seeds)
    _, kept = sample_candidates(model, scheduler, labels, seeds, candidates, **options)
    return [candidate_seeds(seed, candidates)[number]
            for seed, number in zip(seeds, kept.tolist(), strict=True)]


@torch.no_grad()
def support(model: ClassConditionedUnet, scheduler: DDPMScheduler, images: torch.Tensor,
            labels: torch.Tensor, seeds: Sequence[int], *, batch_size: int = 32,
            mixed_precision: str = "no", places: torch.Tensor | None = None,
            bar: tqdm | None = None) -> torch.Tensor:
    """Return how much each image speaks for every object of its label, (N, K).

    Args:
        images: K for each label, float (N, K, 3, H, W) in [-1, 1].
        labels: multi-hot floats, (N, 24).
        seeds: of the noise, N integers; the K images of a label are given the same noise.
        batch_size: images the network is asked for at once.
        mixed_precision: ``no`` or ``bf16`` arithmetic of the network.
        places: of the objects in all images, (N * K, 24, 2), for a network that is told them.
        bar: a progress bar that is advanced once a noise level.

    For each object of a label, the squared error of the predicted x_0 without it less that with
    it is summed over noise levels, weighed by sqrt(alpha_bar) / (sqrt(alpha_bar) +
    sqrt(1 - alpha_bar)), which falls as errors grow; the least of these sums is returned. An
    object that is missing, or there in another colour or shape, makes it small.
    """
    count, candidates = images.shape[:2]
    asked, image, without = _questions(labels, candidates)
    x_0 = model.standardise(images.flatten(0, 1).to(model.device))
    generators = [torch.Generator().manual_seed(seed + 500_000_000) for seed in seeds]
    errors = torch.zeros(len(asked))
    for share in NOISES:
        t = int(share * scheduler.config.num_train_timesteps)
        epsilon = torch.stack([torch.randn(model.x_shape, generator=g) for g in generators])
        epsilon = epsilon.repeat_interleave(candidates, 0).to(x_0)
        x_t = scheduler.add_noise(x_0, epsilon, torch.full((len(x_0),), t, device=x_0.device))
        root, noise = (float(part) ** 0.5 for part in (alpha_bar(scheduler)[t],
                                                       1 - alpha_bar(scheduler)[t]))
        for part in torch.arange(len(asked)).split(batch_size):
            of = image[part].to(x_0.device)
            with autocast(model.device, mixed_precision):
                output = model(x_t[of], t, asked[part].to(x_0.device),
                               None if places is None else places[of].to(x_0.device)).float()
            away = predicted_x_0(scheduler, output, x_t[of], t) - x_0[of]
            errors[part] += root / (root + noise) * away.square().mean((1, 2, 3)).cpu()
        if bar is not None:
            bar.update()
    gains = errors - errors[~without][image]
    return torch.full((count * candidates,), float("inf")).scatter_reduce(
        0, image[without], gains[without], "amin").view(count, candidates)


def _questions(labels: torch.Tensor,
               candidates: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Labels (M, 24) to ask the network with, of which image, and whether an object is left out.

    Each image is asked about with its whole label, in the order of the images, and without each
    object of it.
    """
    whole = labels.repeat_interleave(candidates, 0)
    image, left_out = torch.nonzero(whole > 0.5, as_tuple=True)
    less = whole[image].scatter(1, left_out[:, None], 0.0)
    asked = torch.cat([whole, less])
    of = torch.cat([torch.arange(len(whole)), image])
    return asked, of, torch.arange(len(asked)) >= len(whole)
