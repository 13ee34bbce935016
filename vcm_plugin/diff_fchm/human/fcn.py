# SPDX-License-Identifier: BSD-3-Clause
"""FCN, fusion control: decoded p2..p5 -> the control features F on the /8 grid of the picture.

    p5 --resample--> e5 ------------------------------> f5
    p4 --resample--> e4 --> refine(f4', e4) + f4' ----> f4     f4' = predict(f5)
    p3 --resample--> e3 --> refine(f3', e3) + f3' ----> f3     f3' = predict(f5, f4)
    p2 --resample--> e2 --> refine(f2', e2) + f2' ----> f2     f2' = predict(f5, f4, f3), F = f2

Coarse to fine, each scale is predicted from all coarser ones and refined by its own features. F is
float: it feeds the synthesis and the control, nothing that selects an entropy table.
"""

from __future__ import annotations

import torch
from torch import nn

from vcm_plugin.diff_fchm.human.config import HvcnConfig, MachineFit
from vcm_plugin.diff_fchm.human.geometry import Geometry, resample
from vcm_plugin.diff_fchm.machine import ivn
from vcm_plugin.diff_fchm.machine.config import LEVELS
from vcm_plugin.diff_fchm.machine.vfcn import ResidualBlock
from vcm_plugin.split_points import SPLIT_POINTS

STRIDES = SPLIT_POINTS["fpn"]
COARSE_TO_FINE = tuple(reversed(LEVELS))


class FusionControl(nn.Module):
    """Features (N, C, h, w) of each layer -> F (N, width, h8, w8)."""

    def __init__(self, config: HvcnConfig, machine: MachineFit):
        super().__init__()
        width = config.width
        self.heads = nn.ModuleDict(
            {name: nn.Conv2d(machine.channels + 1, width, 1) for name in LEVELS}
        )
        self.norms = nn.ModuleDict({name: nn.GroupNorm(4, width) for name in LEVELS})
        self.predict, self.refine = nn.ModuleDict(), nn.ModuleDict()
        for coarser, name in enumerate(COARSE_TO_FINE[1:], start=1):
            self.predict[name] = nn.Sequential(
                nn.Conv2d(coarser * width, width, 1), ResidualBlock(width)
            )
            self.refine[name] = nn.Sequential(
                nn.Conv2d(2 * width, width, 3, padding=1), ResidualBlock(width)
            )

    def forward(
        self, layers: dict[str, torch.Tensor], ranges: torch.Tensor, s: torch.Tensor, geometry
    ) -> torch.Tensor:
        """layers: decoded features; ranges: (N, 2) of (m', M'), scaled by s (N,).

        The features are normalised with (m, M) = (m', M') / s.
        """
        known: list[torch.Tensor] = []
        for name in COARSE_TO_FINE:
            own = self._own(name, layers[name], ranges, s, geometry)
            if known:
                predicted = self.predict[name](torch.cat(known, dim=1))
                own = predicted + self.refine[name](torch.cat((predicted, own), dim=1))
            known.append(own)
        return known[-1]

    def _own(self, name: str, layer, ranges, s, geometry: Geometry) -> torch.Tensor:
        """e of one scale: standardised, with log2 s as one more channel, on the /8 grid."""
        low, high = (ranges / s[:, None]).T.view(2, -1, 1, 1, 1)
        layer = ivn.normalise({name: layer}, (low, high))[name]
        octaves = torch.log2(s).view(-1, 1, 1, 1).expand(-1, 1, *layer.shape[-2:])
        heads = self.heads[name](torch.cat((layer, octaves), dim=1))
        return self.norms[name](resample(heads, *geometry.taps(STRIDES[name], geometry.grid8)))
