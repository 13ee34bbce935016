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

from vcm_plugin.entropy.contexts import EXACT, STEP, float32_is_kept
from vcm_plugin.entropy.integer import ACTIVATION_LIMIT, LATENT_STEPS, WEIGHT_BITS
from vcm_plugin.entropy.rans import SYMBOL_LIMIT
from vcm_plugin.entropy.temporal import TemporalNetworks

LIMIT = SYMBOL_LIMIT * LATENT_STEPS  # of a mean, in 1/16
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
        fixed = 2.0**-WEIGHT_BITS
        self.register_buffer("extrapolation", last.weight * fixed / STEP)
        self.register_buffer("added", (last.bias[:, None] * fixed + 0.5 + STEP // 2) / STEP)
        self.hidden, self.features = networks.temporal[1:], networks.features

    def forward(
        self, last: np.ndarray, before: np.ndarray, octaves: torch.Tensor
    ) -> tuple[torch.Tensor, np.ndarray]:
        """y_hat of the last frame and of the one before, int64 (C, h, w) in 1/16; octaves
        (1, 1, 1, 1) in 1/256 -> T (1, F, h, w) in 1/256, and P int32 (C, h, w) in 1/16."""
        sums = self._sums(last.reshape(len(last), -1), before.reshape(len(last), -1))
        constant = torch.addmm(self.bias, self.octaves, octaves.view(1, 1))
        fixed = 2.0**-WEIGHT_BITS
        first = sums.mul_(STEP).add_(constant).mul_(fixed).add_(0.5).floor_()
        first = first.clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)
        hidden = self.hidden(first.view(1, -1, *last.shape[1:]))
        added = torch.addmm(self.added, self.extrapolation, hidden[0].flatten(1))
        added = added.floor_().clamp_(-FURTHEST, FURTHEST).to(torch.int32).cpu().numpy()
        return self.features(hidden), bounded(last + added.reshape(last.shape))

    def _sums(self, last: np.ndarray, before: np.ndarray) -> torch.Tensor:
        """The products of the first convolution with the latents, float64 (width, cells)."""
        inputs = np.concatenate((last, last - before)).clip(-FURTHEST, FURTHEST)
        alive = np.flatnonzero(inputs.any(axis=1))
        inputs, alive = (torch.from_numpy(x).to(self.bias.device) for x in (inputs[alive], alive))
        weight = self.first.index_select(0, alive)
        narrow = weight.dtype == torch.float32 and inputs.device.type == "cpu" and float32_is_kept()
        if narrow:
            largest = inputs.abs().amax(1).double()
            reach = largest @ self.reach.index_select(0, alive)
            narrow = reach.max().item() <= EXACT
        dtype = torch.float32 if narrow else torch.float64
        return torch.mm(weight.to(dtype).T, inputs.to(dtype)).double()


def bounded(latents: np.ndarray) -> np.ndarray:
    """Latents as predictions: in the range of means, int32."""
    return latents.clip(-LIMIT, LIMIT).astype(np.int32)
