# SPDX-License-Identifier: BSD-3-Clause
"""How latents are sampled: in few deterministic steps (DDIM), from c, noised to a time step.

The paper's variant (sampled_from: noise) starts from the noise alone, z_T at the last time step.
The noise is drawn on the CPU from the seed that the bitstream names. Nothing is drawn afterwards.
No scheduler of diffusers: theirs spread the steps over all time steps, ours start at a given one.
"""

from __future__ import annotations

import torch

# Chosen on the val split: from time step 300 on, pictures lose more than they gain.
DEFAULT_STEPS, DEFAULT_START = 4, 150
LAST = 999  # time step of z_T, which is noise alone
NOISE_STEPS = 25  # from there, as many as the default of weights that sample from noise


def time_steps(start: int, steps: int) -> list[int]:
    """The time steps that the network is asked at, from `start` on, equally far apart.

    >>> time_steps(300, 4)
    [300, 225, 150, 75]
    """
    return [(start * (steps - k) + steps // 2) // steps for k in range(steps)]


def start_noise(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise of an explicit CPU generator."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator)


def sample(denoise, scheduler, c: torch.Tensor | None, noise: torch.Tensor, times: list[int]):
    """c and noise (N, C, h, w) -> latents (N, C, h, w); differentiable.

    c: None starts from the noise alone.
    denoise(z_t, t): the output of the denoising network, as scheduler.config.prediction_type says;
    scheduler: gives the cumulated alphas.
    """
    alphas = [float(scheduler.alphas_cumprod[t]) for t in times] + [1.0]
    z = noise if c is None else alphas[0] ** 0.5 * c + (1.0 - alphas[0]) ** 0.5 * noise
    for t, alpha, following in zip(times, alphas, alphas[1:]):
        found = denoise(z, torch.full((len(z),), t, device=z.device))
        clean, noise = split(found, z, alpha, scheduler.config.prediction_type)
        z = following**0.5 * clean + (1.0 - following) ** 0.5 * noise
    return z


def split(found, z_t, alpha: float, prediction_type: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Output of the denoising network -> (clean latents, noise) that z_t is made of."""
    signal, noise = alpha**0.5, (1.0 - alpha) ** 0.5
    if prediction_type == "v_prediction":
        return signal * z_t - noise * found, noise * z_t + signal * found
    return (z_t - noise * found) / signal, found
