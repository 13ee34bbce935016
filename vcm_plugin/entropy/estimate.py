# SPDX-License-Identifier: BSD-3-Clause
"""How many bits will latents take? Differentiable, for trainings; compressai's Gaussian model.

Apart from the networks, since compressai takes longer to import than a picture takes to code.
"""

from __future__ import annotations

import warnings

import torch

with warnings.catch_warnings():  # torch's, to a package that compressai imports
    warnings.simplefilter("ignore", FutureWarning)
    from compressai.entropy_models import GaussianConditional
    from compressai.ops import LowerBound

from vcm_plugin.entropy.networks import (
    LEVEL_GAIN,
    LEVEL_START,
    SCALE_LEVELS,
    SCALE_MIN,
    SCALE_STEP,
    EntropyNetworks,
    FactorisedNetworks,
)


def estimate(
    networks: EntropyNetworks,
    noisy: bool,
    z: torch.Tensor,
    y: torch.Tensor,
    conditioning: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """z and y (N, C, h, w) -> (y_hat, bits (N,)) of coding both, differentiable.

    It is what LatentCoder does. noisy: bits of latents with uniform noise in place of rounding, as
    trainings want them (Balle et al., ICLR 2017), else of rounded ones.
    """
    gaussian = _gaussian(noisy, y)
    mean, level = networks.of_z(conditioning)
    bits = _bits_of(gaussian, z, mean, level)
    z_hat = _round(z - mean) + mean
    psi = networks.psi(z_hat, conditioning, y.shape[-2:])
    y_hat = torch.zeros_like(y)
    for own, colour, mask in networks.passes(y.shape[-2:], y.device):
        mean, level = networks.of_y(psi, y_hat, own, colour)
        y_own = y[:, own]
        bits = bits + _bits_of(gaussian, y_own, mean, level, mask)
        y_hat = y_hat.clone()
        y_hat[:, own] += mask * (_round(y_own - mean) + mean)
    return y_hat, bits


def estimate_factorised(
    networks: FactorisedNetworks, noisy: bool, y: torch.Tensor, conditioning: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `estimate`, of what FactorisedCoder does."""
    mean, level = networks.of_y(conditioning)
    bits = _bits_of(_gaussian(noisy, y), y, mean, level)
    return _round(y - mean) + mean, bits


def scale_of(raw_level: torch.Tensor) -> torch.Tensor:
    """Standard deviation of an output of the entropy networks; differentiable."""
    level = _at_least_zero(LEVEL_START + LEVEL_GAIN * raw_level).clamp(max=SCALE_LEVELS - 1)
    return SCALE_MIN * torch.exp(SCALE_STEP * level)


def _gaussian(noisy: bool, y: torch.Tensor) -> GaussianConditional:
    return GaussianConditional(None, scale_bound=SCALE_MIN).to(y.device).train(noisy)


def _bits_of(gaussian: GaussianConditional, x, mean, level, mask=1.0) -> torch.Tensor:
    _, likelihood = gaussian(x, scale_of(level).expand_as(x), mean.expand_as(x))
    return (-torch.log2(likelihood) * mask).sum(dim=(1, 2, 3))


def _at_least_zero(x: torch.Tensor) -> torch.Tensor:
    return LowerBound(0.0).to(x.device)(x)


def _round(x: torch.Tensor) -> torch.Tensor:
    """Rounding whose gradient is that of the identity."""
    return x + (torch.round(x) - x).detach()
