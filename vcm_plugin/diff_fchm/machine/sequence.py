# SPDX-License-Identifier: BSD-3-Clause
"""How the frames of a sequence become intra and inter units, and latents again.

Within an intra period the range (m, M), s and so the steps of all latents are those of its intra
frame: what does not move has the same latents again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import torch

from vcm_plugin.bitstream import Header, MachinePayload, Unit, inter_check, write_unit
from vcm_plugin.diff_fchm.machine.inter import Earlier, InterNetworks
from vcm_plugin.diff_fchm.machine.layer import Analysed, MachineLayer
from vcm_plugin.entropy.latent_coder import LATENT_STEPS, Latents
from vcm_plugin.entropy.symbols import ErrorWeight
from vcm_plugin.errors import BitstreamError, InputError

if TYPE_CHECKING:
    from vcm_plugin.diff_fchm.machine.codec import MachineCodec

T = TypeVar("T")
# Bits that a squared error of 1 of y is worth to the encoder of an inter frame that does not know
# which cells matter (importance.py): about the slope of a uniform quantiser of step 1 at high rate,
# 6 / ln 2. Files of another weight decode alike.
ERROR_WEIGHT = 8.0


class InterEncoder:
    """Frames at one scale s -> units; an intra frame every `period` frames, and where it is
    smaller."""

    def __init__(self, codec: MachineCodec, s: float, period: int):
        self.codec, self.s, self.period = codec, s, period
        self.intra: MachineLayer | None = None  # the last intra frame
        self.intra_bytes = 0
        self.earlier: Earlier | None = None
        self.since = 0  # frames from it on
        self.shift = 0  # of scales, that suited the last inter frame

    def units(self, frames: Iterable[Analysed]) -> Iterator[tuple[Header, Unit]]:
        """The header and the unit of each frame."""
        for number, analysed in enumerate(frames):
            changed = self.intra is not None and analysed.header != self.intra.header
            if self.intra is None or self.since == self.period or changed:
                unit = self._intra(analysed, number)
            else:
                unit = self._smaller(analysed, number)
            self.since += 1
            yield analysed.header, unit

    def _smaller(self, analysed: Analysed, number: int) -> Unit:
        """An inter unit, unless it is as large as the last intra unit and an intra one smaller."""
        unit, latents = self._inter(analysed, number)
        if len(write_unit(unit)) >= self.intra_bytes:
            layer = self.codec.code_intra(analysed, self.s)
            other = Unit("machine", number, layer.payload.to_bytes())
            if len(write_unit(other)) <= len(write_unit(unit)):
                return self._begin(layer, other)
        self.earlier = self.earlier.then(latents)
        return unit

    def _intra(self, analysed: Analysed, number: int) -> Unit:
        layer = self.codec.code_intra(analysed, self.s)
        return self._begin(layer, Unit("machine", number, layer.payload.to_bytes()))

    def _begin(self, layer: MachineLayer, unit: Unit) -> Unit:
        """A new intra period."""
        self.intra, self.since, self.shift = layer, 0, 0
        self.intra_bytes = len(write_unit(unit))
        self.earlier = Earlier.intra(layer.latents)
        return unit

    @torch.inference_mode()
    def _inter(self, analysed: Analysed, number: int) -> tuple[Unit, Latents]:
        codec, inter = self.codec, self.codec.inter
        value_range, weights = self.intra.payload.value_range, ERROR_WEIGHT
        if codec.importance is not None:
            weights = codec.importance.error_weights(analysed.y)
        z, y = codec.latents_at(analysed, value_range)
        last = self.earlier.last
        data, latents, shift = inter.coder.encode(
            z, y, codec.octaves(value_range), last, self.earlier.before, weights, self.shift
        )
        gained = _error(y, last, weights) - _error(y, latents, weights)
        if gained <= 8 * len(data):  # the last frame again is the better bargain
            data, latents = b"", last
        else:
            self.shift = shift
        return Unit("inter", number, data, _check(inter, number, data, latents)), latents


class InterDecoder:
    """Units in order, the first of them intra -> latents."""

    def __init__(self, codec: MachineCodec):
        self.codec = codec
        self.earlier: Earlier | None = None
        self.payload: MachinePayload | None = None  # of the last intra frame

    def layer(self, header: Header, unit: Unit) -> MachineLayer:
        """The latents of the next unit, checked. Raises BitstreamError."""
        if unit.type == "machine":
            layer = self.codec.read_intra(header, unit.payload)
            self.earlier, self.payload = Earlier.intra(layer.latents), layer.payload
            return layer
        inter = self.codec.inter
        if inter is None:
            raise InputError(
                f"frame {unit.frame} is coded after others: expected inter weights, found none; "
                "name those that it was coded with in the key diff_fchm_inter_weights"
            )
        latents = self.earlier.last
        if unit.payload:
            octaves = self.codec.octaves(self.payload.value_range)
            latents = inter.coder.decode(unit.payload, octaves, latents, self.earlier.before)
        if _check(inter, unit.frame, unit.payload, latents) != unit.check:
            raise BitstreamError(
                "the inter unit and the latents that it decodes to do not have the CRC-32 that the "
                "file says; it is damaged, or was coded with other inter weights than "
                f"{inter.weights_id:08x}"
            )
        self.earlier = self.earlier.then(latents)
        payload = replace(self.payload, checksum=latents.checksum(), data=unit.payload)
        return MachineLayer(header, payload, latents)


def _error(y: torch.Tensor, latents: Latents, weights: ErrorWeight) -> float:
    """Squared error of y (C, h, w) as it decodes, in the bits that it is worth."""
    decoded = torch.from_numpy(latents.y).to(y) / LATENT_STEPS
    return ((y - decoded).square() * torch.as_tensor(weights).to(y)).sum().item()


def last_of(items: Iterable[T]) -> T:
    """The last of some items; the others are not kept."""
    return deque(items, maxlen=1)[0]


def _check(inter: InterNetworks, frame: int, payload: bytes, latents: Latents) -> int:
    return inter_check(inter.weights_id, frame, payload, latents.crc)
