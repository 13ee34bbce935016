# SPDX-License-Identifier: BSD-3-Clause
"""The networks of the learned picture codecs: picture -> latents at stride 16 -> picture.

    x --+--> 16 x 16 blocks --> linear --> + --> y / step --+--> Q --> y_hat
        +--s4--> s8 --> s16 -------------> +                |     ^
                                                           h_a    | mu, sigma
                                                            |     |
                                                            z --> Q --> z_hat --> h_s, contexts

    y_hat * step --+--> linear --> 16 x 16 blocks --+-------------------> + --> x_hat
                   +--> s16 --> s8 --> s4 --------- + --> restoration --> +

One model for all rates: the step of the quantiser is that of VVC at the QP, and the entropy and
restoration networks are told its octaves. The analysis has no bias, as in VFCN. The linear branches
begin as the Karhunen-Loeve transform of the training pictures' blocks and the others at zero
(start_linear), so that a training begins where the best block transform ends. Entropy model: mean
and scale hyperprior with channel slices x checkerboard, those of vcm_plugin.entropy, which also
exist in integers; after He et al., ELIC, CVPR 2022.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from anchors.picture_config import PictureConfig
from vcm_plugin.entropy.latent_coder import stored_tensors
from vcm_plugin.entropy.networks import EntropyNetworks
from vcm_plugin.weights_file import write_weights

STRIDE = 16
BLOCK = 3 * STRIDE * STRIDE  # samples
LEVELS = 127.5  # of 8 bits, in 1.0 of the networks' pictures
GAIN = 8.0  # of the linear weights as they are stored: a training's steps count less for them


class Coded(NamedTuple):
    """A batch as it is decoded, and the estimated bits of each picture (N,)."""

    x_hat: torch.Tensor
    y_hat: torch.Tensor
    bits: torch.Tensor


class PictureNetworks(nn.Module):
    """g_a, g_s, h_a and the entropy networks.

    Pictures are (N, 3, H, W) in -1 .. 1 with sides that are multiples of 16; steps (N, 1, 1, 1)
    are in the same units, octaves (N, 1, 1, 1) of step.
    """

    def __init__(self, config: PictureConfig):
        super().__init__()
        self.config = config
        n = config.hyper_width
        self.g_a = Analysis(config)
        self.g_s = Synthesis(config)
        self.h_a = nn.Sequential(
            _conv(config.latents, n),
            nn.LeakyReLU(0.1),
            _conv(n, n, stride=2),
            nn.LeakyReLU(0.1),
            _conv(n, config.hyper_latents, stride=2),
        )
        self.entropy = EntropyNetworks(config)

    def forward(self, x: torch.Tensor, step: torch.Tensor, octaves: torch.Tensor) -> Coded:
        """Pictures -> as decoded, differentiable, for trainings."""
        from vcm_plugin.entropy.estimate import estimate  # compressai, which coding does without

        y = self.g_a(x).float() / step
        y_hat, bits = estimate(self.entropy, self.training, self.h_a(y), y, octaves)
        y_hat = y_hat * step
        return Coded(self.g_s(y_hat, octaves), y_hat, bits)


class Analysis(nn.Module):
    """g_a: pictures -> y (N, C, H/16, W/16), not divided by the step yet."""

    def __init__(self, config: PictureConfig):
        super().__init__()
        n4, n8, n16 = config.width4, config.width8, config.width16
        self.register_buffer("mean", torch.zeros(BLOCK))
        self.linear = nn.Conv2d(BLOCK, config.latents, 1, bias=False)
        self.branch = nn.Sequential(
            nn.PixelUnshuffle(4),
            _conv(48, n4, bias=False),
            ResidualBlock(n4, bias=False),
            _conv(n4, n8, stride=2, bias=False),
            ResidualBlock(n8, bias=False),
            _conv(n8, n16, stride=2, bias=False),
            ResidualBlock(n16, bias=False),
            nn.Conv2d(n16, config.latents, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blocks = F.pixel_unshuffle(x, STRIDE) - self.mean.view(1, -1, 1, 1)
        return self.linear(blocks) / GAIN + self.branch(x)


class Synthesis(nn.Module):
    """g_s: y_hat (N, C, h, w), multiplied by the step, and its octaves -> pictures."""

    def __init__(self, config: PictureConfig):
        super().__init__()
        n4, n8, n16 = config.width4, config.width8, config.width16
        self.register_buffer("mean", torch.zeros(BLOCK))
        self.linear = nn.Conv2d(config.latents, BLOCK, 1, bias=False)
        self.up = nn.Sequential(
            nn.Conv2d(config.latents + 1, n16, 1),
            ResidualBlock(n16),
            nn.Conv2d(n16, 4 * n8, 1),
            nn.PixelShuffle(2),
            ResidualBlock(n8),
            nn.Conv2d(n8, 4 * n4, 1),
            nn.PixelShuffle(2),
        )
        self.restoration = nn.Sequential(
            _conv(n4 + 48 + 1, n4), ResidualBlock(n4), ResidualBlock(n4)
        )
        self.residual = nn.Sequential(nn.LeakyReLU(0.1), _conv(n4, 48), nn.PixelShuffle(4))

    def forward(self, y_hat: torch.Tensor, octaves: torch.Tensor) -> torch.Tensor:
        blocks = self.linear(y_hat) / GAIN + self.mean.view(1, -1, 1, 1)
        decoded = F.pixel_shuffle(blocks, STRIDE)
        h = self.up(torch.cat((y_hat, _planes(octaves, y_hat)), dim=1))
        cells = F.pixel_unshuffle(decoded, 4)
        h = self.restoration(torch.cat((h, cells, _planes(octaves, h)), dim=1))
        return decoded + self.residual(h)


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


@torch.no_grad()
def start_linear(model: PictureNetworks, pictures: list[torch.Tensor]) -> None:
    """Make untrained networks the Karhunen-Loeve transform of the blocks of pictures.

    pictures: (3, H, W) in -1 .. 1, sides multiples of 16, with more blocks than latents.
    """
    blocks = torch.cat([F.pixel_unshuffle(x[None], STRIDE)[0].flatten(1).T for x in pictures])
    blocks = blocks.double()
    mean = blocks.mean(dim=0)
    basis = torch.linalg.eigh(torch.cov(blocks.T))[1].flip(1)[:, : model.config.latents]
    for side, weight in ((model.g_a, basis.T), (model.g_s, basis)):
        side.mean.copy_(mean)
        side.linear.weight.copy_(GAIN * weight[:, :, None, None])
    model.g_a.branch[-1].weight.zero_()
    model.g_s.residual[1].weight.zero_()
    model.g_s.residual[1].bias.zero_()


def export(model: PictureNetworks, detector_sha256: str | None, trained: dict, path: Path) -> Path:
    """Write the weights file of a trained model: 16-bit floats, integer networks, tables.

    detector_sha256: of the detector whose features were in the loss; None where none were.
    """
    about = {
        "config": asdict(model.config),
        "detector_sha256": detector_sha256,
        "trained": trained,
    }
    return write_weights(path, "picture", stored_tensors(model), about)


def _planes(octaves: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return octaves.expand(-1, 1, *like.shape[-2:])


def _conv(inputs: int, outputs: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)
