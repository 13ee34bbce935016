# SPDX-License-Identifier: BSD-3-Clause
"""How latents without a hyperprior become bytes: a mean and a table for each channel, no contexts.

The tables are those of latent_coder.py; a channel takes the same one at all positions, chosen by
integer networks from what the decoder knows beforehand.
"""

from __future__ import annotations

import numpy as np
import torch

from vcm_plugin.entropy.integer import ACTIVATIONS, LATENT_STEPS
from vcm_plugin.entropy.latent_coder import Latents, rounded_outputs
from vcm_plugin.entropy.networks import FactorisedNetworks
from vcm_plugin.entropy.rans import SYMBOL_LIMIT, Decoder, Encoder, Tables


class FactorisedCoder:
    """Latents <-> bytes; conditioning: integers in 1/256 (1, conditioning, 1, 1)."""

    def __init__(self, networks: FactorisedNetworks, tables: Tables):
        self.networks, self.tables = networks, tables

    def encode(self, y: torch.Tensor, conditioning: torch.Tensor) -> tuple[bytes, Latents]:
        """y (C, h, w), floats -> bytes, and the latents that they decode to."""
        mean, level = self._of(conditioning, tuple(y.shape[-2:]))
        residual = y.double().cpu().numpy() - mean / LATENT_STEPS
        q = np.where(level > 0, np.rint(residual), 0)
        q = q.clip(-SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int32)
        encoder = Encoder(self.tables)
        encoder.add(q, level)
        return encoder.finish(), _latents(q, mean)

    def decode(self, data: bytes, grid: tuple[int, int], conditioning: torch.Tensor) -> Latents:
        """Bytes -> latents; grid: (height, width) of y. Raises BitstreamError."""
        mean, level = self._of(conditioning, grid)
        decoder = Decoder(self.tables, data)
        q = decoder.take(level)
        decoder.finish()
        return _latents(q, mean)

    @torch.inference_mode()
    def _of(self, conditioning: torch.Tensor, grid) -> tuple[np.ndarray, np.ndarray]:
        """Means in 1/16 and levels, int32 (C, h, w)."""
        mean, level = self.networks.of_y(conditioning.double().clamp(*ACTIVATIONS))
        return rounded_outputs(*(x[0].expand(-1, *grid) for x in (mean, level)))


def _latents(q: np.ndarray, mean: np.ndarray) -> Latents:
    """Symbols and means -> latents, whose z has no channels."""
    y = (LATENT_STEPS * q + mean).astype(np.int64)
    return Latents(y[:0], y)
