# SPDX-License-Identifier: BSD-3-Clause
"""FCN, fusion control: decoded p2..p5 -> the control features F on the /8 grid of the picture.

Ours, coarse to fine: each scale is predicted from all coarser ones and refined by its own features.

    p5 --resample--> e5 ------------------------------> f5
    p4 --resample--> e4 --> refine(f4', e4) + f4' ----> f4     f4' = predict(f5)
    p3 --resample--> e3 --> refine(f3', e3) + f3' ----> f3     f3' = predict(f5, f4)
    p2 --resample--> e2 --> refine(f2', e2) + f2' ----> f2     f2' = predict(f5, f4, f3), F = f2

The paper's, fine to coarse, from p2 and p3 alone; what ACN decoded, c, joins it last.

    p2 --> first --> + --> second --resample--> F --> + --> third --> what the control sees
                     ^                                ^
                     p3                               c

F is float: it feeds the synthesis and the control, nothing that selects an entropy table.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from vcm_plugin.diff_fchm.human.config import HvcnConfig, MachineFit, PriorFit
from vcm_plugin.diff_fchm.human.geometry import Geometry, resample
from vcm_plugin.diff_fchm.machine import ivn
from vcm_plugin.diff_fchm.machine.config import LEVELS
from vcm_plugin.diff_fchm.machine.vfcn import ResidualBlock
from vcm_plugin.split_points import SPLIT_POINTS

STRIDES = SPLIT_POINTS["fpn"]
COARSE_TO_FINE = tuple(reversed(LEVELS))
WINDOW, HEADS = 8, 4  # of the attention: cells a side, heads


class FusionControl(nn.Module):
    """Features (N, C, h, w) of each layer -> F (N, width, h8, w8), coarse to fine."""

    def __init__(self, config: HvcnConfig, machine: MachineFit, _: PriorFit):
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

    def join(self, control: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """What the control sees beside z_t and c: F itself."""
        return control

    def _own(self, name: str, layer, ranges, s, geometry: Geometry) -> torch.Tensor:
        """e of one scale: standardised, with log2 s as one more channel, on the /8 grid."""
        low, high = (ranges / s[:, None]).T.view(2, -1, 1, 1, 1)
        layer = ivn.normalise({name: layer}, (low, high))[name]
        octaves = torch.log2(s).view(-1, 1, 1, 1).expand(-1, 1, *layer.shape[-2:])
        heads = self.heads[name](torch.cat((layer, octaves), dim=1))
        return self.norms[name](resample(heads, *geometry.taps(STRIDES[name], geometry.grid8)))


class FineToCoarse(nn.Module):
    """p2, then p3, then c, as the paper's figure draws it: raw units, as IVDN leaves them.

    Not drawn, so ours: the widths, windows for the attention, and that a sum has a 1 x 1
    convolution before it, which also covers the reading that parts are concatenated.
    """

    def __init__(self, config: HvcnConfig, machine: MachineFit, prior: PriorFit):
        super().__init__()
        width = config.width
        self.first = nn.Sequential(
            nn.Conv2d(machine.channels, width, 3, stride=2, padding=1),
            ResidualBlock(width),
            ResidualBlock(width),
        )
        self.p3 = nn.Conv2d(machine.channels, width, 1)
        self.second = _attended(width)
        self.c = nn.Conv2d(prior.latent_channels, width, 1)
        self.third = _attended(width)

    def forward(
        self, layers: dict[str, torch.Tensor], ranges: torch.Tensor, s: torch.Tensor, geometry
    ) -> torch.Tensor:
        """layers: decoded features -> F (N, width, h8, w8). ranges, s: not looked at."""
        coarse = self.p3(layers["p3"])
        fine = self.first(layers["p2"])[..., : coarse.shape[-2], : coarse.shape[-1]]
        x = self.second(fine + coarse)
        return resample(x, *geometry.taps(STRIDES["p3"], geometry.grid8))

    def join(self, control: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """F and c (N, L, h8, w8) -> what the control sees beside z_t (N, width, h8, w8)."""
        return self.third(control + self.c(c))


class WindowAttention(nn.Module):
    """x + attention among the cells of each window of WINDOW x WINDOW, so that its cost grows with
    the picture and not with its square."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.GroupNorm(HEADS, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, width, h, w) -> the same."""
        height, width = x.shape[-2:]
        below, right = -height % WINDOW, -width % WINDOW
        qkv = F.pad(self.qkv(self.norm(x)), (0, right, 0, below), mode="replicate")
        n, _, rows, columns = qkv.shape
        qkv = qkv.view(n, 3, HEADS, -1, rows // WINDOW, WINDOW, columns // WINDOW, WINDOW)
        q, k, v = qkv.permute(1, 0, 4, 6, 2, 5, 7, 3).flatten(5, 6).flatten(1, 3)
        found = F.scaled_dot_product_attention(q, k, v)  # (windows, HEADS, cells, channels)
        found = found.reshape(n, rows // WINDOW, columns // WINDOW, HEADS, WINDOW, WINDOW, -1)
        found = found.permute(0, 3, 6, 1, 4, 2, 5).reshape(n, -1, rows, columns)
        return x + self.out(found[..., :height, :width])


def _attended(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1),
        ResidualBlock(width),
        WindowAttention(width),
        nn.Conv2d(width, width, 3, padding=1),
    )
