# SPDX-License-Identifier: BSD-3-Clause
"""The latent-space transform: latents of the learned picture codec -> latents of diff_fchm.

    y_hat --> (y - mean) / std --+--> 1x1 --> residual blocks --> 1x1 --> + --> * std + mean --> y_m
                                 +-----------------> 3x3 ---------------> +
        octaves of the step --> the first 1x1

Both latents lie on grids of 16 x 16 pixels; from y_m the synthesis of the machine layer makes
p2..p5, as from its own latents. So no picture is rebuilt, and the detector's layers below the
pyramid do not run. After Choi and Bajic, "Scalable image coding for humans and machines", IEEE TIP
2022: there, too, a transform reads the first channels of a picture's latents and ends inside the
detector. Theirs ends at one of its layers; this one ends where H-SIMO's synthesis begins. The 3x3
begins as the least-squares map and the blocks at zero (training/transform.py).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from anchors.picture_config import TransformConfig
from anchors.picture_networks import ResidualBlock
from vcm_plugin.weights_file import halved, write_weights

STATISTICS = ("y_mean", "y_std", "mean", "std")


class LatentTransform(nn.Module):
    """y_hat (N, C, h, w), multiplied by its step, C at least config.latents -> y_m (N, C, h, w).

    Buffers y_mean and y_std of each channel of y_hat, mean and std of each of y_m, so that all
    channels of y_hat count alike in the networks, and those of y_m get their own scale.
    """

    def __init__(self, config: TransformConfig):
        super().__init__()
        self.config = config
        inputs, outputs, width = config.latents, config.machine_latents, config.width
        for name, count in zip(STATISTICS, (inputs, inputs, outputs, outputs), strict=True):
            self.register_buffer(name, torch.full((count,), float("std" in name)))
        self.body = nn.Sequential(
            nn.Conv2d(inputs + 1, width, 1),
            *(ResidualBlock(width) for _ in range(config.blocks)),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, outputs, 1),
        )
        self.linear = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)

    def forward(self, y_hat: torch.Tensor, octaves: torch.Tensor) -> torch.Tensor:
        """octaves: of the steps, (N, 1, 1, 1)."""
        y = self.standardised(y_hat)
        known = octaves.expand(-1, 1, *y.shape[-2:])
        found = self.body(torch.cat((y, known), dim=1)) + self.linear(y)
        return found * _column(self.std) + _column(self.mean)

    def standardised(self, y_hat: torch.Tensor) -> torch.Tensor:
        """The channels that are read, each with mean 0 and deviation 1."""
        return (y_hat[:, : self.config.latents] - _column(self.y_mean)) / _column(self.y_std)


def export(
    model: LatentTransform,
    picture_sha256: str,
    machine_sha256: str,
    detector_sha256: str,
    trained: dict,
    path: Path,
) -> Path:
    """Write the weights file of a trained transform: 16-bit floats, vectors in 32 bits.

    picture_sha256: of the weights of the picture codec whose latents it reads. machine_sha256: the
    latents_sha256 of the machine layer whose latents it makes.
    """
    about = {
        "config": asdict(model.config),
        "picture_sha256": picture_sha256,
        "machine_sha256": machine_sha256,
        "detector_sha256": detector_sha256,
        "trained": trained,
    }
    return write_weights(path, "transform", halved(model.state_dict()), about)


def _column(x: torch.Tensor) -> torch.Tensor:
    return x.view(1, -1, 1, 1)
