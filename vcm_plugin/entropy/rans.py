# SPDX-License-Identifier: BSD-3-Clause
"""How integers become bytes: a range asymmetric numeral system (rANS) over fixed integer tables.

The state is a Python integer, so nothing overflows, and no input can read outside the data: past
their end the state only shrinks. It starts at 0 instead of a full word (no byte is spent on it) and
must be back at 0 when the last symbol is read. A symbol q of table t is one of the entries
-K..K, K = (entries - 2) / 2, or the escape entry followed by 16 plain bits. Table 0 says q = 0 with
certainty and takes no bits.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from vcm_plugin.errors import BitstreamError

PRECISION = 15  # bits of a probability
LOWEST = 1 << 23  # a full state is at least this
SYMBOL_LIMIT = 2048  # |q| of a symbol


@dataclass(frozen=True)
class Tables:
    """Cumulative counts of each table: rows[t][i] .. rows[t][i + 1] of 2^15 belong to entry i.

    Raises BitstreamError where the rows are not such tables.
    """

    rows: tuple[tuple[int, ...], ...]

    def __post_init__(self):
        for number, row in enumerate(self.rows):
            rising = all(a < b for a, b in zip(row, row[1:], strict=False))
            if len(row) % 2 == 0 or not rising or row[0] != 0 or row[-1] != 1 << PRECISION:
                raise BitstreamError(
                    f"entropy table {number}: expected an even number of entries with counts above "
                    f"zero that add up to {1 << PRECISION}; is the weights file damaged?"
                )

    @classmethod
    def from_array(cls, joined: np.ndarray) -> Tables:
        """Tables from their rows one after the other; a row ends at 2^15."""
        ends = np.flatnonzero(joined == 1 << PRECISION) + 1
        return cls(tuple(tuple(row.tolist()) for row in np.split(joined, ends) if row.size))

    def to_array(self) -> np.ndarray:
        """The rows one after the other, int32."""
        return np.concatenate([np.array(row, np.int32) for row in self.rows])


class Encoder:
    """Collects symbols in coding order, then makes the bytes."""

    def __init__(self, tables: Tables):
        self.tables = tables
        self.steps: list[tuple[int, int]] = []  # (first count, number of counts)

    def add(self, symbols: np.ndarray, levels: np.ndarray) -> None:
        """Append integers, each by the table of its level; those of level 0 must be 0."""
        coded = levels > 0
        rows, steps = self.tables.rows, self.steps
        for q, level in zip(symbols[coded].tolist(), levels[coded].tolist()):
            row = rows[level]
            limit = (len(row) - 3) // 2
            if -limit <= q <= limit:
                entry = q + limit
                steps.append((row[entry], row[entry + 1] - row[entry]))
                continue
            steps.append((row[-2], row[-1] - row[-2]))
            plain = q + SYMBOL_LIMIT
            share = 1 << (PRECISION - 8)
            steps.append(((plain >> 8) * share, share))
            steps.append(((plain & 0xFF) * share, share))

    def finish(self) -> bytes:
        """The bytes of all symbols; the decoder reads them forwards."""
        state, emitted = 0, bytearray()
        for first, count in reversed(self.steps):
            limit = count << (31 - PRECISION)
            while state >= limit:
                emitted.append(state & 0xFF)
                state >>= 8
            quotient, rest = divmod(state, count)
            state = (quotient << PRECISION) + first + rest
        head = state.to_bytes((state.bit_length() + 7) // 8, "big")
        return head + bytes(reversed(emitted))


class Decoder:
    """Reads symbols in coding order."""

    def __init__(self, tables: Tables, data: bytes):
        self.tables, self.data = tables, data
        self.state, self.offset = 0, 0
        self._refill()

    def take(self, levels: np.ndarray) -> np.ndarray:
        """The next integers, one for each level; those of level 0 are 0."""
        symbols = np.zeros(levels.shape, np.int64)
        coded = levels > 0
        rows = self.tables.rows
        data, size, mask = self.data, len(self.data), (1 << PRECISION) - 1
        state, offset, found = self.state, self.offset, []
        for level in levels[coded].tolist():
            row = rows[level]
            slot = state & mask
            entry = bisect_right(row, slot) - 1
            first = row[entry]
            state = (row[entry + 1] - first) * (state >> PRECISION) + slot - first
            while state < LOWEST and offset < size:
                state = state << 8 | data[offset]
                offset += 1
            if entry == len(row) - 2:
                self.state, self.offset = state, offset
                found.append(self._escaped())
                state, offset = self.state, self.offset
            else:
                found.append(entry - (len(row) - 3) // 2)
        self.state, self.offset = state, offset
        symbols[coded] = found
        return symbols

    def finish(self) -> None:
        """Raise BitstreamError unless every bit was used."""
        if self.state != 0 or self.offset != len(self.data):
            raise BitstreamError(
                f"entropy-coded data: expected their end after the last symbol, found "
                f"{len(self.data) - self.offset} more bytes and a state of {self.state}; the file "
                "is damaged"
            )

    def _escaped(self) -> int:
        plain = 0
        for _ in range(2):
            slot = self.state & ((1 << PRECISION) - 1)
            byte = slot >> (PRECISION - 8)
            share = 1 << (PRECISION - 8)
            self.state = share * (self.state >> PRECISION) + slot - byte * share
            self._refill()
            plain = plain << 8 | byte
        if plain > 2 * SYMBOL_LIMIT:
            raise BitstreamError(
                f"entropy-coded data: expected a symbol of at most {SYMBOL_LIMIT}, found "
                f"{plain - SYMBOL_LIMIT}; the file is damaged"
            )
        return plain - SYMBOL_LIMIT

    def _refill(self) -> None:
        while self.state < LOWEST and self.offset < len(self.data):
            self.state = self.state << 8 | self.data[self.offset]
            self.offset += 1
