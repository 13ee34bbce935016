# SPDX-License-Identifier: BSD-3-Clause
"""ACN, auxiliary compression: the latent of the picture, coded given the machine layer.

    z0, picture, F --> g_a --/q--> y --> Q --> y_hat --*q--> g_s --> c, an estimate of z0
                                   |     ^                   ^
                                  h_a    | mu, sigma         F
                                   |     |
                                   z --> Q --> z_hat, F_int --> h_s, contexts

F_int comes from the integer latents of the machine layer through `MachineCondition`, and z_hat,
F_int and the quantiser step q are all that conditions the entropy networks: they run on integers
(vcm_plugin.entropy), F does not reach them. The step q is the human rate point: one model serves
every rate, as the scale s does in the machine layer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from vcm_plugin.diff_fchm.human.config import HvcnConfig, MachineFit, PriorFit
from vcm_plugin.diff_fchm.human.geometry import STRIDE, Geometry, resample
from vcm_plugin.diff_fchm.machine.vfcn import ResidualBlock
from vcm_plugin.entropy.networks import EntropyNetworks

MACHINE_STRIDE = 16  # of y of the machine layer, in pixels of the network input


def scaled_back(y_hat: torch.Tensor, octaves: torch.Tensor) -> torch.Tensor:
    """Latents of the machine layer with its scale s undone, as far as its octaves say.

    The same multiplication for floats and, in float64 and without any rounding, for integers.
    """
    whole = torch.floor(octaves).clamp(-12, 12)
    return y_hat * (1.0 + (octaves - torch.floor(octaves))) * 2.0**whole


class MachineCondition(nn.Module):
    """Latents of the machine layer -> F_int on the grid of the auxiliary latents.

    Only convolutions, ReLU, regrouping and resampling with integer taps. With `exact`, and with
    integer convolutions, inputs and outputs are integers in 1/256 and every step is exact.
    """

    def __init__(self, config: HvcnConfig, machine: MachineFit):
        super().__init__()
        n = config.condition_width
        self.exact = False
        self.reduce = nn.Conv2d(machine.latents + 1, n, 1)
        self.join = nn.Conv2d(4 * n, 2 * n, 3, padding=1)
        self.body = nn.Conv2d(2 * n, 2 * n, 3, padding=1)
        self.head = nn.Conv2d(2 * n, n, 1)

    def forward(self, y_hat: torch.Tensor, octaves: torch.Tensor, geometry) -> torch.Tensor:
        """y_hat (N, C, h, w), scaled back by s; octaves (N, 1, 1, 1) of s -> (N, n, h16, w16)."""
        plane = octaves.expand(-1, 1, *y_hat.shape[-2:])
        x = torch.relu(self.reduce(torch.cat((y_hat, plane), dim=1)))
        rows, columns = geometry.grid16
        x = resample(x, *geometry.taps(MACHINE_STRIDE, (2 * rows, 2 * columns)))
        if self.exact:
            x = torch.floor(x + 0.5)
        x = torch.relu(self.join(F.pixel_unshuffle(x, 2)))
        return torch.relu(self.head(torch.relu(self.body(x))))


class AuxiliaryEntropy(EntropyNetworks):
    """The entropy networks of the auxiliary latents.

    Their conditioning is F_int and the octaves of q, (N, n + 1, h16, w16); z sees every fourth
    cell of it.
    """

    def __init__(self, config: HvcnConfig):
        conditioning = config.condition_width + 1
        super().__init__(config, conditioning)
        n = config.hyper_width
        self.merge = nn.Sequential(nn.Conv2d(n + conditioning, n, 3, padding=1), nn.ReLU())

    def of_z(self, conditioning: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and raw level of z (N, C, h64, w64)."""
        return super().of_z(conditioning[..., ::4, ::4])

    def psi(self, z_hat: torch.Tensor, conditioning: torch.Tensor, grid) -> torch.Tensor:
        """z_hat -> the part of the contexts that all of y shares, on the grid of y."""
        shared = super().psi(z_hat, conditioning[..., ::4, ::4], grid)
        return self.merge(torch.cat((shared, conditioning), dim=1))


class AuxiliaryCoder(nn.Module):
    """g_a, h_a, g_s, the condition and the entropy networks; tensors are batches (N, C, h, w)."""

    def __init__(self, config: HvcnConfig, machine: MachineFit, prior: PriorFit):
        super().__init__()
        n, latents, hyper = config.analysis_width, config.latents, config.hyper_width
        inputs = prior.latent_channels + config.width
        self.conditioned = config.conditioned
        self.g_a = nn.Sequential(
            nn.Conv2d(inputs + 3 * STRIDE**2, n, 3, padding=1),
            ResidualBlock(n),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * n, n, 1),
            ResidualBlock(n),
            nn.Conv2d(n, latents, 3, padding=1),
        )
        self.h_a = nn.Sequential(
            nn.Conv2d(latents, hyper, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(hyper, hyper, 3, 2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(hyper, config.hyper_latents, 3, 2, padding=1),
        )
        self.up = nn.Sequential(
            nn.Conv2d(latents + 1, n, 3, padding=1),
            ResidualBlock(n),
            nn.Conv2d(n, 4 * n, 1),
            nn.PixelShuffle(2),
        )
        self.g_s = nn.Sequential(
            nn.Conv2d(n + config.width, n, 3, padding=1),
            ResidualBlock(n),
            ResidualBlock(n),
            nn.Conv2d(n, prior.latent_channels, 3, padding=1),
        )
        self.condition = MachineCondition(config, machine)
        self.entropy = AuxiliaryEntropy(config)

    def analysis(self, z0, picture, control, q) -> torch.Tensor:
        """z0 (N, L, h8, w8), picture (N, 3, 8 h8, 8 w8) in -1 .. 1, F, q (N,) -> y / q."""
        x = torch.cat((z0, F.pixel_unshuffle(picture, STRIDE), self._seen(control)), dim=1)
        x = F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")
        return self.g_a(x) / q.view(-1, 1, 1, 1)

    def synthesis(self, y_hat, control, q) -> torch.Tensor:
        """y_hat in steps of q, F -> c (N, L, h8, w8), the estimate of z0 that was coded."""
        step = q.view(-1, 1, 1, 1)
        plane = torch.log2(step).expand(-1, 1, *y_hat.shape[-2:])
        x = self.up(torch.cat((y_hat * step, plane), dim=1))
        x = x[..., : control.shape[-2], : control.shape[-1]]
        return self.g_s(torch.cat((x, self._seen(control)), dim=1))

    def conditioning(self, y_machine, octaves, q_octaves, geometry: Geometry) -> torch.Tensor:
        """What conditions the entropy networks: F_int and the octaves of q.

        y_machine, octaves: as in MachineCondition; q_octaves: (N, 1, 1, 1).
        """
        plane = q_octaves.expand(-1, 1, *geometry.grid16)
        condition = self.condition(y_machine, octaves, geometry)
        return torch.cat((self._seen(condition), plane), dim=1)

    def _seen(self, x: torch.Tensor) -> torch.Tensor:
        return x if self.conditioned else 0.0 * x  # keeps every weight in the graph
