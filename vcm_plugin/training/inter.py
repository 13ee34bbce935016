# SPDX-License-Identifier: BSD-3-Clause
"""Train the inter networks of the machine layer over frozen latents: one model for every rate.

A batch is a few clips at scales s. The first frame of a clip is coded by the intra networks, the
others one after the other by the inter networks, each from what they made of the two before. g_a,
g_s, h_a and the intra networks are frozen, so the loss is that of coding y:

    (bits + error_weight * |y - y_hat|^2) of the inter frames / bits of the clip's intra frame

Dividing makes every rate count alike. error_weight is the slope of a uniform quantiser of step 1 in
bits per squared error, 6 / ln 2 at high rate: it keeps means close where rounding hides them from
the bits, and so y_hat as good as that of an intra frame.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vcm_plugin.diff_fchm.machine.codec import MachineCodec
from vcm_plugin.diff_fchm.machine.inter_config import InterConfig
from vcm_plugin.diff_fchm.machine.vfcn import log2_linear
from vcm_plugin.entropy.estimate import LowerBound, scale_of
from vcm_plugin.entropy.integer import float_weights
from vcm_plugin.entropy.networks import EntropyNetworks
from vcm_plugin.entropy.temporal import TemporalNetworks
from vcm_plugin.training import loop
from vcm_plugin.training.inter_samples import InterStore
from vcm_plugin.training.loop import Terms
from vcm_plugin.training.schedules import InterTraining

LEAST_SHARE = 1e-8  # of a symbol's probability


class InterModel(nn.Module):
    """The trained networks beside the frozen ones; only the former are parameters of it."""

    def __init__(self, config: InterConfig, machine: MachineCodec, intra: EntropyNetworks):
        super().__init__()
        self.config = config
        self.networks = TemporalNetworks(config)
        self.networks.start_from(intra)
        self.frozen = (machine.model, intra)  # a tuple: neither parameters nor state

    def forward(self, y: torch.Tensor, ranges: torch.Tensor, error_weight: float) -> Terms:
        """g_a's output y (N, frames, C, h, w), coded at ranges (N, 2) -> terms of the loss."""
        vfcn, intra = (each.to(y.device) for each in self.frozen)
        y = y * vfcn.done(ranges)[:, None]
        octaves = log2_linear(ranges[:, 1] - ranges[:, 0]) - log2_linear(vfcn.typical_width)
        octaves = octaves.view(-1, 1, 1, 1)
        with torch.no_grad():
            z = [vfcn.h_a(frame) for frame in y.unbind(1)]
            earlier = code_intra(intra, z[0], y[:, 0], octaves)
        start = earlier
        before = earlier
        spent, added = 0.0, 0.0
        for frame in range(1, y.shape[1]):
            coded = code_inter(
                self.networks, z[frame], y[:, frame], octaves, earlier, before, error_weight
            )
            spent = spent + coded.bits / start.bits
            added = added + error_weight * (coded.error - start.error) / start.bits
            before, earlier = earlier, coded.detach()
        frames = y.shape[1] - 1
        return {"bits": spent.mean() / frames, "error": added.mean() / frames}


def train(
    config: InterConfig,
    machine: MachineCodec,
    store: InterStore,
    schedule: InterTraining,
    folder: Path,
    report=lambda line: None,
) -> TemporalNetworks:
    """Train, or go on with the checkpoint in `folder`; returns networks with averaged weights."""
    accelerator = loop.start(schedule, folder, report)
    torch.manual_seed(schedule.seed)
    model = InterModel(config, machine, float_networks(machine))
    path = folder / "inter_state.pth"
    made_from = {"latents": store.sha256(), "machine": machine.sha256}
    trained = loop.fit(accelerator, model, store, schedule, path, loss_terms, report, made_from)
    return trained.networks.eval()


def loss_terms(model, store: InterStore, schedule: InterTraining, draw: int, _: bool) -> Terms:
    """Terms of the loss for batch number `draw`, which alone decides about every random number."""
    rng = np.random.default_rng((schedule.seed, draw))
    y, ranges = store.draw(schedule.batch_size, schedule.frames, rng)
    scales = torch.from_numpy(np.exp(rng.uniform(*np.log(schedule.scales), len(y)))).float()
    ranges = ranges * scales[:, None]
    device = next(model.parameters()).device
    y, ranges = y.to(device), ranges.to(device)
    return model(y, ranges, schedule.error_weight)


def float_networks(machine: MachineCodec) -> EntropyNetworks:
    """The intra networks of a codec as floats: their weights are those of the integer ones."""
    networks = EntropyNetworks(machine.config).requires_grad_(False)
    networks.load_state_dict(float_weights(machine.integers))
    return networks


class Coded:
    """A frame as it decodes: z_hat, y_hat, bits (N,) and squared error of y (N,)."""

    def __init__(self, z_hat, y_hat, bits, error):
        self.z_hat, self.y_hat, self.bits, self.error = z_hat, y_hat, bits, error

    def detach(self) -> Coded:
        """The same without its graph."""
        return Coded(*(x.detach() for x in (self.z_hat, self.y_hat, self.bits, self.error)))


def code_intra(networks: EntropyNetworks, z, y, octaves) -> Coded:
    """A frame on its own."""
    mean, level = networks.of_z(octaves)
    z_hat, bits = _coded(z, mean, level)
    psi = networks.psi(z_hat, octaves, y.shape[-2:])
    return _code_y(networks, psi, y, z_hat, bits)


def code_inter(
    networks: TemporalNetworks, z, y, octaves, last: Coded, before: Coded,
    error_weight: float = math.inf,
) -> Coded:  # fmt: skip
    """A frame after two others; differentiable in the networks."""
    mean, level, gate = networks.of_z_after(last.z_hat, octaves)
    z_hat, bits = _coded(z, mean + _gated(gate) * (last.z_hat - mean), level)
    change = last.y_hat - before.y_hat
    features, added = networks.of_earlier(last.y_hat, change, octaves)
    psi = torch.cat((networks.psi(z_hat, octaves, y.shape[-2:]), features), dim=1)
    return _code_y(networks, psi, y, z_hat, bits, last.y_hat + added, error_weight)


def _code_y(networks, psi, y, z_hat, bits, predicted=None, error_weight=math.inf) -> Coded:
    """y slice by slice. Later slices see earlier ones without a gradient into them."""
    sums = _Sums(networks, psi)
    y = y.flatten(2)
    y_hat, error = torch.zeros_like(y), 0.0
    for number, own in enumerate(networks.slices):
        for colour, cells in enumerate(sums.cells):
            hidden = torch.relu(sums.totals[colour][number])
            name = 2 * number + colour
            mean, level = _pointwise(networks.contexts[name][2], hidden).chunk(2, dim=1)
            if predicted is not None:
                gate = _gated(_pointwise(networks.gates[name], hidden))
                mean = mean + gate * (predicted.flatten(2)[:, own, cells] - mean)
            decoded, cost = _coded(y[:, own, cells], mean, level, error_weight)
            bits = bits + cost
            error = error + (y[:, own, cells] - decoded).square().sum((1, 2))
            y_hat[:, own, cells] = decoded.detach()
            sums.know(number, colour, y_hat[:, own])
    return Coded(z_hat, y_hat.unflatten(2, psi.shape[-2:]), bits, error)


class _Sums:
    """The first convolutions of all passes at the cells of their colour, as far as y is known, as
    contexts.py has them in integers. totals[colour][slice]: (N, width, cells)."""

    def __init__(self, networks, psi: torch.Tensor):
        self.networks, self.grid = networks, psi.shape[-2:]
        rows, columns = (torch.arange(n, device=psi.device) for n in self.grid)
        colours = ((rows[:, None] + columns) % 2).flatten()
        self.cells = [torch.nonzero(colours == colour)[:, 0] for colour in (0, 1)]
        self.shared = psi.shape[1]
        height, width = self.grid
        place = torch.arange((height + 2) * (width + 2), device=psi.device).view(height + 2, -1)
        taps = [place[i : i + height, j : j + width] for i in range(3) for j in range(3)]
        self.taps = [torch.stack(taps).flatten(1)[:, cells].flatten() for cells in self.cells]
        self.totals = []
        for colour in (0, 1):
            first = [context[0] for context in networks.contexts[colour::2]]
            weight = torch.cat([conv.weight[:, : self.shared] for conv in first])
            bias = torch.cat([conv.bias for conv in first])
            sums = weight.flatten(1) @ self._patches(psi, colour) + bias[:, None]
            self.totals.append(list(sums.chunk(len(first), dim=1)))

    def know(self, number: int, colour: int, y_hat: torch.Tensor) -> None:
        """Take in slice `number` (N, channels, positions), of colour 0 or of both."""
        last = number + 1 == len(self.networks.slices)
        if colour and last:
            return
        y_hat = y_hat.unflatten(2, self.grid)
        own = self.networks.slices[number]
        begin, end = self.shared + own.start, self.shared + own.stop
        for c in (0, 1) if colour else (1,):
            later = range(number + 1, len(self.networks.slices)) if colour else (number,)
            first = [self.networks.contexts[2 * n + c][0].weight[:, begin:end] for n in later]
            sums = torch.cat(first).flatten(1) @ self._patches(y_hat, c)
            for n, added in zip(later, sums.chunk(len(first), dim=1)):
                self.totals[c][n] = self.totals[c][n] + added

    def _patches(self, x: torch.Tensor, colour: int) -> torch.Tensor:
        """(N, C, h, w) -> the nine neighbours of the cells of a colour, (N, C * 9, cells)."""
        padded = F.pad(x, (1, 1, 1, 1)).flatten(2)
        found = padded.index_select(2, self.taps[colour])
        return found.unflatten(2, (9, -1)).flatten(1, 2)


def _pointwise(conv: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A convolution with kernel 1 of (N, C, cells)."""
    return conv.weight.flatten(1) @ x + conv.bias[:, None]


def _coded(x, mean, raw_level, error_weight: float = math.inf) -> tuple[torch.Tensor, torch.Tensor]:
    """x (N, C, ...) as it decodes, and its bits (N,) of the entropy coder: those of integers, whose
    gradient is that of x itself. error_weight: as TemporalCoder.encode."""
    difference, scale = x - mean, scale_of(raw_level)
    symbol = torch.round(difference).detach()
    if error_weight < math.inf:
        with torch.no_grad():
            near, lower = symbol, symbol - symbol.sign()
            costs = [
                _bits(q.abs(), scale) + error_weight * (difference - q).square()
                for q in (near, lower)
            ]
            symbol = torch.where(costs[1] < costs[0], lower, near)
    decoded = mean + symbol
    bits = _bits((symbol + difference - difference.detach()).abs(), scale)
    return decoded, bits.expand(x.shape).flatten(1).sum(1)


def _bits(size: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Of a symbol by its absolute value."""
    share = _normal_cdf((0.5 - size) / scale) - _normal_cdf((-0.5 - size) / scale)
    return -torch.log2(_lower_bound(share, LEAST_SHARE))


def _normal_cdf(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * torch.erfc(-math.sqrt(0.5) * x)


def _gated(raw: torch.Tensor) -> torch.Tensor:
    """Clamped to 0..1, with a gradient that leads back from outside."""
    return 1.0 - _lower_bound(1.0 - _lower_bound(raw, 0.0), 0.0)


def _lower_bound(x: torch.Tensor, bound: float) -> torch.Tensor:
    return LowerBound(bound).to(x.device)(x)
