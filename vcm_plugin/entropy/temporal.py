# SPDX-License-Identifier: BSD-3-Clause
"""From earlier frames and what is decoded of this one to mean and scale of what comes next.

    y_hat[t-1], y_hat[t-1] - y_hat[t-2] --> temporal --+--> T (shared by all passes)
                                                       +--> P = y_hat[t-1] + extrapolation
    z_hat --> h_s --> psi
    psi, T, y_hat known so far --> contexts --> mean, scale level, gate
    mean of a latent = mean + gate * (P - mean)

Temporal contexts are those of DCVC (Li et al., NeurIPS 2021) in the latent domain: nothing of an
earlier frame reaches the synthesis, so nothing drifts. The gate is clamped to 0..1 and reaches both
ends: at 1 a latent is predicted by the earlier frames alone, at 0 by this frame alone. As in
networks.py, the graph holds only what also runs on integers.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from vcm_plugin.entropy.networks import EntropyNetworks, Sizes


class TemporalSizes(Sizes, Protocol):
    """What the temporal networks must know of a codec's configuration, beside Sizes."""

    temporal_width: int
    temporal_features: int  # channels of T
    prior_width: int


class TemporalNetworks(EntropyNetworks):
    """EntropyNetworks of a frame that follows others; its tensors have the names of theirs.

    Shapes: y_hat (N, C, h, w), z_hat (N, Z, ceil(h / 4), ceil(w / 4)), octaves (N, 1, 1, 1).
    """

    def __init__(self, sizes: TemporalSizes):
        super().__init__(sizes)
        channels, n_z = self.slices[-1].stop, sizes.hyper_latents
        width, features = sizes.temporal_width, sizes.temporal_features
        self.prior = nn.Sequential(
            nn.Conv2d(n_z + 1, sizes.prior_width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(sizes.prior_width, 3 * n_z, 1),
        )
        self.temporal = nn.Sequential(
            nn.Conv2d(2 * channels + 1, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.features = nn.Sequential(nn.Conv2d(width, features, 3, padding=1), nn.ReLU())
        self.extrapolation = nn.Conv2d(width, channels, 1)
        self.gates = nn.ModuleList()
        for context in self.contexts:
            first, last = context[0], context[2]
            wide = first.in_channels + features
            context[0] = nn.Conv2d(wide, first.out_channels, 3, padding=1)
            self.gates.append(nn.Conv2d(last.in_channels, last.out_channels // 2, 1))

    def of_earlier(
        self, last: torch.Tensor, change: torch.Tensor, octaves: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """y_hat of the last frame and its change to that -> T, and what P adds to the last."""
        planes = octaves.expand(-1, -1, *last.shape[-2:])
        hidden = self.temporal(torch.cat((last, change, planes), dim=1))
        return self.features(hidden), self.extrapolation(hidden)

    def of_z_after(
        self, z_last: torch.Tensor, octaves: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean, raw level and raw gate of z, given that of the last frame."""
        planes = octaves.expand(-1, -1, *z_last.shape[-2:])
        return self.prior(torch.cat((z_last, planes), dim=1)).chunk(3, dim=1)

    def start_from(self, intra: EntropyNetworks) -> None:
        """Take over the weights of trained networks of single frames; what is new adds nothing."""
        self.h_s.load_state_dict(intra.h_s.state_dict())
        shared = self.h_s[-2].out_channels
        with torch.no_grad():
            for own, given in zip(self.contexts, intra.contexts, strict=True):
                weight, source = own[0].weight, given[0].weight
                added = weight.shape[1] - source.shape[1]
                weight[:, :shared] = source[:, :shared]
                weight[:, shared : shared + added] = 0.0
                weight[:, shared + added :] = source[:, shared:]
                own[0].bias.copy_(given[0].bias)
                own[2].load_state_dict(given[2].state_dict())
            for conv in (self.extrapolation, self.prior[-1], *self.gates):
                conv.weight.zero_()
                conv.bias.zero_()
            for gate in self.gates:
                gate.bias.fill_(0.5)
            third = self.prior[-1].out_channels // 3
            self.prior[-1].bias[2 * third :] = 0.5
