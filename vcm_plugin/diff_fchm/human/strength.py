# SPDX-License-Identifier: BSD-3-Clause
"""How strongly is a picture restored, and where? The encoder's choice, against the source.

The residual of the restorer is multiplied by strength / STEPS; with a map only in the blocks of
BLOCK x BLOCK pixels that it names. Strength 0 leaves the decoded picture as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vcm_plugin.errors import BitstreamError

BLOCK = 64  # pixels
STEPS = 12  # of the strength in one
MOST = 15


@dataclass(frozen=True)
class Strength:
    """value: 0 .. MOST. blocks: (rows, columns) bool, where it holds; None for everywhere."""

    value: int
    blocks: np.ndarray | None = None

    def map_bytes(self) -> bytes | None:
        """The map, a bit for each block, row by row; None without one."""
        return None if self.blocks is None else np.packbits(self.blocks.ravel()).tobytes()

    def gains(self, size: tuple[int, int]) -> np.ndarray | float:
        """What the residual (H, W, 3) is multiplied by."""
        gain = self.value / STEPS
        if self.blocks is None:
            return gain
        fine = self.blocks.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)
        return gain * fine[: size[0], : size[1], None]


def grid(size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the blocks of a picture of (height, width).

    >>> grid((256, 321))
    (4, 6)
    """
    return -(-size[0] // BLOCK), -(-size[1] // BLOCK)


def read_strength(value: int, data: bytes | None, size: tuple[int, int]) -> Strength:
    """The strength of a picture of this size; data: its map. Raises BitstreamError."""
    if data is None:
        return Strength(value)
    rows, columns = grid(size)
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).astype(bool)
    if len(data) != -(-rows * columns // 8) or bits[rows * columns :].any():
        raise BitstreamError(
            f"expected a map of {rows} x {columns} blocks for the auxiliary picture of {size}, "
            f"found {len(data)} bytes that are not: the file is damaged"
        )
    return Strength(value, bits[: rows * columns].reshape(rows, columns))


def choose_strength(
    source: np.ndarray, decoded: np.ndarray, residual: np.ndarray, bit_price: float
) -> Strength:
    """The strength with the least squared error; a map where that is worth its bits.

    source, decoded, residual: RGB (H, W, 3). bit_price: squared error that a bit is worth.
    """
    error = source - decoded
    along, power = _of_blocks(error * residual), _of_blocks(residual * residual)
    everywhere = _best(along.sum(), power.sum())
    chosen, gain = Strength(everywhere), _gain(along.sum(), power.sum(), everywhere)
    value = max(everywhere, STEPS // 2)
    for _ in range(3):
        blocks = _gain(along, power, value) > 0
        value = _best(along[blocks].sum(), power[blocks].sum())
    if value and not blocks.all():
        mapped = Strength(value, blocks)
        more = _gain(along[blocks].sum(), power[blocks].sum(), value) - gain
        if more > bit_price * 8 * (1 + len(mapped.map_bytes())):
            return mapped
    return chosen


def restore(decoded: np.ndarray, residual: np.ndarray, strength: Strength) -> np.ndarray:
    """The picture that a person sees, uint8 RGB (H, W, 3)."""
    if strength.value == 0:
        restored = decoded
    else:
        restored = decoded + strength.gains(decoded.shape[:2]) * residual
    return np.rint(restored).clip(0, 255).astype(np.uint8)


def _of_blocks(values: np.ndarray) -> np.ndarray:
    """Sums over each block and the three colours, (rows, columns)."""
    starts = [np.arange(0, n, BLOCK) for n in values.shape[:2]]
    return np.add.reduceat(np.add.reduceat(values.sum(axis=2), starts[0], 0), starts[1], 1)


def _best(along: float, power: float) -> int:
    return int(np.clip(np.rint(STEPS * along / power), 0, MOST)) if power > 0 else 0


def _gain(along, power, value: int):
    """How much less squared error there is with this strength."""
    return 2 * value / STEPS * along - (value / STEPS) ** 2 * power
