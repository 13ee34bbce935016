# SPDX-License-Identifier: BSD-3-Clause
"""How a decoded VVC picture gets closer to its source by what the machine layer knows of it.

    Y, Cb, Cr of the decoded picture, brought to the size of the source (learned from there on)
      |
    /2: head -> block ----------------------------------- + -> block -> last -> residual of Y'CbCr
                  \\                                      /
    /4:            down -> + ---> block block block -> up
                           |   \\               /
    /8:                    |    down -> block block -> up
                           |
            p2, p3 -> fusion -> zero

One step, convolutions only. `last` and `zero` are zero before training, so a new restorer leaves
the picture as it is, and one with features begins as its twin without (`features=False`). QP, size
in percent and s of the machine layer reach every block through a gain and an offset per channel.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from vcm_plugin.diff_fchm.human.config import RESTORER_MULTIPLE, RestorerConfig
from vcm_plugin.diff_fchm.human.geometry import Geometry, resample

LAYERS = {"p2": 4, "p3": 8}  # with their strides
MULTIPLE = RESTORER_MULTIPLE
MIDDLE = (512.0, 512.0, 512.0)  # of Y', Cb, Cr in 10 bits
UNIT = 128.0  # 10-bit levels for 1.0 inside the network
QP_MIDDLE, QP_UNIT = 36.0, 10.0


class Restorer(nn.Module):
    """Planes, p2 and p3, and what is known of both -> what to add to the planes.

    mean, std (2, channels): of p2 and p3 over the training pictures.
    """

    def __init__(self, config: RestorerConfig):
        super().__init__()
        self.config = config
        w2, w4, w8, told = config.width2, config.width4, config.width8, config.told_width
        self.told = nn.Sequential(nn.Linear(3, told), nn.ReLU(), nn.Linear(told, told), nn.ReLU())
        self.head = nn.Conv2d(6, w2, 3, padding=1)
        self.encode2 = _blocks(config.blocks2, w2, told)
        self.down4 = nn.Conv2d(w2, w4, 2, stride=2)
        self.encode4 = _blocks(1, w4, told)
        self.down8 = nn.Conv2d(w4, w8, 2, stride=2)
        self.middle = _blocks(config.blocks8, w8, told)
        self.up8 = nn.Conv2d(w8, 4 * w4, 1)
        self.decode4 = _blocks(config.blocks4 - 1, w4, told)
        self.up4 = nn.Conv2d(w4, 4 * w2, 1)
        self.decode2 = _blocks(config.blocks2, w2, told)
        self.last = _zeroed(nn.Conv2d(w2, 12, 3, padding=1))
        if config.features:
            self.fusion = Fusion(config)
            self.register_buffer("mean", torch.zeros(len(LAYERS), config.channels))
            self.register_buffer("std", torch.ones(len(LAYERS), config.channels))

    def forward(
        self, planes: torch.Tensor, layers: dict[str, torch.Tensor] | None, known: torch.Tensor
    ) -> torch.Tensor:
        """The residual of Y', Cb, Cr, (N, 3, H, W) in 10-bit levels.

        planes (N, 6, H/2, W/2): as `to_planes` orders them, in 10-bit levels. layers: decoded p2
        (N, C, H/4, W/4) and p3 (N, C, H/8, W/8) on the grids of the picture; not looked at by the
        twin without features. known (N, 3): QP, size in percent, s.
        """
        told = self.told(_standardised(known))
        middle = planes.new_tensor([MIDDLE[0]] * 4 + [*MIDDLE[1:]]).view(1, 6, 1, 1)
        x2 = _through(self.encode2, self.head((planes - middle) / UNIT), told)
        x4 = self.down4(x2)
        if self.config.features:
            x4 = x4 + self.fusion([self._standard(k, layers[name]) for k, name in _numbered()])
        x4 = _through(self.encode4, x4, told)
        x8 = _through(self.middle, self.down8(x4), told)
        x4 = _through(self.decode4, x4 + F.pixel_shuffle(self.up8(x8), 2), told)
        x2 = _through(self.decode2, x2 + F.pixel_shuffle(self.up4(x4), 2), told)
        return UNIT * F.pixel_shuffle(self.last(x2), 2)

    def _standard(self, index: int, layer: torch.Tensor) -> torch.Tensor:
        mean, std = (x[index].view(1, -1, 1, 1) for x in (self.mean, self.std))
        return (layer - mean) / std


class Fusion(nn.Module):
    """Standardised p2, p3 -> what they add at 1/4 of the picture's sides, coarse to fine."""

    def __init__(self, config: RestorerConfig):
        super().__init__()
        width = config.width4
        self.p2 = nn.Conv2d(config.channels, width, 1)
        self.p3 = nn.Conv2d(config.channels, width, 1)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.zero = _zeroed(nn.Conv2d(width, width, 1))

    def forward(self, layers: list[torch.Tensor]) -> torch.Tensor:
        fine, coarse = layers
        predicted = F.interpolate(self.p3(coarse), scale_factor=2.0, mode="nearest")
        fused = F.leaky_relu(self.p2(fine) + predicted, 0.1)
        return self.zero(F.leaky_relu(self.mix(fused), 0.1))


class ToldBlock(nn.Module):
    """x + conv(act(gain * conv(x) + offset)); gain and offset follow from what is told."""

    def __init__(self, width: int, told: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.modulate = _zeroed(nn.Linear(told, 2 * width))

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        gain, offset = self.modulate(told)[:, :, None, None].chunk(2, dim=1)
        hidden = F.leaky_relu(torch.addcmul(offset, self.first(x), 1.0 + gain), 0.1)
        return x + self.second(hidden)


def on_picture_grids(
    layers: dict[str, torch.Tensor], geometry: Geometry
) -> dict[str, torch.Tensor]:
    """p2 and p3 (N, C, h, w) of the network input -> on the grids of the padded picture."""
    height, width = padded(geometry.source_size)
    return {
        name: resample(
            layers[name], *geometry.taps(stride, (height // stride, width // stride), cell=stride)
        )
        for name, stride in LAYERS.items()
    }


def padded(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in whole multiples of MULTIPLE.

    >>> padded((321, 480))
    (328, 480)
    """
    height, width = (-(-n // MULTIPLE) * MULTIPLE for n in size)
    return height, width


def to_planes(luma: torch.Tensor, chroma: torch.Tensor) -> torch.Tensor:
    """Y' (N, 1, H, W), and Cb, Cr (N, 2, H/2, W/2) -> (N, 6, H/2, W/2) as the network sees them."""
    return torch.cat((F.pixel_unshuffle(luma, 2), chroma), dim=1)


def kmac_per_pixel(config: RestorerConfig) -> float:
    """Multiplications of the network in thousands per pixel of the picture.

    >>> round(kmac_per_pixel(RestorerConfig()), 1) <= 60
    True
    """
    model = Restorer(config)
    strides = {"2": 2, "4": 4, "8": 8}
    total = 0.0
    for name, conv in model.named_modules():
        if isinstance(conv, nn.Conv2d):
            root = name.partition(".")[0]
            stride = strides.get(root[-1], {"middle": 8, "fusion": 4}.get(root, 2))
            stride = 8 if name == "fusion.p3" else stride
            total += conv.weight.numel() / stride**2
    return total / 1000


def _numbered() -> list[tuple[int, str]]:
    return list(enumerate(LAYERS))


def _standardised(known: torch.Tensor) -> torch.Tensor:
    qp, percent, s = known.unbind(dim=1)
    return torch.stack(
        ((qp - QP_MIDDLE) / QP_UNIT, torch.log2(percent / 100.0), torch.log2(s) / math.log2(4.0)),
        dim=1,
    )


def _blocks(count: int, width: int, told: int) -> nn.ModuleList:
    return nn.ModuleList(ToldBlock(width, told) for _ in range(count))


def _through(blocks: nn.ModuleList, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
    for block in blocks:
        x = block(x, told)
    return x


def _zeroed(layer: nn.Module) -> nn.Module:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
