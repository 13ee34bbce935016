# SPDX-License-Identifier: BSD-3-Clause
"""How auxiliary latents become bytes that every machine decodes alike: the integer side of ACN.

The integer networks are derived from the stored 32-bit weights by scaling with powers of two and
rounding, which is the same everywhere; the tables are stored.
"""

from __future__ import annotations

import torch

from vcm_plugin.diff_fchm.human.acn import scaled_back
from vcm_plugin.diff_fchm.human.geometry import Geometry
from vcm_plugin.diff_fchm.human.hvcn import Hvcn
from vcm_plugin.diff_fchm.machine import ivn
from vcm_plugin.entropy.factorised import FactorisedCoder
from vcm_plugin.entropy.integer import (
    ACTIVATION_STEPS,
    ACTIVATIONS,
    integer_networks,
    integer_weights,
)
from vcm_plugin.entropy.latent_coder import LATENT_STEPS, LatentCoder, Latents
from vcm_plugin.entropy.rans import Tables


class IntegerCoder:
    """Auxiliary latents <-> bytes, given the integer latents of the machine layer.

    Raises InputError for weights whose integer sums would not be exact.
    """

    def __init__(self, hvcn: Hvcn, device: torch.device):
        acn = hvcn.acn
        self.device, self.conditioned = device, acn.conditioned
        self.condition = integer_networks(acn.condition, integer_weights(acn.condition)).to(device)
        self.condition.exact = True
        entropy = integer_networks(acn.entropy, integer_weights(acn.entropy)).to(device)
        self.coder = LatentCoder(entropy, Tables.from_array(hvcn.tables.cpu().numpy()))

    @torch.no_grad()
    def conditioning(
        self, machine: Latents, octaves: int, q: float, geometry: Geometry
    ) -> torch.Tensor:
        """What selects the tables: F_int and q, integers in 1/256 (1, n + 1, h16, w16).

        octaves: of the machine layer's range, in 1/256; q: step of the quantiser.
        """
        y = torch.from_numpy(machine.y * (ACTIVATION_STEPS // LATENT_STEPS))[None]
        conditioning = torch.full(
            (1, 1, 1, 1), float(octaves), dtype=torch.float64, device=self.device
        )
        y = scaled_back(y.to(self.device, torch.float64), conditioning / ACTIVATION_STEPS)
        y = torch.floor(y + 0.5).clamp(*ACTIVATIONS)
        f_int = self.condition(y, conditioning.clamp(*ACTIVATIONS), geometry)
        if not self.conditioned:
            f_int = torch.zeros_like(f_int)
        return torch.cat((f_int, torch.full_like(f_int[:, :1], float(_octaves(q)))), dim=1)

    def encode(self, z, y, conditioning: torch.Tensor) -> tuple[bytes, Latents]:
        """z and y (C, h, w), floats in steps of q -> bytes, and the latents they decode to."""
        return self.coder.encode(z, y, conditioning)

    def decode(self, data: bytes, geometry: Geometry, conditioning: torch.Tensor) -> Latents:
        """Bytes -> latents. Raises BitstreamError."""
        return self.coder.decode(data, geometry.grid16, conditioning)


class UnconditionalIntegerCoder:
    """IntegerCoder of latents that are coded alone (acn.UnconditionalCoder): the machine layer says
    nothing of them, and there is no z."""

    def __init__(self, hvcn: Hvcn, device: torch.device):
        self.device = device
        entropy = hvcn.acn.entropy
        entropy = integer_networks(entropy, integer_weights(entropy)).to(device)
        self.coder = FactorisedCoder(entropy, Tables.from_array(hvcn.tables.cpu().numpy()))

    def conditioning(
        self, machine: Latents, octaves: int, q: float, geometry: Geometry
    ) -> torch.Tensor:
        """What selects the tables: q, an integer in 1/256 (1, 1, 1, 1)."""
        octaves_of_q = float(_octaves(q))
        return torch.full((1, 1, 1, 1), octaves_of_q, dtype=torch.float64, device=self.device)

    def encode(self, z, y, conditioning: torch.Tensor) -> tuple[bytes, Latents]:
        """y (C, h, w), floats in steps of q -> bytes, and the latents they decode to."""
        return self.coder.encode(y, conditioning)

    def decode(self, data: bytes, geometry: Geometry, conditioning: torch.Tensor) -> Latents:
        """Bytes -> latents. Raises BitstreamError."""
        return self.coder.decode(data, geometry.grid16, conditioning)


def integer_coder(hvcn: Hvcn, device: torch.device) -> IntegerCoder | UnconditionalIntegerCoder:
    """The coder of these networks' auxiliary latents."""
    if hvcn.sizes.published("auxiliary"):
        return UnconditionalIntegerCoder(hvcn, device)
    return IntegerCoder(hvcn, device)


def _octaves(q: float) -> int:
    """log2 q in 1/256."""
    return ivn.log2_code((0.0, q)) - ivn.log2_code((0.0, 1.0))
