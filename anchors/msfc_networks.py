# SPDX-License-Identifier: BSD-3-Clause
"""The networks of msfc: p2..p5 -> one small layer on the grid of p5 -> p2..p5."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from anchors import reduction
from anchors.msfc_config import MsfcConfig
from anchors.reduction import relative_step, standardised, unstandardised
from vcm_plugin.split_points import SPLIT_POINTS

LAYERS = tuple(SPLIT_POINTS["fpn"])
# Layer -> how many of its cells lie side by side in one cell of p5.
CELLS = {name: SPLIT_POINTS["fpn"]["p5"] // stride for name, stride in SPLIT_POINTS["fpn"].items()}


class Msfc(nn.Module):
    """Reduction and restoration; tensors are batches (N, C, h, w) of unnormalised features.

    Buffers mean and std (4, C): statistics of each channel of p2..p5.
    """

    def __init__(self, config: MsfcConfig):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(4, config.channels))
        self.register_buffer("std", torch.ones(4, config.channels))
        self.fuse = Fusion(config)
        self.restore = Restoration(config)

    def reduction(self, layers: dict[str, torch.Tensor]) -> torch.Tensor:
        """p2..p5 -> b, on the grid of p5."""
        return self.fuse(self._standard(layers))

    def restoration(
        self, b_hat: torch.Tensor, grids: dict[str, tuple[int, int]]
    ) -> dict[str, torch.Tensor]:
        """b_hat -> p2..p5 of given (height, width)."""
        return self._features(self.restore(b_hat, grids))

    def forward(self, layers: dict[str, torch.Tensor], qps: torch.Tensor):
        """p2..p5 and a QP for each picture -> what a training needs.

        Returns p2..p5 as decoded, their standardised errors, and estimated bits per sample (N,).
        """
        standard = self._standard(layers)
        b = self.fuse(standard).float()
        span = b.amax(dim=(1, 2, 3)) - b.amin(dim=(1, 2, 3))
        step = (span.clamp(min=1e-6) * relative_step(qps)).view(-1, 1, 1, 1)
        b_hat = b + step * (torch.rand_like(b) - 0.5)
        detail = b - b.mean(dim=(2, 3), keepdim=True)
        bits = torch.log2(1.0 + detail.abs() / step).mean(dim=(1, 2, 3))
        decoded = self.restore(b_hat, {n: x.shape[-2:] for n, x in layers.items()})
        decoded = {name: x.float() for name, x in decoded.items()}
        errors = {name: decoded[name] - standard[name] for name in LAYERS}
        return self._features(decoded), errors, bits

    def _standard(self, layers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return standardised(layers, self.mean, self.std)

    def _features(self, standard: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return unstandardised(standard, self.mean, self.std)


class Fusion(nn.Module):
    """Standardised p2..p5 -> b; linear but for squeeze-excite, which soon trains."""

    def __init__(self, config: MsfcConfig):
        super().__init__()
        whole = len(LAYERS) * config.channels
        self.pools = nn.ModuleList(
            nn.Conv2d(config.channels, config.channels, n, n, bias=False) for n in CELLS.values()
        )
        self.squeeze = nn.Conv2d(whole, config.squeezed, 1)
        self.excite = nn.Conv2d(config.squeezed, whole, 1)
        self.wide = _conv(whole, config.fused_width)
        self.narrow = nn.Conv2d(config.fused_width, config.reduced, 1)

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        rows, columns = x[LAYERS[-1]].shape[-2:]
        pooled = []
        for pool, (name, n) in zip(self.pools, CELLS.items()):
            height, width = x[name].shape[-2:]
            pooled.append(pool(F.pad(x[name], (0, n * columns - width, 0, n * rows - height))))
        h = torch.cat(pooled, dim=1)
        weights = self.excite(F.relu(self.squeeze(h.mean(dim=(2, 3), keepdim=True))))
        return self.narrow(self.wide(h * torch.sigmoid(weights)))


class Restoration(nn.Module):
    """b_hat -> standardised p2..p5, top down; `details` lead past the narrow fine grids."""

    def __init__(self, config: MsfcConfig):
        super().__init__()
        widths = (config.fused_width, config.width4, config.width3, config.width2)
        self.widen = nn.Sequential(
            nn.Conv2d(config.reduced, widths[0], 1), _conv(widths[0], widths[0])
        )
        self.ups = nn.ModuleList(_conv(a, 4 * b) for a, b in zip(widths, widths[1:]))
        self.blocks = nn.ModuleList(ResidualBlock(width) for width in widths)
        self.heads = nn.ModuleList(_conv(width, config.channels) for width in widths)
        self.details = nn.ModuleList(
            nn.Conv2d(config.reduced, config.channels * n**2, 1) for n in reversed(CELLS.values())
        )

    def forward(self, b_hat: torch.Tensor, grids) -> dict[str, torch.Tensor]:
        h = self.widen(b_hat)
        found = {}
        for level, name in enumerate(reversed(LAYERS)):
            height, width = grids[name]
            if level:
                h = F.pixel_shuffle(self.ups[level - 1](h), 2)[..., :height, :width]
            h = self.blocks[level](h)
            detail = F.pixel_shuffle(self.details[level](b_hat), CELLS[name])
            found[name] = self.heads[level](h) + detail[..., :height, :width]
        return found


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x))))."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.LeakyReLU(0.1), _conv(channels, channels),
            nn.LeakyReLU(0.1), _conv(channels, channels),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def export(model: Msfc, detector_sha256: str, trained: dict, path: Path) -> Path:
    """Write the weights file of a trained model, its kernels as 16-bit floats."""
    return reduction.export("msfc", model, detector_sha256, trained, path, ("mean", "std"))
