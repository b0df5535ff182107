"""The samplers by name. A new sampler is one more entry of `SAMPLERS`.

The parameters' schema and the report read the entries too, so neither torch nor diffusers is
imported until a sampler is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cddpm_core.config.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from diffusers import DDPMScheduler

__all__ = ["SAMPLERS", "Sampler", "dense_at_high_noise", "make_sampler", "trailing"]


def trailing(T: int, steps: int) -> list[int]:
    """Return ``steps`` evenly spaced timesteps from T - 1 down to about T / steps - 1.

    diffusers' own trailing list has, for some numbers of steps, an entry t = -1 too many.
    """
    return [round(T - i * T / steps) - 1 for i in range(steps)]


def dense_at_high_noise(T: int, steps: int) -> list[int]:
    """Return ``steps`` timesteps with the first and last of `trailing` and gaps that grow.

    What all pixels share, such as the light of a scene, shows through the highest noise. Even gaps
    are too long there, and the images vary less than the training images.
    """
    found, way = [T - 1], T - round(T / steps)
    for i in range(1, steps):
        found.append(min(T - 1 - round(way * (i / (steps - 1))**2), found[-1] - 1))
    return found


@dataclass(frozen=True)
class Sampler:
    """One way to go from noise to an image.

    ``scheduler`` is the name of a class of diffusers, ``options`` its configuration. ``sentence``
    stands in the report. ``fresh_noise`` says whether each step adds noise. ``timesteps`` lists
    them for (T, steps), or is None if the class makes its own list. ``all_steps`` says whether it
    takes every timestep and no other number of steps.
    """

    scheduler: str
    sentence: str
    options: Mapping[str, Any] = field(default_factory=dict)
    fresh_noise: bool = False
    timesteps: Callable[[int, int], list[int]] | None = trailing
    all_steps: bool = False

    def check(self, name: str, num_inference_steps: int, num_train_timesteps: int) -> None:
        """Raise `UserError` if the sampler, ``name``, cannot take so many steps of T timesteps."""
        found, T = num_inference_steps, num_train_timesteps
        if not 1 <= found <= T:
            raise UserError(f"num_inference_steps: expected 1 to num_train_timesteps ({T}), "
                            f"found {found}")
        # diffusers lists timesteps by numpy's arange, which may have an entry too many.
        if self.timesteps is None and math.ceil(T / (T / found)) != found:
            raise UserError(f"num_inference_steps: diffusers' {name} cannot divide {T} timesteps "
                            f"into {found} steps, expected another number")
        if self.all_steps and found != T:
            raise UserError(f"num_inference_steps: {name} takes every timestep, expected {T}, "
                            f"found {found}")


_LAMBDA = (r"h = \log\frac{\sqrt{\bar\alpha_s}\,\sigma_t}{\sqrt{\bar\alpha_t}\,\sigma_s}, \qquad "
           r"\sigma_t = \sqrt{1 - \bar\alpha_t} .$$")

SAMPLERS: dict[str, Sampler] = {
    # Ho et al. 2020, algorithm 2.
    "ddpm": Sampler(
        "DDPMScheduler", fresh_noise=True, all_steps=True,
        sentence="Images are sampled by the ancestral sampler over all {steps} timesteps (DDPM):"
                 "\n\n"
                 r"$$x_{t-1} = \frac{\sqrt{\bar\alpha_{t-1}}\,\beta_t}{1 - \bar\alpha_t}\,\hat x_0 "
                 r"+ \frac{\sqrt{\alpha_t}\,(1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}\,x_t "
                 r"+ \sigma_t z, \qquad \sigma_t^2 = \frac{1 - \bar\alpha_{t-1}}"
                 r"{1 - \bar\alpha_t}\,\beta_t .$$"),
    # Song et al. 2021, eta = 0. It is the first order of DPM-Solver++ (Lu et al. 2022, section 4);
    # diffusers' DDIMScheduler steps off its own list of timesteps unless steps divides T.
    "ddim": Sampler(
        "DPMSolverMultistepScheduler",
        options={"algorithm_type": "dpmsolver++", "solver_order": 1},
        sentence="Images are sampled in {steps} deterministic DDIM steps, from $t$ to an earlier "
                 "$s$:\n\n"
                 r"$$x_s = \sqrt{\bar\alpha_s}\,\hat x_0 + \sqrt{1 - \bar\alpha_s}\,"
                 r"\hat\epsilon .$$"),
    # Lu et al. 2022, second order.
    "dpm_solver++": Sampler(
        "DPMSolverMultistepScheduler", options={"algorithm_type": "dpmsolver++"},
        timesteps=dense_at_high_noise,
        sentence="Images are sampled in {steps} steps of the second-order solver DPM-Solver++, "
                 "which follows the same probability flow as DDIM. The steps are shortest at the "
                 "highest noise. The first-order step from $t$ to an earlier $s$ is\n\n"
                 r"$$x_s = \frac{\sigma_s}{\sigma_t}\,x_t - \sqrt{\bar\alpha_s}\,"
                 r"\left(e^{-h} - 1\right) \hat x_0, \qquad " + _LAMBDA),
    "sde_dpm_solver++": Sampler(
        "DPMSolverMultistepScheduler", options={"algorithm_type": "sde-dpmsolver++"},
        fresh_noise=True, timesteps=dense_at_high_noise,
        sentence="Images are sampled in {steps} steps of the second-order solver SDE-DPM-Solver++. "
                 "It adds fresh noise $z$ at each step and so can correct earlier errors. The "
                 "steps are shortest at the highest noise. The first-order step from $t$ to an "
                 "earlier $s$ is\n\n"
                 r"$$x_s = \frac{\sigma_s}{\sigma_t}\,e^{-h}\,x_t + "
                 r"\sqrt{\bar\alpha_s}\,\left(1 - e^{-2h}\right) \hat x_0 + "
                 r"\sigma_s \sqrt{1 - e^{-2h}}\,z, \qquad " + _LAMBDA),
    # Zhao et al. 2023, second order.
    "unipc": Sampler(
        "UniPCMultistepScheduler", options={"timestep_spacing": "trailing"}, timesteps=None,
        sentence="Images are sampled in {steps} steps of the second-order predictor-corrector "
                 "UniPC, which follows the same probability flow as DDIM and corrects each step "
                 "with the network's prediction at its end."),
}


def make_sampler(scheduler: DDPMScheduler, name: str, num_inference_steps: int) -> Any:
    """Return diffusers' scheduler of a sampler, its timesteps set, for a noise schedule.

    Its ``step`` takes the predicted x_0. All start at t = T - 1. Raises `UserError` for an
    unknown name and a number of steps that the sampler cannot do.
    """
    import diffusers

    if name not in SAMPLERS:
        raise UserError(f"sampler: found {name!r}{did_you_mean(name, SAMPLERS)}, expected one of "
                        f"{', '.join(SAMPLERS)}")
    sampler, T = SAMPLERS[name], scheduler.config.num_train_timesteps
    sampler.check(name, num_inference_steps, T)
    # The betas themselves, since diffusers' samplers have other defaults for them.
    made = getattr(diffusers, sampler.scheduler).from_config(
        dict(scheduler.config), trained_betas=scheduler.betas.tolist(),
        prediction_type="sample", **sampler.options)
    if sampler.timesteps is None:
        made.set_timesteps(num_inference_steps)
    else:
        made.set_timesteps(timesteps=sampler.timesteps(T, num_inference_steps))
    return made
