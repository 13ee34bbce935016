# SPDX-License-Identifier: BSD-3-Clause
"""From what is decoded so far to mean and scale of what comes next: hyperprior and contexts."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn

SCALE_LEVELS = 48
SCALE_MIN, SCALE_MAX = 0.11, 96.0  # of the first and the last level, in steps of the quantiser
SCALE_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_LEVELS - 1)
LEVEL_START, LEVEL_GAIN = 16, 8  # level = LEVEL_START + LEVEL_GAIN * output of a network


class Sizes(Protocol):
    """What the entropy networks must know of a codec's configuration."""

    slices: tuple[int, ...]  # channels of y, in coding order
    hyper_width: int
    hyper_latents: int
    context_width: int


class EntropyNetworks(nn.Module):
    """From what is decoded so far to mean and scale level of what comes next.

    Only convolutions, ReLU, nearest upsampling and concatenation, so that the same graph runs on
    integers once its convolutions are (integer.py). conditioning: channels of what they see beside
    the latents, (N, conditioning, 1 or h, 1 or w) on the grid of z; VFCN gives the octaves.
    """

    def __init__(self, sizes: Sizes, conditioning: int = 1):
        super().__init__()
        n, n_z, context = sizes.hyper_width, sizes.hyper_latents, sizes.context_width
        self.prior = nn.Sequential(
            nn.Conv2d(conditioning, 16, 1), nn.ReLU(), nn.Conv2d(16, 2 * n_z, 1)
        )
        self.h_s = nn.Sequential(
            _conv(n_z + conditioning, n),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            _conv(n, n),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            _conv(n, n),
            nn.ReLU(),
        )
        self.contexts = nn.ModuleList()
        start = 0
        self.slices = []
        for count in sizes.slices:
            for known in (start, start + count):  # channels of y_hat that each colour sees
                first, last = _conv(n + known, context), nn.Conv2d(context, 2 * count, 1)
                self.contexts.append(nn.Sequential(first, nn.ReLU(), last))
            self.slices.append(slice(start, start + count))
            start += count

    def of_z(self, conditioning: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and raw level of z, (N, C, h, w) or (N, C, 1, 1), given the conditioning."""
        return self.prior(conditioning).chunk(2, dim=1)

    def psi(self, z_hat: torch.Tensor, conditioning: torch.Tensor, grid) -> torch.Tensor:
        """z_hat -> the part of the contexts that all of y shares, on the grid of y."""
        planes = conditioning.expand(-1, -1, *z_hat.shape[-2:])
        return self.h_s(torch.cat((z_hat, planes), dim=1))[..., : grid[0], : grid[1]]

    def passes(self, grid, device):
        """(channels, colour, mask (h, w) of the colour) in coding order."""
        rows, columns = (torch.arange(n, device=device) for n in grid)
        odd = (rows[:, None] + columns[None]) % 2
        for own in self.slices:
            yield own, 0, 1 - odd
            yield own, 1, odd

    def of_y(self, psi, y_hat, own: slice, colour: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and raw level of the channels `own` of y, given y_hat as far as it is decoded."""
        known = y_hat[:, : own.stop if colour else own.start]
        network = self.contexts[2 * self.slices.index(own) + colour]
        return network(torch.cat((psi, known), dim=1)).chunk(2, dim=1)


class FactorisedNetworks(nn.Module):
    """Mean and scale level of each channel of y, the same at all positions: no hyperprior.

    conditioning: channels of what they see, (N, conditioning, 1, 1).
    """

    def __init__(self, latents: int, conditioning: int = 1):
        super().__init__()
        self.prior = nn.Sequential(
            nn.Conv2d(conditioning, 16, 1), nn.ReLU(), nn.Conv2d(16, 2 * latents, 1)
        )

    def of_y(self, conditioning: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and raw level of y, (N, C, 1, 1)."""
        return self.prior(conditioning).chunk(2, dim=1)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
