# SPDX-License-Identifier: BSD-3-Clause
"""How latents become bytes that every machine decodes alike: entropy coding by integer networks.

Whatever selects an entropy table or offsets a symbol is an integer: the EntropyNetworks of
networks.py run with integer weights on integer activations, and exactly (integer.py, contexts.py).
Means and decoded latents count 1/16, so y_hat = 16 q + mean is itself an input of the next network.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from vcm_plugin.entropy.contexts import IntegerContexts, checkerboard
from vcm_plugin.entropy.integer import (
    ACTIVATION_STEPS,
    ACTIVATIONS,
    LATENT_STEPS,
    integer_networks,
    integer_weights,
)
from vcm_plugin.entropy.networks import (
    LEVEL_GAIN,
    LEVEL_START,
    SCALE_LEVELS,
    SCALE_MIN,
    SCALE_STEP,
    EntropyNetworks,
)
from vcm_plugin.entropy.rans import PRECISION, SYMBOL_LIMIT, Decoder, Encoder, Tables
from vcm_plugin.entropy.symbols import ErrorWeight, by_cell, cheaper, symbol_costs
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.weights_file import halved

INTEGER = "integer."  # begins the names of integer weights in a weights file
TAIL = 2.0**-13  # probability beyond the entries of a table, left to the escape


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


def stored_tensors(model: nn.Module, whole: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """The tensors of the weights file of a learned codec: those of its networks as 16-bit floats
    but for vectors and those named in `whole`, its `entropy` networks as integers, the tables."""
    kept = {n: x for n, x in model.state_dict().items() if not n.startswith("entropy.")}
    integers = integer_weights(model.entropy)
    integer_networks(model.entropy, integers)  # proves that no sum can overflow
    tensors = halved(kept, whole) | {f"{INTEGER}{name}": x for name, x in integers.items()}
    return tensors | {"tables": torch.from_numpy(gaussian_tables().to_array())}


def load_stored(
    model: nn.Module, tensors: Mapping[str, torch.Tensor]
) -> tuple[LatentCoder, dict[str, torch.Tensor]]:
    """Load what `stored_tensors` made into a model; its coder, and the integer weights of that.

    The model's float entropy networks stay as they are. Raises InputError, LookupError,
    RuntimeError or TypeError where the tensors are not those of such a model.
    """
    floats, integers = split_stored(tensors)
    tables = Tables.from_array(floats.pop("tables").to(torch.int32).numpy())
    wanted = {name for name in model.state_dict() if not name.startswith("entropy.")}
    if set(floats) != wanted:
        raise InputError(f"{sorted(set(floats) ^ wanted)[0]} is missing or unknown")
    model.load_state_dict(floats, strict=False)
    return LatentCoder(integer_networks(model.entropy, integers), tables), integers


def split_stored(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What `stored_tensors` made -> the networks and the tables in 32-bit floats, and the integer
    weights of `entropy` by their names in it."""
    floats = {name: x.float() for name, x in tensors.items() if not name.startswith(INTEGER)}
    integers = {n.removeprefix(INTEGER): x for n, x in tensors.items() if n.startswith(INTEGER)}
    return floats, integers


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

    def first(self, channels: int) -> Latents:
        """z, and the first channels of y."""
        return Latents(self.z, self.y[:channels])

    def checksum(self) -> int:
        """CRC-32 over z, then y, as little-endian 32-bit integers."""
        return self.crc(0)

    def crc(self, start: int) -> int:
        """The CRC-32 that begins with `start` and goes on with these."""
        z, y = (x.astype("<i4").tobytes() for x in (self.z, self.y))
        return zlib.crc32(y, zlib.crc32(z, start))

    def require(self, checksum: int, name: str) -> None:
        """Raise BitstreamError unless these are the latents that a file states."""
        if self.checksum() != checksum:
            raise BitstreamError(
                f"the decoded {name} have the checksum {self.checksum():08x}, the file says "
                f"{checksum:08x}; it is damaged"
            )


class LatentCoder:
    """Latents <-> bytes, by the integer networks and the stored tables.

    conditioning: what the networks see beside the latents, integers in 1/256: one for the whole
    picture, or (1, conditioning, h, w) as their own class says.
    """

    def __init__(self, networks: EntropyNetworks, tables: Tables):
        if len(tables.rows) != SCALE_LEVELS:
            raise InputError(
                f"expected {SCALE_LEVELS} entropy tables in the weights, found {len(tables.rows)}"
            )
        self.networks, self.tables = networks, tables
        self.contexts = IntegerContexts(networks)

    def to(self, device: torch.device | str) -> LatentCoder:
        """Return self with its networks on another device."""
        self.networks.to(device)
        self.contexts.to(device)
        return self

    @cached_property
    def costs(self) -> np.ndarray:
        """Bits of a symbol of each level by its absolute value."""
        return symbol_costs(self.tables)

    def encode(
        self,
        z: torch.Tensor,
        y: torch.Tensor,
        conditioning: int | torch.Tensor,
        error_weight: ErrorWeight = math.inf,
    ) -> tuple[bytes, Latents]:
        """z and y (C, h, w), floats -> bytes, and the latents that they decode to.

        error_weight: bits that a squared error of 1 of y is worth, alike or in each cell (h, w).
        Where it is finite, a symbol is the nearest integer or the next one towards 0, whichever is
        cheaper in bits and error.
        """
        (data,), latents = self.encode_layers(z, y, conditioning, (len(y),), error_weight)
        return data, latents

    def encode_layers(
        self,
        z: torch.Tensor,
        y: torch.Tensor,
        conditioning: int | torch.Tensor,
        ends: Sequence[int],
        error_weight: ErrorWeight = math.inf,
    ) -> tuple[list[bytes], Latents]:
        """As `encode`, in layers that are bytes of their own: z is in the first one.

        ends: channels of y up to the end of each layer, each the end of a slice.
        """
        encoders = [Encoder(self.tables) for _ in ends]
        z, y = (x.double().cpu() for x in (z, y))
        order = checkerboard(tuple(y.shape[-2:]), self.device).order
        given = z.flatten(1).numpy(), y.flatten(1).numpy()[:, order]
        weights = by_cell(error_weight, order)

        def write(which: int, own, cells, mean: np.ndarray, level: np.ndarray) -> np.ndarray:
            residual = given[which][own, cells] - mean / LATENT_STEPS
            q = np.where(level > 0, np.rint(residual), 0)
            q = q.clip(-SYMBOL_LIMIT, SYMBOL_LIMIT).astype(np.int32)
            if which and weights is not None:
                q = cheaper(q, residual, level, weights[cells], self.costs)
            encoders[_layer_of(own, ends)].add(q, level)
            return q

        latents = self._walk(z.shape[-2:], y.shape[-2:], conditioning, write, ends[-1])
        return [encoder.finish() for encoder in encoders], latents

    def decode(
        self, data: bytes, grid: tuple[int, int], conditioning: int | torch.Tensor
    ) -> Latents:
        """Bytes -> latents; grid: (height, width) of y. Raises BitstreamError."""
        return self.decode_layers([data], grid, conditioning, (self.networks.slices[-1].stop,))

    def decode_layers(
        self,
        layers: Sequence[bytes],
        grid: tuple[int, int],
        conditioning: int | torch.Tensor,
        ends: Sequence[int],
    ) -> Latents:
        """The layers of `encode_layers`, all or the first ones -> z, and the channels of y that
        they hold. Raises BitstreamError."""
        decoders = [Decoder(self.tables, data) for data in layers]
        z_grid = (-(-grid[0] // 4), -(-grid[1] // 4))

        def read(which: int, own, cells, mean: np.ndarray, level: np.ndarray) -> np.ndarray:
            return decoders[_layer_of(own, ends)].take(level)

        latents = self._walk(z_grid, grid, conditioning, read, ends[len(layers) - 1])
        for decoder in decoders:
            decoder.finish()
        return latents

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.networks.contexts[0][0].weight.device

    @torch.inference_mode()
    def _walk(
        self, z_grid, grid, conditioning: int | torch.Tensor, transfer: Callable, end: int
    ) -> Latents:
        """Visit z and the passes of y up to channel `end` in coding order; `transfer` writes or
        reads the symbols."""
        networks, device = self.networks, self.device
        conditioning = torch.as_tensor(conditioning, dtype=torch.float64, device=device)
        conditioning = (conditioning if conditioning.ndim else conditioning.view(1, 1, 1, 1)).clamp(
            *ACTIVATIONS
        )
        of_z = [x[0].expand(-1, *z_grid).flatten(1) for x in networks.of_z(conditioning)]
        mean, level = rounded_outputs(*of_z)
        z = LATENT_STEPS * transfer(0, slice(None), slice(None), mean, level) + mean
        z = z.reshape(-1, *z_grid)
        sums = self.contexts.begin(networks.psi(activations(z, device)[None], conditioning, grid))
        order = sums.board.order
        y = np.empty((end, len(order)), np.int64)
        for number, own in enumerate(networks.slices):
            if own.stop > end:
                break
            for colour, cells in enumerate(sums.board.cells):
                mean, level = sums.of(number, colour)
                q = transfer(1, own, cells, mean, level)
                decoded = LATENT_STEPS * q + mean
                y[own, order[cells]] = decoded
                sums.know(number, colour, decoded)
        return Latents(z.astype(np.int64), y.reshape(-1, *grid))


def _layer_of(own: slice, ends: Sequence[int]) -> int:
    """The layer that holds these channels of y, or z where they are all."""
    return 0 if own.stop is None else next(k for k, end in enumerate(ends) if own.stop <= end)


def rounded_outputs(mean: torch.Tensor, raw_level: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of a network, in 1/256 -> means in 1/16 and levels, int32 of the same shape."""
    step = ACTIVATION_STEPS // LATENT_STEPS
    limit = SYMBOL_LIMIT * LATENT_STEPS
    mean = (mean.to(torch.int32) + step // 2) >> (step.bit_length() - 1)
    level = raw_level.to(torch.int32) * LEVEL_GAIN + ACTIVATION_STEPS // 2
    level = (level >> (ACTIVATION_STEPS.bit_length() - 1)) + LEVEL_START
    mean, level = mean.clamp_(-limit, limit), level.clamp_(0, SCALE_LEVELS - 1)
    return mean.cpu().numpy(), level.cpu().numpy()


def activations(latents: np.ndarray, device) -> torch.Tensor:
    """Integers in 1/16 -> integer-valued float64 of the same shape in 1/256."""
    step = ACTIVATION_STEPS // LATENT_STEPS
    return torch.from_numpy(latents).to(device, torch.float64) * step
