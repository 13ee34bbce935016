# SPDX-License-Identifier: BSD-3-Clause
"""What do the two frames before say of the latents of a frame? In integers, without idle products.

It is TemporalNetworks.of_earlier, and P rounded. A channel of latents that is zero in the whole
frame is not multiplied, and there are many: so is most of what did not move. Latents are small, so
the first convolution is exact in float32 (half as much work), which is asked each time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from vcm_plugin.entropy.contexts import STEP
from vcm_plugin.entropy.exact import EXACT, float32_is_kept
from vcm_plugin.entropy.integer import ACTIVATION_LIMIT, LATENT_STEPS, WEIGHT_BITS
from vcm_plugin.entropy.rans import SYMBOL_LIMIT
from vcm_plugin.entropy.temporal import TemporalNetworks

LIMIT = SYMBOL_LIMIT * LATENT_STEPS  # of a mean, in 1/16
FIXED = 2.0**-WEIGHT_BITS
FURTHEST = ACTIVATION_LIMIT // STEP  # of an input of the networks, in 1/16


class EarlierFrames(nn.Module):
    """The temporal network of integer TemporalNetworks."""

    def __init__(self, networks: TemporalNetworks):
        super().__init__()
        first, last = networks.temporal[0], networks.extrapolation
        weight = first.weight.T.contiguous()  # (channels of two frames, then the octaves; width)
        self.register_buffer("octaves", weight[-1:].T)
        self.register_buffer("bias", first.bias[:, None])
        self.register_buffer("reach", weight[:-1].abs())
        narrow = weight.abs().max() <= EXACT
        self.register_buffer("first", weight[:-1].float() if narrow else weight[:-1].clone())
        # floor((floor(x) + a) / n) is floor((x + a) / n): P is rounded to 1/16 with its sums
        self.register_buffer("extrapolation", last.weight * FIXED / STEP)
        self.register_buffer("added", (last.bias[:, None] * FIXED + 0.5 + STEP // 2) / STEP)
        self.hidden, self.features = networks.temporal[1:], networks.features

    def forward(
        self, last: np.ndarray, before: np.ndarray, octaves: torch.Tensor
    ) -> tuple[torch.Tensor, np.ndarray]:
        """y_hat of the last frame and of the one before, int64 (C, h, w) in 1/16; octaves
        (1, 1, 1, 1) in 1/256 -> T (1, F, h, w) in 1/256, and P int32 (C, h * w) in 1/16."""
        latents, earlier = (
            torch.from_numpy(x).flatten(1).to(self.bias.device, torch.float32)
            for x in (last, before)
        )
        sums = self._sums(torch.cat((latents, latents - earlier)).clamp_(-FURTHEST, FURTHEST))
        constant = torch.addmm(self.bias, self.octaves, octaves.view(1, 1))
        first = sums.mul_(STEP).add_(constant).mul_(FIXED).add_(0.5).floor_()
        first = first.clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)
        hidden = self.hidden(first.view(1, -1, *last.shape[1:]))
        added = torch.addmm(self.added, self.extrapolation, hidden[0].flatten(1))
        predicted = added.floor_().clamp_(-FURTHEST, FURTHEST).add_(latents).clamp_(-LIMIT, LIMIT)
        return self.features(hidden), predicted.to(torch.int32).cpu().numpy()

    def _sums(self, inputs: torch.Tensor) -> torch.Tensor:
        """The products of the first convolution with latents and their changes, float32
        (2 C, cells) in 1/16: float64 (width, cells)."""
        largest = inputs.abs().amax(1)
        alive = largest.nonzero()[:, 0]
        inputs, weight = inputs.index_select(0, alive), self.first.index_select(0, alive)
        narrow = weight.dtype == torch.float32 and inputs.device.type == "cpu" and float32_is_kept()
        if narrow and len(alive):
            reach = largest[alive].double() @ self.reach.index_select(0, alive)
            narrow = reach.max().item() <= EXACT
        dtype = torch.float32 if narrow else torch.float64
        return torch.mm(weight.to(dtype).T, inputs.to(dtype)).double()


def bounded(latents: np.ndarray) -> np.ndarray:
    """Latents as predictions: in the range of means, int32."""
    return latents.clip(-LIMIT, LIMIT).astype(np.int32)
