# SPDX-License-Identifier: BSD-3-Clause
"""How the latents of a frame become bytes, given those of the two frames before: integers only.

As latent_coder.py, with the networks of temporal.py. The gate counts 1/256, and

    mean + (gate * (P - mean) + 128 >> 8),    all but the gate in 1/16,

is exact on every machine like everything that selects a table or an offset.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from vcm_plugin.entropy.contexts import IntegerContexts, checkerboard
from vcm_plugin.entropy.earlier import EarlierFrames, bounded
from vcm_plugin.entropy.integer import (
    ACTIVATIONS,
    LATENT_STEPS,
    WEIGHT_BITS,
)
from vcm_plugin.entropy.latent_coder import Latents, activations, rounded_outputs
from vcm_plugin.entropy.networks import SCALE_LEVELS
from vcm_plugin.entropy.rans import SYMBOL_LIMIT, Decoder, Encoder, Tables
from vcm_plugin.entropy.symbols import ErrorWeight, by_cell, cheaper, symbol_costs
from vcm_plugin.entropy.temporal import TemporalNetworks
from vcm_plugin.errors import BitstreamError

GATE_BITS = 8
SHIFTS = range(-8, SCALE_LEVELS)  # of levels


class TemporalCoder:
    """Latents of a frame <-> bytes, from those of the last frame and of the one before it."""

    def __init__(self, networks: TemporalNetworks, tables: Tables):
        self.networks, self.tables = networks, tables
        self.contexts = GatedContexts(networks)
        self.earlier = EarlierFrames(networks)
        self.costs = symbol_costs(tables)
        levels = np.arange(len(self.costs))
        self.shifted_costs = np.stack([self.costs[shifted(levels, n)] for n in SHIFTS])

    def to(self, device: torch.device | str) -> TemporalCoder:
        """Return self with its networks on another device."""
        self.networks.to(device)
        self.contexts.to(device)
        self.earlier.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.networks.contexts[0][0].weight.device

    def encode(
        self,
        z: torch.Tensor,
        y: torch.Tensor,
        octaves: int,
        last: Latents,
        before: Latents,
        error_weight: ErrorWeight = math.inf,
        shift: int = 0,
    ) -> tuple[bytes, Latents, int]:
        """z and y (C, h, w), floats, octaves in 1/256 -> bytes, what they decode to, and the shift
        that would have suited them best.

        error_weight: bits that a squared error of 1 of y is worth, alike or in each cell (h, w).
        Where it is finite, a symbol is the nearest integer or the next one towards 0, whichever is
        cheaper in bits and error.
        shift: levels that all scales of y are smaller than the networks say; it is in the bytes.
        """
        encoder = Encoder(self.tables)
        kinds = []  # of the symbols of y: level and absolute value
        levels, entries = _shifted_levels(shift), self.costs.shape[1]
        order = checkerboard(tuple(y.shape[-2:]), self.device).order
        z, y = (x.double().cpu().flatten(1).numpy() for x in (z, y))
        given, weights = (z, y[:, order]), by_cell(error_weight, order)

        def write(which: int, own, cells, mean: np.ndarray, level: np.ndarray) -> np.ndarray:
            coded, q = np.flatnonzero(level), np.zeros(level.size, np.int32)
            residual = given[which][own, cells].ravel()[coded] - mean.ravel()[coded] / LATENT_STEPS
            nearest = np.rint(residual).clip(-SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int32)
            own_level = level.ravel()[coded]
            if which:
                used = levels[own_level]
                if weights is not None:
                    each = np.broadcast_to(weights[cells], level.shape).ravel()[coded]
                    nearest = cheaper(nearest, residual, used, each, self.costs)
                kinds.append(own_level * entries + np.minimum(np.abs(nearest), entries - 1))
                own_level = used
            encoder.add(nearest, own_level)
            q[coded] = nearest
            return q.reshape(level.shape)

        latents = self._walk(octaves, last, before, write)
        data = bytes([shift - SHIFTS.start]) + encoder.finish()
        return data, latents, self._best_shift(np.concatenate(kinds))

    def decode(self, data: bytes, octaves: int, last: Latents, before: Latents) -> Latents:
        """Bytes -> latents. Raises BitstreamError."""
        if data[0] >= len(SHIFTS):
            raise BitstreamError(
                f"expected a shift of scales from 0 to {len(SHIFTS) - 1}, found {data[0]}; the "
                "file is damaged"
            )
        decoder, levels = Decoder(self.tables, data[1:]), _shifted_levels(SHIFTS[data[0]])
        latents = self._walk(
            octaves, last, before,
            lambda which, _2, _3, _4, level: decoder.take(levels[level] if which else level),
        )  # fmt: skip
        decoder.finish()
        return latents

    def _best_shift(self, kinds: np.ndarray) -> int:
        """The shift at which symbols take the least bits; kinds: their places in `costs`."""
        count = np.bincount(kinds, minlength=1)
        some = np.flatnonzero(count)
        costs = self.shifted_costs.reshape(len(SHIFTS), -1)[:, some]
        return SHIFTS[int(np.argmin(costs @ count[some].astype(np.float64)))]

    @torch.inference_mode()
    def _walk(self, octaves: int, last: Latents, before: Latents, transfer: Callable) -> Latents:
        """Visit z and all passes of y in coding order; `transfer` writes or reads the symbols."""
        networks, grid = self.networks, last.y.shape[1:]
        conditioning = torch.full((1, 1, 1, 1), float(octaves), dtype=torch.float64)
        conditioning = conditioning.clamp(*ACTIVATIONS).to(self.device)
        z = self._z(conditioning, last.z, transfer)
        features, predicted = self.earlier(last.y, before.y, conditioning)
        psi = networks.psi(activations(z, self.device)[None], conditioning, grid)
        sums = self.contexts.begin(torch.cat((psi, features), dim=1))
        order = sums.board.order
        predicted = predicted.take(order, axis=1)
        y = np.empty(predicted.shape, np.int64)
        for number, own in enumerate(networks.slices):
            for colour, cells in enumerate(sums.board.cells):
                mean, level, gate = sums.of(number, colour)
                mean = gated(mean, gate, predicted[own, cells])
                decoded = LATENT_STEPS * transfer(1, own, cells, mean, level) + mean
                y[own, order[cells]] = decoded
                sums.know(number, colour, decoded)
        return Latents(z.astype(np.int64), y.reshape(-1, *grid))

    def _z(self, conditioning: torch.Tensor, last: np.ndarray, transfer: Callable) -> np.ndarray:
        known = activations(last, self.device)[None].clamp(*ACTIVATIONS)
        mean, level, gate = (x[0] for x in self.networks.of_z_after(known, conditioning))
        mean, level = rounded_outputs(mean, level)
        gate = gate.clamp(0, 1 << GATE_BITS).to(torch.int32).cpu().numpy()
        mean = gated(mean, gate, bounded(last)).reshape(len(last), -1)
        z = transfer(0, slice(None), slice(None), mean, level.reshape(mean.shape))
        return (LATENT_STEPS * z + mean).reshape(last.shape)


class GatedContexts(IntegerContexts):
    """The contexts of integer TemporalNetworks; a pass says means, levels and gates in 1/256."""

    def __init__(self, networks: TemporalNetworks):
        super().__init__(networks)
        fixed = 2.0**-WEIGHT_BITS  # as integer.settled does
        for number, gate in enumerate(networks.gates):
            bias = gate.bias[:, None] * fixed + 0.5
            for name, more in (("last", gate.weight * fixed), ("last_bias", bias)):
                whole = torch.cat((self.get_buffer(f"{name}{number}"), more))
                self.register_buffer(f"{name}{number}", whole)
        ends = torch.tensor([0, 1 << GATE_BITS], dtype=torch.float64).view(2, 1, 1, 1)
        self.register_buffer("limits", torch.cat((self.limits, ends), dim=1))


def shifted(level: np.ndarray, shift: int) -> np.ndarray:
    """Levels of smaller scales; one that says 0 with certainty stays, and no other becomes it.

    >>> shifted(np.array([0, 3, 20]), 5).tolist(), shifted(np.array([0, 46]), -8).tolist()
    ([0, 1, 15], [0, 47])
    """
    return np.where(level > 0, np.clip(level - shift, 1, SCALE_LEVELS - 1), 0)


def gated(mean: np.ndarray, gate: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """mean, and predicted where the gate is open; int32, in 1/16, gate in 1/256.

    >>> gated(np.int32(16), np.int32(256), np.int32(-5)), gated(np.int32(16), 0, np.int32(-5))
    (-5, 16)
    """
    half = 1 << GATE_BITS - 1
    return mean + (gate * (predicted - mean) + half >> GATE_BITS)


def _shifted_levels(shift: int) -> np.ndarray:
    """What each level becomes, int32."""
    return shifted(np.arange(SCALE_LEVELS, dtype=np.int32), shift).astype(np.int32)
