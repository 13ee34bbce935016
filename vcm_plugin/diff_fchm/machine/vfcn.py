# SPDX-License-Identifier: BSD-3-Clause
"""The networks of VFCN: normalised FPN features -> latents -> FPN features.

                 p2 --s2--> + --s2--> + --> y --+--> Q --> y_hat --> shrink --> p4, p5 | x2 --> p3
                            ^         ^         |     ^                               | x4 --> p2
                            p3     p4, p5      h_a    | mu, sigma
                                                |     |
                                                z --> Q --> z_hat --> h_s, contexts

After H-SIMO (Zhang et al., ICIP 2024): one latent, one decoder head per scale; the analysis that
takes all four scales is L-MSFC's idea. What differs is made for IVN: the analysis g_a has neither
bias nor divisive normalisation, so g_a(x / s) = g_a(x) / s and the scale s is exactly a
quantiser step; the synthesis undoes s on y_hat, so that its biases are not multiplied by s, and
shrinks each channel by a trained function of the range ("robust"), which the decoder knows.

Entropy model: z and y are Gaussian with mean and scale from `EntropyNetworks`: y in channel slices,
each in the two colours of a checkerboard (He et al., ELIC, CVPR 2022). These networks also exist in
integers (vcm_plugin.entropy); those and not the ones here select entropy tables in a codec.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from vcm_plugin.diff_fchm.machine.config import LEVELS, VfcnConfig
from vcm_plugin.entropy.networks import EntropyNetworks

GAIN_OCTAVES = torch.linspace(-2.0, 2.0, 8)  # log2 s at the levels of the variant "gain"


class Vfcn(nn.Module):
    """g_a, g_s, h_a and the entropy networks.

    Tensors are batches (N, C, h, w), normalised by IVN; ranges are (N, 2) tensors of (m', M').
    Layers are called p2, p3, p4, p5 from the finest on; a pyramid may have fewer (config.levels).
    Buffers mean and std (layers, C): statistics of each channel, filled up where a layer has fewer
    than the others; typical_width: of M - m.
    """

    def __init__(self, config: VfcnConfig):
        super().__init__()
        self.config = config
        shape = (len(config.each_channels), max(config.each_channels))
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))
        self.register_buffer("typical_width", torch.ones(()))
        self.g_a = Analysis(config)
        self.g_s = Synthesis(config)
        self.h_a = nn.Sequential(
            _conv(config.latents, config.hyper_width),
            nn.LeakyReLU(0.1),
            _conv(config.hyper_width, config.hyper_width, stride=2),
            nn.LeakyReLU(0.1),
            _conv(config.hyper_width, config.hyper_latents, stride=2),
        )
        self.entropy = EntropyNetworks(config)
        self.shrink = nn.Parameter(
            torch.zeros(2, config.latents), requires_grad=config.variant == "robust"
        )
        if config.variant == "gain":
            self.log_gains = nn.Parameter(gains_of_ivn(self.shrink))

    def analysis(self, layers: dict[str, torch.Tensor], ranges: torch.Tensor) -> torch.Tensor:
        """Normalised p2..p5 -> y, at the grid of p4."""
        low, width = _columns(ranges)
        standard = {
            name: (layers[name] - (mean - low) / width) * (self.typical_width / std)
            for name, (mean, std) in self.statistics().items()
        }
        y = self.g_a(standard)
        if self.config.variant == "gain":
            y = y * (width / self.typical_width) * self._gain(0, ranges)
        return y

    def synthesis(self, y_hat: torch.Tensor, ranges: torch.Tensor) -> dict[str, torch.Tensor]:
        """y_hat -> normalised p2..p5."""
        low, width = _columns(ranges)
        standard = self.g_s(y_hat * self.undone(ranges))
        return {
            name: (standard[name] * std + (mean - low)) / width
            for name, (mean, std) in self.statistics().items()
        }

    def statistics(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Mean and deviation of each layer, (1, C, 1, 1) each."""
        counts = self.config.each_channels
        return {
            name: (mean[:count].view(1, -1, 1, 1), std[:count].view(1, -1, 1, 1))
            for name, count, mean, std in zip(LEVELS, counts, self.mean, self.std)
        }

    def done(self, ranges: torch.Tensor) -> torch.Tensor:
        """What the range multiplies y by, (N, 1 or C, 1, 1): y = done * g_a((P - mean) / std)."""
        if self.config.variant == "gain":
            return self._gain(0, ranges)
        return self.typical_width / _columns(ranges)[1]

    def undone(self, ranges: torch.Tensor) -> torch.Tensor:
        """What y_hat is multiplied by before the synthesis, (N, 1 or C, 1, 1)."""
        if self.config.variant == "gain":
            return self._gain(1, ranges)
        undone = _columns(ranges)[1] / self.typical_width
        if self.config.variant == "robust":
            octaves = self.octaves(ranges)
            first, second = (row.view(1, -1, 1, 1) for row in self.shrink)
            undone = undone * torch.exp(octaves * (first + second * octaves))
        return undone

    def octaves(self, ranges: torch.Tensor) -> torch.Tensor:
        """(N, 1, 1, 1): what the entropy networks are told of the range, 0 where it is typical."""
        return log2_linear(_columns(ranges)[1]) - log2_linear(self.typical_width)

    def forward(self, layers: dict[str, torch.Tensor], ranges: torch.Tensor):
        """Normalised p2..p5 -> (normalised p2..p5 as decoded, bits (N,)), for training."""
        from vcm_plugin.entropy.estimate import estimate  # compressai, which coding does without

        y = self.analysis(layers, ranges).float()
        octaves = self.octaves(ranges)
        with torch.autocast(y.device.type, enabled=False):
            y_hat, bits = estimate(self.entropy, self.training, self.h_a(y), y, octaves)
        return self.synthesis(y_hat, ranges), bits

    def _gain(self, which: int, ranges: torch.Tensor) -> torch.Tensor:
        """(N, C, 1, 1): gains (0) or inverse gains (1) of the level nearest to the range."""
        distance = (self.octaves(ranges).flatten()[:, None] - GAIN_OCTAVES.to(ranges)).abs()
        return torch.exp(self.log_gains[which, distance.argmin(dim=1)])[:, :, None, None]


def gains_of_ivn(shrink: torch.Tensor) -> torch.Tensor:
    """(2, levels, C): logarithms of the gains and inverse gains that do at their levels what IVN
    does with these terms of `undone`, (2, C)."""
    octaves = GAIN_OCTAVES[:, None]
    start = math.log(2.0) * octaves.expand(-1, shrink.shape[1])
    return torch.stack((-start, start + octaves * (shrink[0] + shrink[1] * octaves))).detach()


class Analysis(nn.Module):
    """g_a: standardised p2..p5 -> y, homogeneous of degree one.

    `detail` leads past the grid of p4 with its few channels, so that y can hold nearly all of p2.
    """

    def __init__(self, config: VfcnConfig):
        super().__init__()
        n8, n16 = config.width8, config.width16
        finest, *others = config.each_channels
        self.fuse = config.fuse and bool(others)
        self.p2 = _conv(finest, n8, stride=2, bias=False)
        self.down = _conv(n8, n16, stride=2, bias=False)
        self.blocks16 = nn.Sequential(
            ResidualBlock(n16, bias=False), ResidualBlock(n16, bias=False)
        )
        self.y = _conv(n16, config.latents, bias=False)
        self.detail = nn.Conv2d(4 * n8, config.latents, 1, bias=False)
        if self.fuse:
            for name, count, width in zip(LEVELS[1:], others, (n8, n16, n16)):
                setattr(self, name, nn.Conv2d(count, width, 1, bias=False))

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        h = self.p2(x["p2"])
        if not self.fuse:
            return self.coarse(h)
        mixed = {name: getattr(self, name)(x[name]) for name in LEVELS[1:] if name in x}
        return self.coarse(h + mixed.pop("p3"), **mixed)

    def coarse(self, h, p4=None, p5=None) -> torch.Tensor:
        """What the grid of p3 holds, and what p4 and p5 add -> y."""
        cells = F.pad(h, (0, h.shape[-1] % 2, 0, h.shape[-2] % 2))
        detail = self.detail(F.pixel_unshuffle(cells, 2))
        h = self.down(F.leaky_relu(h, 0.1))
        if p4 is not None:
            h = h + p4
        if p5 is not None:
            coarse = F.interpolate(p5, scale_factor=2.0)
            h = h + coarse[..., : h.shape[-2], : h.shape[-1]]
        return self.y(self.blocks16(h)) + detail


class Synthesis(nn.Module):
    """g_s: y_hat -> standardised p2..p5."""

    def __init__(self, config: VfcnConfig):
        super().__init__()
        n8, n16 = config.width8, config.width16
        heads = dict(zip(LEVELS, config.each_channels))
        self.trunk16 = nn.Sequential(
            _conv(config.latents, n16), ResidualBlock(n16), ResidualBlock(n16)
        )
        if "p5" in heads:
            self.p5 = _conv(n16, heads["p5"], stride=2)
        if "p4" in heads:
            self.p4 = _conv(n16, heads["p4"])
        self.up = _conv(n16, 4 * n8)
        self.detail = nn.Conv2d(config.latents, 4 * n8, 1)
        self.block8 = ResidualBlock(n8)
        if "p3" in heads:
            self.p3 = _conv(n8, heads["p3"])
        self.p2 = nn.Sequential(_conv(n8, 4 * heads["p2"]), nn.PixelShuffle(2))
        self.levels = tuple(heads)

    def forward(self, y_hat: torch.Tensor) -> dict[str, torch.Tensor]:
        h16, h8 = self.trunk(y_hat)
        seen = {"p2": h8, "p3": h8, "p4": h16, "p5": h16}
        return {name: getattr(self, name)(seen[name]) for name in self.levels}

    def trunk(self, y_hat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """y_hat -> what the heads see, on the grids of p4 and of p3."""
        h16 = self.trunk16(y_hat)
        return h16, self.block8(F.pixel_shuffle(self.up(h16) + self.detail(y_hat), 2))


class ResidualBlock(nn.Module):
    """x + conv(act(conv(act(x))))."""

    def __init__(self, channels: int, bias: bool = True):
        super().__init__()
        self.body = nn.Sequential(
            nn.LeakyReLU(0.1),
            _conv(channels, channels, bias=bias),
            nn.LeakyReLU(0.1),
            _conv(channels, channels, bias=bias),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


def log2_linear(x: torch.Tensor) -> torch.Tensor:
    """log2, linear between powers of two: ivn.log2_code without its rounding."""
    mantissa, exponent = torch.frexp(x)
    return exponent + 2.0 * mantissa - 2.0


def _columns(ranges: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """m' and M' - m' as (N, 1, 1, 1)."""
    low, high = ranges[:, 0], ranges[:, 1]
    return low.view(-1, 1, 1, 1), (high - low).view(-1, 1, 1, 1)
