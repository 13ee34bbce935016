# SPDX-License-Identifier: BSD-3-Clause
"""How latents become bytes that every machine decodes alike: entropy coding by integer networks.

Whatever selects an entropy table or offsets a symbol is an integer: the EntropyNetworks of
networks.py run with integer weights on integer activations, held in float64 and multiplied by
unfold + matmul. Every partial sum stays below 2^53 (proven from the weights when they
are loaded), so it is exact in any order, on any device, with any number of threads.

Fixed point: activations count 1/256 and are clamped to +-2^20; weights count 2^-14; means and
decoded latents count 1/16, so y_hat = 16 q + mean is itself an input of the next network.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vcm_plugin.entropy.networks import (
    LEVEL_GAIN,
    LEVEL_START,
    SCALE_LEVELS,
    SCALE_MIN,
    SCALE_STEP,
    EntropyNetworks,
)
from vcm_plugin.entropy.rans import PRECISION, SYMBOL_LIMIT, Decoder, Encoder, Tables
from vcm_plugin.errors import BitstreamError, InputError

ACTIVATION_STEPS = 256  # in 1.0
ACTIVATION_LIMIT = 1 << 20
ACTIVATIONS = (-ACTIVATION_LIMIT, ACTIVATION_LIMIT)
WEIGHT_BITS = 14  # after the binary point
LATENT_STEPS = 16  # in 1.0
TAIL = 2.0**-13  # probability beyond the entries of a table, left to the escape


class IntegerConv(nn.Module):
    """A convolution of integers: weight (O, C, k, k) and bias (O,) hold int tensors.

    Input and output count 1/256. Raises InputError where a sum could pass 2^52.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        self.size = weight.shape[-1]
        self.register_buffer("weight", weight.flatten(1).double())
        self.register_buffer("bias", bias.double())
        largest = (self.weight.abs().sum(1) * ACTIVATION_LIMIT + self.bias.abs()).max().item()
        if not largest < 2.0**52:
            raise InputError(
                f"integer network: a sum of {largest:.3g} would not be exact; expected less than "
                "2^52: the weights file is damaged, or was trained with other networks"
            )
        self.largest_sum = int(largest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        columns = F.unfold(x, self.size, padding=self.size // 2)  # (N, C * k * k, h * w)
        total = self.weight @ columns + self.bias[:, None]
        scaled = torch.floor(total * 2.0**-WEIGHT_BITS + 0.5)
        return scaled.clamp(*ACTIVATIONS).unflatten(2, x.shape[-2:])


def integer_weights(networks: EntropyNetworks) -> dict[str, torch.Tensor]:
    """Trained networks -> the weights of their integer twins, as they are stored."""
    weights = {}
    for name, conv in networks.named_modules():
        if isinstance(conv, nn.Conv2d):
            scale = 2.0**WEIGHT_BITS
            weight = torch.round(conv.weight.detach().double().cpu() * scale)
            bias = torch.round(conv.bias.detach().double().cpu() * scale * ACTIVATION_STEPS)
            small = weight.abs().max() < 1 << 15
            weights[f"{name}.weight"] = weight.to(torch.int16 if small else torch.int32)
            weights[f"{name}.bias"] = bias.to(torch.int64)
    return weights


def integer_networks(
    networks: EntropyNetworks, weights: dict[str, torch.Tensor]
) -> EntropyNetworks:
    """The same graph with the convolutions of `weights`."""
    twins = copy.deepcopy(networks).requires_grad_(False)
    for name, conv in list(twins.named_modules()):
        if isinstance(conv, nn.Conv2d):
            weight, bias = (weights.get(f"{name}.{part}") for part in ("weight", "bias"))
            if weight is None or weight.shape != conv.weight.shape or bias.shape != conv.bias.shape:
                raise InputError(
                    f"integer network {name}: expected weights {tuple(conv.weight.shape)}, found "
                    f"{None if weight is None else tuple(weight.shape)}; the weights file does not "
                    "fit its own description"
                )
            parent = twins.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], IntegerConv(weight, bias))
    return twins


def gaussian_tables() -> Tables:
    """A table for every scale level; made once, at export, and stored with the weights."""
    rows = []
    for level in range(SCALE_LEVELS):
        sigma = SCALE_MIN * math.exp(SCALE_STEP * level)
        limit = 0
        while math.erfc((limit + 0.5) / sigma / math.sqrt(2)) > TAIL and limit < SYMBOL_LIMIT:
            limit += 1
        edges = [(k + 0.5) / sigma / math.sqrt(2) for k in range(-limit - 1, limit + 1)]
        shares = [(math.erf(b) - math.erf(a)) / 2 for a, b in zip(edges, edges[1:], strict=False)]
        rows.append(_counts([*shares, max(0.0, 1.0 - sum(shares))]))
    return Tables(tuple(rows))


def _counts(shares: list[float]) -> tuple[int, ...]:
    """Probabilities -> cumulative integer counts, each at least 1."""
    full = 1 << PRECISION
    counts = [max(1, round(share * full)) for share in shares]
    counts[int(np.argmax(counts))] += full - sum(counts)
    return tuple(int(n) for n in np.concatenate(([0], np.cumsum(counts))))


@dataclass(frozen=True)
class Latents:
    """Decoded z and y of a picture: int64 arrays (C, h, w) that count 1/16."""

    z: np.ndarray
    y: np.ndarray

    def checksum(self) -> int:
        """CRC-32 over z, then y, as little-endian 32-bit integers."""
        return zlib.crc32(
            self.y.astype("<i4").tobytes(), zlib.crc32(self.z.astype("<i4").tobytes())
        )

    def require(self, checksum: int, name: str) -> None:
        """Raise BitstreamError unless these are the latents that a file states."""
        if self.checksum() != checksum:
            raise BitstreamError(
                f"the decoded {name} have the checksum {self.checksum():08x}, the file says "
                f"{checksum:08x}; it is damaged"
            )


class LatentCoder:
    """Latents <-> bytes, by the integer networks and the stored tables.

    told: what the networks are told beside the latents, integers in 1/256: one for the whole
    picture, or (1, told, h, w) as their own class says.
    """

    def __init__(self, networks: EntropyNetworks, tables: Tables):
        if len(tables.rows) != SCALE_LEVELS:
            raise InputError(
                f"expected {SCALE_LEVELS} entropy tables in the weights, found {len(tables.rows)}"
            )
        self.networks, self.tables = networks, tables

    def encode(
        self, z: torch.Tensor, y: torch.Tensor, told: int | torch.Tensor
    ) -> tuple[bytes, Latents]:
        """z and y (C, h, w), floats -> bytes, and the latents that they decode to."""
        encoder = Encoder(self.tables)
        values = {"z": z.double().cpu().numpy(), "y": y.double().cpu().numpy()}

        def write(which: str, place, mean: np.ndarray, level: np.ndarray) -> np.ndarray:
            q = np.rint(values[which][place] - mean / LATENT_STEPS)
            q = np.where(level > 0, q, 0).clip(-SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int64)
            encoder.add(q, level)
            return q

        latents = self._walk(z.shape[-2:], y.shape[-2:], told, write)
        return encoder.finish(), latents

    def decode(self, data: bytes, grid: tuple[int, int], told: int | torch.Tensor) -> Latents:
        """Bytes -> latents; grid: (height, width) of y. Raises BitstreamError."""
        decoder = Decoder(self.tables, data)
        z_grid = (-(-grid[0] // 4), -(-grid[1] // 4))
        latents = self._walk(z_grid, grid, told, lambda _1, _2, _3, level: decoder.take(level))
        decoder.finish()
        return latents

    @torch.no_grad()
    def _walk(self, z_grid, grid, told: int | torch.Tensor, transfer: Callable) -> Latents:
        """Visit z and all passes of y in coding order; `transfer` writes or reads the symbols."""
        networks = self.networks
        device = networks.contexts[0][0].weight.device
        told = torch.as_tensor(told, dtype=torch.float64, device=device)
        told = (told if told.ndim else told.view(1, 1, 1, 1)).clamp(*ACTIVATIONS)
        everywhere = np.ones(z_grid, dtype=bool)
        mean, level = (
            np.broadcast_to(x, (*x.shape[:1], *z_grid))[:, everywhere]
            for x in _integers(*networks.of_z(told))
        )
        q = transfer("z", (slice(None), everywhere), mean, level)
        z = (LATENT_STEPS * q + mean).reshape(-1, *z_grid)
        psi = networks.psi(_activations(z, device), told, grid)
        y = np.zeros((sum(s.stop - s.start for s in networks.slices), *grid), np.int64)
        y_hat = _activations(y, device)
        for own, colour, mask in networks.passes(grid, device):
            mask = mask.bool().cpu().numpy()
            if not mask.any():
                continue
            mean, level = (x[:, mask] for x in _integers(*networks.of_y(psi, y_hat, own, colour)))
            q = transfer("y", (slice(own.start, own.stop), mask), mean, level)
            y[own, mask] = LATENT_STEPS * q + mean
            y_hat[0, own] = _activations(y[own], device)[0]
        return Latents(z, y)


def _integers(mean: torch.Tensor, raw_level: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of a network, in 1/256 -> means in 1/16 and levels, int64 (C, h, w)."""
    step = ACTIVATION_STEPS // LATENT_STEPS
    limit = SYMBOL_LIMIT * LATENT_STEPS
    mean = torch.floor((mean[0] + step // 2) / step).clamp(-limit, limit)
    level = (raw_level[0] * LEVEL_GAIN + ACTIVATION_STEPS // 2) / ACTIVATION_STEPS
    level = (torch.floor(level) + LEVEL_START).clamp(0, SCALE_LEVELS - 1)
    return mean.to(torch.int64).cpu().numpy(), level.to(torch.int64).cpu().numpy()


def _activations(latents: np.ndarray, device) -> torch.Tensor:
    """Integers in 1/16 -> integer-valued float64 (1, C, h, w) in 1/256."""
    step = ACTIVATION_STEPS // LATENT_STEPS
    return torch.from_numpy(latents * step).to(device, torch.float64)[None]
