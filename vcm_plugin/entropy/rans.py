# SPDX-License-Identifier: BSD-3-Clause
"""How integers become bytes: a range asymmetric numeral system (rANS) over fixed integer tables.

The state stays below 2^31, so nothing overflows, and no input can read outside the data: past
their end the state only shrinks. It starts at 0 instead of a full word (no byte is spent on it) and
must be back at 0 when the last symbol is read. A symbol q of table t is one of the entries
-K..K, K = (entries - 2) / 2, or the escape entry followed by 16 plain bits. Table 0 says q = 0 with
certainty and takes no bits. No library's coder: compressai's reads past the end of a cut file, and
constriction makes its tables of floats and writes whole words of 32 bits.

Two loops, `_write` and `_read`, do the work. numba compiles them, once per installation; compiled
they are some forty times as fast. Where numba cannot be imported they run as they stand, and so
they do for the first symbols of every process, as long as that takes less than importing numba.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from vcm_plugin.errors import BitstreamError

PRECISION = 15  # bits of a probability
LOWEST = 1 << 23  # a full state is at least this
SYMBOL_LIMIT = 2048  # |q| of a symbol
BUCKET_BITS = 7  # slots that one entry of Tables.buckets stands for, as a power of two
PATIENCE = 200_000  # symbols that a process codes before it imports numba


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

    @cached_property
    def counts(self) -> np.ndarray:
        """The rows one after the other, int32."""
        return self.to_array()

    @cached_property
    def starts(self) -> np.ndarray:
        """Where in `counts` the row of each table begins, and the end of the last, int32."""
        return np.cumsum([0, *map(len, self.rows)]).astype(np.int32)

    @cached_property
    def buckets(self) -> np.ndarray:
        """Where in `counts` the entry lies that holds the first slot of each bucket, int32."""
        slots = np.arange(0, 1 << PRECISION, 1 << BUCKET_BITS)
        found = [np.searchsorted(row, slots, side="right") - 1 for row in self.rows]
        return np.concatenate([x + start for x, start in zip(found, self.starts)]).astype(np.int32)

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
        self.symbols: list[np.ndarray] = []
        self.levels: list[np.ndarray] = []

    def add(self, symbols: np.ndarray, levels: np.ndarray) -> None:
        """Append integers, each by the table of its level; those of level 0 must be 0."""
        coded = levels > 0
        self.symbols.append(symbols[coded].astype(np.int32))
        self.levels.append(levels[coded].astype(np.int32))

    def finish(self) -> bytes:
        """The bytes of all symbols; the decoder reads them forwards."""
        none = np.zeros(0, np.int32)
        symbols, levels = (np.concatenate((none, *x)) for x in (self.symbols, self.levels))
        size = 4 * symbols.size  # of 31 bits each, an escape with the 16 bits after it
        if _compiles(symbols.size):
            data = np.empty(size, np.uint8)
            write, counts, starts = _compiled()[0], self.tables.counts, self.tables.starts
        else:
            data = bytearray(size)
            write, counts, starts = _write, self.tables.counts.tolist(), self.tables.starts.tolist()
            symbols, levels = symbols.tolist(), levels.tolist()
        state, begin = write(symbols, levels, counts, starts, data)
        state, begin = int(state), int(begin)
        return state.to_bytes((state.bit_length() + 7) // 8, "big") + bytes(data[begin:])


class Decoder:
    """Reads symbols in coding order."""

    def __init__(self, tables: Tables, data: bytes):
        self.tables, self.data = tables, data
        self.state, self.offset = 0, 0
        while self.state < LOWEST and self.offset < len(data):
            self.state = self.state << 8 | data[self.offset]
            self.offset += 1

    def take(self, levels: np.ndarray) -> np.ndarray:
        """The next integers, int32, one for each level; those of level 0 are 0."""
        symbols, coded = np.zeros(levels.shape, np.int32), levels > 0
        wanted = levels[coded].astype(np.int32)
        tables, data = self.tables, self.data
        if _compiles(wanted.size):
            read, taken = _compiled()[1], np.zeros(wanted.size, np.int32)
            data = np.frombuffer(data, np.uint8)
            tabled = (tables.counts, tables.starts, tables.buckets)
        else:
            read, taken, wanted = _read, [0] * wanted.size, wanted.tolist()
            tabled = [x.tolist() for x in (tables.counts, tables.starts, tables.buckets)]
        state, offset, wrong = read(wanted, *tabled, data, self.state, self.offset, taken)
        if wrong:
            raise BitstreamError(
                f"entropy-coded data: expected a symbol of at most {SYMBOL_LIMIT}, found "
                f"{wrong}; the file is damaged"
            )
        self.state, self.offset = int(state), int(offset)
        symbols[coded] = taken
        return symbols

    def finish(self) -> None:
        """Raise BitstreamError unless every bit was used."""
        if self.state != 0 or self.offset != len(self.data):
            raise BitstreamError(
                f"entropy-coded data: expected their end after the last symbol, found "
                f"{len(self.data) - self.offset} more bytes and a state of {self.state}; the file "
                "is damaged"
            )


def _write(symbols, levels, counts, starts, data):
    """Code all symbols, last one first, into `data` from its end: the state, first byte used."""
    state, at = 0, len(data)
    for n in range(len(symbols) - 1, -1, -1):
        first = starts[levels[n]]
        escape = starts[levels[n] + 1] - 2
        limit = (escape - first - 1) // 2
        entry = symbols[n] + limit + first
        if not -limit <= symbols[n] <= limit:
            entry = escape
            plain = symbols[n] + SYMBOL_LIMIT
            for byte in (plain & 0xFF, plain >> 8):
                share = 1 << (PRECISION - 8)
                state, at = _push(state, byte * share, share, data, at)
        state, at = _push(state, counts[entry], counts[entry + 1] - counts[entry], data, at)
    return state, at


def _push(state, first, count, data, at):
    """The state after one step of coding, and where in `data` its bytes now begin."""
    while state >= count << (31 - PRECISION):
        at -= 1
        data[at] = state & 0xFF
        state >>= 8
    return ((state // count) << PRECISION) + first + state % count, at


def _read(levels, counts, starts, buckets, data, state, offset, symbols):
    """Decode one symbol for each level: the state, the offset, and a symbol too large or 0."""
    for n in range(len(levels)):
        start = starts[levels[n]]
        escape = starts[levels[n] + 1] - 2
        slot = state & ((1 << PRECISION) - 1)
        entry = buckets[(levels[n] << (PRECISION - BUCKET_BITS)) + (slot >> BUCKET_BITS)]
        while counts[entry + 1] <= slot:
            entry += 1
        first = counts[entry]
        state, offset = _pull(state, first, counts[entry + 1] - first, data, offset)
        symbols[n] = entry - start - (escape - start - 1) // 2
        if entry == escape:
            plain = 0
            for _ in range(2):
                share = 1 << (PRECISION - 8)
                byte = (state & ((1 << PRECISION) - 1)) // share
                state, offset = _pull(state, byte * share, share, data, offset)
                plain = (plain << 8) + byte
            symbols[n] = plain - SYMBOL_LIMIT
            if plain > 2 * SYMBOL_LIMIT:
                return state, offset, plain - SYMBOL_LIMIT
    return state, offset, 0


def _pull(state, first, count, data, offset):
    """The state before one step of coding, and where in `data` its bytes now begin."""
    state = count * (state >> PRECISION) + (state & ((1 << PRECISION) - 1)) - first
    while state < LOWEST and offset < len(data):
        state = (state << 8) + data[offset]
        offset += 1
    return state, offset


_coded = 0  # symbols, by this process


def _compiles(count: int) -> bool:
    """Whether the compiled loops take the next `count` symbols."""
    global _coded
    _coded += count
    return _coded > PATIENCE and _compiled() is not None


@cache
def _compiled() -> tuple[Callable, Callable] | None:
    """_write and _read, compiled; None where numba is not installed or does not run here."""
    try:
        from numba import njit
        from numba.extending import register_jitable
    except ImportError:
        return None
    for step in (_push, _pull):
        register_jitable(step)
    try:
        return tuple(njit(loop, cache=True, error_model="numpy") for loop in (_write, _read))
    except RuntimeError:  # no folder for the cache can be written to
        return tuple(njit(loop, error_model="numpy") for loop in (_write, _read))
