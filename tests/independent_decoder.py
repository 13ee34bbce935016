# SPDX-License-Identifier: BSD-3-Clause
"""A second decoder, written from docs/bitstream.md and docs/decoding.md alone: numpy, no torch.

    python tests/independent_decoder.py WEIGHTS FILE.fcm

prints the checksum of the latents of each machine unit, and whether the file states the same.
"""

import json
import struct
import sys
import zlib

import numpy as np

ESCAPE_OFFSET = 2048
LIMIT = 1 << 20


class Reader:
    """Elements of a structure, from a byte position on."""

    def __init__(self, data: bytes, at: int = 0):
        self.data, self.at, self.bits, self.left = data, at, 0, 0

    def u(self, n: int) -> int:
        while self.left < n:
            self.bits = self.bits << 8 | self.data[self.at]
            self.at, self.left = self.at + 1, self.left + 8
        self.left -= n
        value = self.bits >> self.left
        self.bits &= (1 << self.left) - 1
        return value

    def leb128(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.u(8)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def float16(self) -> float:
        return struct.unpack(">e", self.u(16).to_bytes(2, "big"))[0]

    def take(self, n: int) -> bytes:
        self.at += n
        return self.data[self.at - n : self.at]

    def check(self, start: int) -> None:
        """The CRC-32 of the structure that began at `start`."""
        computed = zlib.crc32(self.data[start : self.at])
        assert self.u(32) == computed, "CRC-32 of a structure"


def read_header(reader: Reader) -> tuple[int, int]:
    """The grid of p4 of a file of profile diff_fchm."""
    assert reader.u(24) == 0x46434D and reader.u(8) == 1
    profile, split_point = reader.u(4), reader.u(4)
    assert profile == 1 and split_point == 1
    picture, weights, detector, own_grid = (reader.u(1) for _ in range(4))
    counts, exact = reader.u(3), reader.u(1)
    assert not exact
    _source = reader.leb128(), reader.leb128()
    size = reader.leb128(), reader.leb128()
    if not picture:
        _frames, _rate = reader.leb128(), (reader.leb128(), reader.leb128())
    _ids = [reader.u(32) for flag in (weights, detector) if flag]
    first = [-(-n // 32) * 32 // 4 for n in size]
    if own_grid:
        first = [reader.leb128(), reader.leb128()]
    for _ in range(counts):
        reader.leb128()
    reader.check(0)
    return -(-first[0] * 4 // 16), -(-first[1] * 4 // 16)


def machine_units(data: bytes):
    """(grid of p4, payload) of every machine unit."""
    reader = Reader(data)
    grid = read_header(reader)
    while reader.at < len(data):
        start = reader.at
        kind, _frame, length = reader.u(8), reader.leb128(), reader.leb128()
        payload = reader.take(length)
        reader.check(start)
        if kind == 1:
            yield grid, payload


def read_weights(path) -> tuple[dict, dict]:
    """Tensors and description of a weights file."""
    data = open(path, "rb").read()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    described = json.loads(header.pop("__metadata__")["vfcn"])
    types = {"I16": "<i2", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4"}
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + n for n in entry["data_offsets"])
        x = np.frombuffer(data[begin:end], types[entry["dtype"]])
        tensors[name] = x.reshape(entry["shape"])
    return tensors, described


class Networks:
    """The integer networks and tables of a weights file."""

    def __init__(self, path):
        self.tensors, described = read_weights(path)
        self.slices = described["config"]["slices"]
        self.hyper = described["config"]["hyper_latents"]
        joined = self.tensors["tables"]
        ends = np.flatnonzero(joined == 1 << 15) + 1
        self.tables = [row for row in np.split(joined.astype(np.int64), ends) if len(row)]
        self.typical = log2_code(0.0, float(self.tensors["typical_width"]))

    def conv(self, name: str, x: np.ndarray) -> np.ndarray:
        """Integers (C, h, w) -> (O, h, w)."""
        weight = self.tensors[f"integer.{name}.weight"].astype(np.int64)
        bias = self.tensors[f"integer.{name}.bias"].astype(np.int64)
        k, (_, height, width) = weight.shape[2], x.shape
        x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
        total = np.broadcast_to(bias[:, None, None], (len(bias), height, width)).copy()
        for i in range(k):
            for j in range(k):
                seen = x[:, i : i + height, j : j + width]
                total += np.einsum("oc,chw->ohw", weight[:, :, i, j], seen)
        return np.clip((total + (1 << 13)) >> 14, -LIMIT, LIMIT)


class RangeDecoder:
    """Symbols of the entropy-coded data."""

    def __init__(self, data: bytes, tables):
        self.data, self.tables, self.state, self.at = data, tables, 0, 0
        self.refill()

    def refill(self) -> None:
        while self.state < 1 << 23 and self.at < len(self.data):
            self.state = self.state << 8 | self.data[self.at]
            self.at += 1

    def step(self, first: int, count: int) -> None:
        self.state = count * (self.state >> 15) + (self.state & 32767) - first
        self.refill()

    def symbol(self, level: int) -> int:
        row = self.tables[level]
        entry = int(np.searchsorted(row, self.state & 32767, side="right")) - 1
        self.step(int(row[entry]), int(row[entry + 1] - row[entry]))
        if entry < len(row) - 2:
            return entry - (len(row) - 3) // 2
        plain = 0
        for _ in range(2):
            byte = (self.state & 32767) >> 7
            self.step(byte << 7, 1 << 7)
            plain = plain << 8 | byte
        return plain - ESCAPE_OFFSET

    def take(self, levels: np.ndarray) -> np.ndarray:
        found = [self.symbol(level) if level else 0 for level in levels.ravel().tolist()]
        return np.array(found, np.int64).reshape(levels.shape)


def log2_code(low: float, high: float) -> int:
    return struct.unpack(">I", struct.pack(">f", high - low))[0] >> 15


def halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of a network -> means in 1/16, levels."""
    mean, raw = np.split(x, 2)
    mean = np.clip((mean + 8) >> 4, -2048 * 16, 2048 * 16)
    return mean, np.clip(((raw * 8 + 128) >> 8) + 16, 0, 47)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def twice(x: np.ndarray) -> np.ndarray:
    return x.repeat(2, axis=1).repeat(2, axis=2)


def decode_latents(networks: Networks, payload: bytes, grid) -> tuple[int, int]:
    """(checksum computed, checksum stated) of a machine unit's payload."""
    reader = Reader(payload)
    low, high, _s = reader.float16(), reader.float16(), reader.float16()
    stated = reader.u(32)
    coder = RangeDecoder(payload[reader.at :], networks.tables)
    octaves = log2_code(low, high) - networks.typical
    conditioning = np.clip(np.full((1, 1, 1), octaves), -LIMIT, LIMIT)

    mean, level = halves(networks.conv("prior.2", relu(networks.conv("prior.0", conditioning))))
    shape = (networks.hyper, -(-grid[0] // 4), -(-grid[1] // 4))
    mean, level = np.broadcast_to(mean, shape), np.broadcast_to(level, shape)
    z = 16 * coder.take(level) + mean

    x = np.concatenate((16 * z, np.broadcast_to(conditioning, (1, *shape[1:]))))
    x = relu(networks.conv("h_s.0", x))
    x = relu(networks.conv("h_s.3", twice(x)))
    psi = relu(networks.conv("h_s.6", twice(x)))[:, : grid[0], : grid[1]]

    y = np.zeros((sum(networks.slices), *grid), np.int64)
    row, column = np.indices(grid)
    start = 0
    for number, count in enumerate(networks.slices):
        for colour in (0, 1):
            name, known = f"contexts.{2 * number + colour}", start + count * colour
            x = np.concatenate((psi, 16 * y[:known]))
            mean, level = halves(networks.conv(f"{name}.2", relu(networks.conv(f"{name}.0", x))))
            mine = (row + column) % 2 == colour
            y[start : start + count, mine] = 16 * coder.take(level[:, mine]) + mean[:, mine]
        start += count
    assert coder.state == 0 and coder.at == len(coder.data), "the data end with the last symbol"
    return zlib.crc32(y.astype("<i4").tobytes(), zlib.crc32(z.astype("<i4").tobytes())), stated


def main() -> None:
    networks = Networks(sys.argv[1])
    for number, (grid, payload) in enumerate(machine_units(open(sys.argv[2], "rb").read())):
        computed, stated = decode_latents(networks, payload, grid)
        print(f"machine unit {number}: {computed:08x}, {'as' if computed == stated else 'not'} "
              f"the file states")  # fmt: skip


if __name__ == "__main__":
    main()
