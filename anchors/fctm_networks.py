# SPDX-License-Identifier: BSD-3-Clause
"""The networks of fctm_like: p2..p5 -> channels on the grid of p4, by importance -> p2..p5.

    x_l = (p_l - mean) / std, a mean and a spread for every channel of every layer   (Z-score)
    b   = A [x_2 / 4, x_3 / 2, x_4, x_5] of each cell of p4, times a gate, plus a small network
    x_l = A^T b + a small network on each grid

A cell of p4 holds 4 x 4 cells of p2, 2 x 2 of p3, and lies in one of p5: the factors make an error
weigh alike in each layer. Training begins where A is the Karhunen-Loeve transform of such cells and
all else does nothing (training/fctm_like.py): no linear code of so many channels does better.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from anchors import reduction
from anchors.fctm_config import FctmConfig
from anchors.reduction import relative_step, standardised, unstandardised
from vcm_plugin.split_points import SPLIT_POINTS

LAYERS = tuple(SPLIT_POINTS["fpn"])
GRID = "p4"  # of b
# Layer -> how many of its cells lie side by side in one cell of p4; of p5 each is there four times.
CELLS = {"p2": 4, "p3": 2, "p4": 1, "p5": 1}
# Share of a step from which on an encoder keeps a coefficient: VVC's quantiser rounds below half.
DEAD_ZONE = 0.6
# Of the linear code's weights: its rows have length 1 over thousands of features, and one learning
# rate is to suit these weights and those of the other layers.
UNIT = 1 / 32
BUFFERS = ("mean", "std", "order", "value_range")


class Fctm(nn.Module):
    """Reduction and restoration; tensors are batches (N, C, h, w) of unnormalised features.

    Buffers: mean, std (4, C) of each channel of p2..p5; order (R,), the channels of b by falling
    importance; value_range (2,), the values of b that the samples 0 and 1023 stand for.
    """

    def __init__(self, config: FctmConfig):
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(len(LAYERS), config.channels))
        self.register_buffer("std", torch.ones(len(LAYERS), config.channels))
        self.register_buffer("order", torch.arange(config.reduced))
        self.register_buffer("value_range", torch.tensor([-1.0, 1.0]))
        self.reduce = Reduction(config)
        self.restore = Restoration(config)

    def standard(self, layers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """p2..p5 -> their Z-scores."""
        return standardised(layers, self.mean, self.std)

    def features(self, standard: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Z-scores -> p2..p5."""
        return unstandardised(standard, self.mean, self.std)

    def forward(self, layers: dict[str, torch.Tensor], qps: torch.Tensor):
        """p2..p5 and a QP for each picture -> what a training needs.

        Returns p2..p5 as decoded, their standardised errors, estimated bits per sample of b (N,)
        and the step of the quantiser in units of b (N,).
        """
        standard = self.standard(layers)
        low, high = self.value_range
        b = self.reduce(standard).float().clamp(low, high)
        steps = (high - low) * relative_step(qps)
        found = transform(b)
        level = found.abs() / steps.view(-1, 1, 1, 1)
        kept = found.sign() * torch.floor(level + (1.0 - DEAD_ZONE)) * steps.view(-1, 1, 1, 1)
        b_hat = inverse_transform(found + (kept - found).detach())
        bits = torch.log2(1.0 + level).mean(dim=(1, 2, 3))
        decoded = self.restore(b_hat, {n: x.shape[-2:] for n, x in layers.items()})
        decoded = {name: x.float() for name, x in decoded.items()}
        errors = {name: decoded[name] - standard[name] for name in LAYERS}
        return self.features(decoded), errors, bits, steps


class Reduction(nn.Module):
    """Z-scores of p2..p5 -> b: a linear code of each cell of p4, gated and corrected."""

    def __init__(self, config: FctmConfig):
        super().__init__()
        self.pools = nn.ModuleList(
            nn.Conv2d(config.channels, config.reduced, n, n, bias=False) for n in CELLS.values()
        )
        self.look = _conv(config.reduced, config.hidden)
        self.gate = _zero(nn.Conv2d(config.hidden, config.reduced, 1))
        self.correct = _zero(nn.Conv2d(config.hidden, config.reduced, 1))

    def linear(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        """The linear code alone, (N, R, h, w) on the grid of p4."""
        parts = zip(self.pools, in_cells(x).values(), CELLS.values())
        return sum(pool(layer) * (UNIT / n) for pool, layer, n in parts)

    def seen(self, b: torch.Tensor) -> torch.Tensor:
        """What gate and correction look at."""
        return F.leaky_relu(self.look(b), 0.1)

    def gates(self, seen: torch.Tensor) -> torch.Tensor:
        """0 .. 2, for every sample of b."""
        return 2.0 * torch.sigmoid(self.gate(seen))

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        b = self.linear(x)
        seen = self.seen(b)
        return self.gates(seen) * b + self.correct(seen)


class Restoration(nn.Module):
    """b_hat -> Z-scores of p2..p5: the linear code back, corrected on every grid."""

    def __init__(self, config: FctmConfig):
        super().__init__()
        self.correct = _Block(config.reduced, config.hidden)
        self.spread = nn.ModuleList(
            nn.Conv2d(config.reduced, config.channels * n**2, 1, bias=False) for n in CELLS.values()
        )
        self.refine = nn.ModuleList(_Block(config.channels, config.refined) for _ in CELLS)

    def forward(self, b_hat: torch.Tensor, grids) -> dict[str, torch.Tensor]:
        b_hat = self.correct(b_hat)
        found = {}
        for spread, refine, (name, n) in zip(self.spread, self.refine, CELLS.items()):
            height, width = grids[name]
            x = F.pixel_shuffle(spread(b_hat) * (n * UNIT), n)
            if name == "p5":
                x = F.avg_pool2d(x, 2, ceil_mode=True)
            found[name] = refine(x[..., :height, :width])
        return found


def in_cells(x: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """p2..p5, padded with zeros and p5 repeated, so that they have CELLS cells in each of p4."""
    rows, columns = x[GRID].shape[-2:]
    found = {}
    for name, n in CELLS.items():
        layer = x[name] if name != "p5" else F.interpolate(x[name], scale_factor=2.0)
        layer = layer[..., : n * rows, : n * columns]
        height, width = layer.shape[-2:]
        found[name] = F.pad(layer, (0, n * columns - width, 0, n * rows - height))
    return found


class _Block(nn.Module):
    """x + conv(act(conv(x))), which begins as x."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, hidden), nn.LeakyReLU(0.1), _zero(_conv(hidden, channels))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def transform(b: torch.Tensor) -> torch.Tensor:
    """The orthonormal cosine transform of every channel of b (..., h, w), as a whole.

    >>> x = torch.arange(12.0).view(1, 3, 4)
    >>> torch.allclose(inverse_transform(transform(x)), x, atol=1e-5)
    True
    """
    rows, columns = (_cosines(n).to(b) for n in b.shape[-2:])
    return rows @ b @ columns.T


def inverse_transform(coefficients: torch.Tensor) -> torch.Tensor:
    """b of the coefficients that `transform` makes."""
    rows, columns = (_cosines(n).to(coefficients) for n in coefficients.shape[-2:])
    return rows.T @ coefficients @ columns


@lru_cache
def _cosines(n: int) -> torch.Tensor:
    """The matrix (n, n) of the orthonormal DCT-II."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / n * (k[None] + 0.5) * k[:, None]) * math.sqrt(2.0 / n)
    matrix[0] = math.sqrt(1.0 / n)
    return matrix.float()


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _zero(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def export(model: Fctm, detector_sha256: str, trained: dict, path: Path) -> Path:
    """Write the weights file of a trained model, its kernels as 16-bit floats."""
    return reduction.export("fctm_like", model, detector_sha256, trained, path, BUFFERS)
