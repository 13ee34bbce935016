# SPDX-License-Identifier: BSD-3-Clause
"""ACN, auxiliary compression: the latent of the picture, coded given the machine layer or alone.

Ours, `AuxiliaryCoder`, is told what the machine layer says:

    z0, picture, F --> g_a --/q--> y --> Q --> y_hat --*q--> g_s --> c, an estimate of z0
                                   |     ^                   ^
                                  h_a    | mu, sigma         F
                                   |     |
                                   z --> Q --> z_hat, F_int --> h_s, contexts

F_int comes from the integer latents of the machine layer through `MachineCondition`, and z_hat,
F_int and the quantiser step q are all that conditions the entropy networks: they run on integers
(vcm_plugin.entropy), F does not reach them. The step q is the human rate point: one model serves
every rate, as the scale s does in the machine layer.

The paper's, `UnconditionalCoder`, codes the latent alone: no link from the machine layer, no
hyperprior.

    z0 --> LE --/q--> y --> Q --> y_hat --*q--> LD --> c
                           |
                           mean and table of each channel, by q alone
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from vcm_plugin.diff_fchm.human.config import HvcnConfig, MachineFit, PriorFit
from vcm_plugin.diff_fchm.human.geometry import STRIDE, Geometry, resample
from vcm_plugin.diff_fchm.machine.vfcn import ResidualBlock
from vcm_plugin.entropy.networks import EntropyNetworks, FactorisedNetworks

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
        self.g_a = _analysis(inputs + 3 * STRIDE**2, n, latents)
        self.h_a = nn.Sequential(
            nn.Conv2d(latents, hyper, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(hyper, hyper, 3, 2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(hyper, config.hyper_latents, 3, 2, padding=1),
        )
        self.up = _upsampling(latents + 1, n)
        self.g_s = _synthesis(n + config.width, n, prior.latent_channels)
        self.condition = MachineCondition(config, machine)
        self.entropy = AuxiliaryEntropy(config)

    def analysis(self, z0, picture, control, q) -> torch.Tensor:
        """z0 (N, L, h8, w8), picture (N, 3, 8 h8, 8 w8) in -1 .. 1, F, q (N,) -> y / q."""
        x = torch.cat((z0, F.pixel_unshuffle(picture, STRIDE), self._seen(control)), dim=1)
        return self.g_a(_whole(x)) / q.view(-1, 1, 1, 1)

    def hyper(self, y: torch.Tensor) -> torch.Tensor:
        """y / q (N, C, h16, w16) -> z (N, C, h64, w64), before rounding."""
        return self.h_a(y)

    def synthesis(self, y_hat, control, q) -> torch.Tensor:
        """y_hat in steps of q, F -> c (N, L, h8, w8), the estimate of z0 that was coded."""
        x = self.up(_with_step(y_hat, q))[..., : control.shape[-2], : control.shape[-1]]
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


class UnconditionalCoder(nn.Module):
    """LE, LD and the tables of each channel; the methods take what those of AuxiliaryCoder take.

    Not drawn in the paper, so ours: the transforms, which are those of AuxiliaryCoder without what
    it sees of the machine layer and of the picture, and that q reaches LD and the tables.
    """

    def __init__(self, config: HvcnConfig, _: MachineFit, prior: PriorFit):
        super().__init__()
        n, latents = config.analysis_width, config.latents
        self.latent_encoder = _analysis(prior.latent_channels, n, latents)
        self.up = _upsampling(latents + 1, n)
        self.latent_decoder = _synthesis(n, n, prior.latent_channels)
        self.entropy = FactorisedNetworks(latents)

    def analysis(self, z0, picture, control, q) -> torch.Tensor:
        """z0 (N, L, h8, w8), q (N,) -> y / q. picture, control: not looked at."""
        return self.latent_encoder(_whole(z0)) / q.view(-1, 1, 1, 1)

    def hyper(self, y: torch.Tensor) -> torch.Tensor:
        """No z: (N, 0, h16, w16)."""
        return y[:, :0]

    def synthesis(self, y_hat, control, q) -> torch.Tensor:
        """y_hat in steps of q -> c (N, L, h8, w8); of control only its size is looked at."""
        x = self.up(_with_step(y_hat, q))
        return self.latent_decoder(x[..., : control.shape[-2], : control.shape[-1]])

    def conditioning(self, y_machine, octaves, q_octaves, geometry: Geometry) -> torch.Tensor:
        """What selects the tables: the octaves of q (N, 1, 1, 1), nothing of the machine layer."""
        return q_octaves


def _analysis(inputs: int, width: int, latents: int) -> nn.Sequential:
    """From the /8 grid to the /16 grid."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1),
        ResidualBlock(width),
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * width, width, 1),
        ResidualBlock(width),
        nn.Conv2d(width, latents, 3, padding=1),
    )


def _upsampling(inputs: int, width: int) -> nn.Sequential:
    """From the /16 grid to the /8 grid."""
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1),
        ResidualBlock(width),
        nn.Conv2d(width, 4 * width, 1),
        nn.PixelShuffle(2),
    )


def _synthesis(inputs: int, width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1),
        ResidualBlock(width),
        ResidualBlock(width),
        nn.Conv2d(width, channels, 3, padding=1),
    )


def _whole(x: torch.Tensor) -> torch.Tensor:
    """Whole cells of 2 x 2, the last ones repeated."""
    return F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="replicate")


def _with_step(y_hat: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Latents in steps of q (N,) -> in units of y, with log2 q as one more channel."""
    step = q.view(-1, 1, 1, 1)
    plane = torch.log2(step).expand(-1, 1, *y_hat.shape[-2:])
    return torch.cat((y_hat * step, plane), dim=1)
