# SPDX-License-Identifier: BSD-3-Clause
"""A second decoder, written from docs/bitstream.md and docs/decoding.md alone: numpy, no torch.

    python tests/independent_decoder.py FILE.fcm WEIGHTS [INTER_WEIGHTS]

prints the checksum of the latents of each frame, and whether the file states the same. `synthesise`
makes features of the latents.
"""

import hashlib
import json
import math
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MACHINE, INTER, LATENTS, LEARNED_PICTURE = 1, 5, 6, 9  # unit types
PICTURE = (4, 0)  # profile and split point of a picture
ESCAPE_OFFSET = 2048
LIMIT = 1 << 20
LATENT_LIMIT = 2048 * 16


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


def read_header(reader: Reader) -> tuple[tuple[int, int], tuple[int, int]]:
    """The grids of y: of p4 in a file of profile diff_fchm, and of 16 x 16 blocks of the picture,
    which is both in a picture's file."""
    assert reader.u(24) == 0x46434D and reader.u(8) == 1
    kind = reader.u(4), reader.u(4)
    assert kind in ((1, 1), PICTURE)
    picture, weights, detector, own_grid = (reader.u(1) for _ in range(4))
    counts, exact = reader.u(3), reader.u(1)
    assert not exact
    source = reader.leb128(), reader.leb128()
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
    blocks = -(-source[0] // 16), -(-source[1] // 16)
    if kind == PICTURE:
        return blocks, blocks
    return (-(-first[0] * 4 // 16), -(-first[1] * 4 // 16)), blocks


@dataclass
class Unit:
    """A unit that carries latents; head: its bytes up to the end of the payload."""

    kind: int
    frame: int
    payload: bytes
    head: bytes
    check: int


def latent_units(data: bytes):
    """The grids of y, and the units that carry latents, in order."""
    reader, units = Reader(data), []
    grids = read_header(reader)
    while reader.at < len(data):
        start, frame = reader.at, None
        kind = reader.u(8)
        if kind != INTER:
            frame = reader.leb128()
        payload = reader.take(reader.leb128())
        head = data[start : reader.at]
        check = reader.u(32)
        if kind == INTER:
            frame = units[-1].frame + 1
        else:
            assert check == zlib.crc32(head), "CRC-32 of a unit"
        if kind in (MACHINE, INTER, LATENTS, LEARNED_PICTURE):
            units.append(Unit(kind, frame, payload, head, check))
    return grids, units


def read_weights(path) -> tuple[dict, dict]:
    """Tensors and description of a weights file."""
    data = Path(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__")
    described = json.loads(next(metadata[k] for k in ("vfcn", "inter", "picture") if k in metadata))
    types = {"I16": "<i2", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4"}
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + n for n in entry["data_offsets"])
        x = np.frombuffer(data[begin:end], types[entry["dtype"]])
        tensors[name] = x.reshape(entry["shape"])
    return tensors, described


class Networks:
    """The integer networks of a weights file: of single frames, or of frames after others."""

    def __init__(self, path):
        tensors, described = read_weights(path)
        self.tensors = {name.removeprefix("integer."): x for name, x in tensors.items()}
        self.slices = described["config"]["slices"]
        self.hyper = described["config"]["hyper_latents"]
        self.weights_id = int(hashlib.sha256(Path(path).read_bytes()).hexdigest()[:8], 16)

    def tables(self) -> list[np.ndarray]:
        joined = self.tensors["tables"]
        ends = np.flatnonzero(joined == 1 << 15) + 1
        return [row for row in np.split(joined.astype(np.int64), ends) if len(row)]

    def typical(self) -> int:
        return log2_code(0.0, float(self.tensors["typical_width"]))

    def conv(self, name: str, x: np.ndarray) -> np.ndarray:
        """Integers (C, h, w) -> (O, h, w)."""
        weight = self.tensors[f"{name}.weight"].astype(np.int64)
        bias = self.tensors[f"{name}.bias"].astype(np.int64)
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


def rounded(mean: np.ndarray, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of a network -> means in 1/16, levels."""
    mean = np.clip((mean + 8) >> 4, -LATENT_LIMIT, LATENT_LIMIT)
    return mean, np.clip(((raw * 8 + 128) >> 8) + 16, 0, 47)


def gated(mean: np.ndarray, gate: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    return mean + ((np.clip(gate, 0, 256) * (predicted - mean) + 128) >> 8)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def twice(x: np.ndarray) -> np.ndarray:
    return x.repeat(2, axis=1).repeat(2, axis=2)


def crc_of(latents, start: int = 0) -> int:
    for x in latents:
        start = zlib.crc32(x.astype("<i4").tobytes(), start)
    return start


def decode_z(networks, coder, octaves, shape, last):
    plane = np.full((1, *shape[1:]), octaves)
    seen = plane if last is None else np.concatenate((np.clip(16 * last[0], -LIMIT, LIMIT), plane))
    outputs = networks.conv("prior.2", relu(networks.conv("prior.0", seen)))
    mean, raw, *gate = np.split(outputs, 2 if last is None else 3)
    mean, level = rounded(mean, raw)
    if gate:
        mean = gated(mean, gate[0], np.clip(last[0], -LATENT_LIMIT, LATENT_LIMIT))
    return 16 * coder.take(level) + mean


def decode_latents(networks, coder, octaves, grid, last=None, before=None, shift=0):
    """z and y of a frame; of an inter frame last, before: (z, y) of the two frames before."""
    octaves = int(np.clip(octaves, -LIMIT, LIMIT))
    shape = (networks.hyper, -(-grid[0] // 4), -(-grid[1] // 4))
    z = decode_z(networks, coder, octaves, shape, last)
    x = np.concatenate((16 * z, np.full((1, *shape[1:]), octaves)))
    x = relu(networks.conv("h_s.0", x))
    x = relu(networks.conv("h_s.3", twice(x)))
    shared = relu(networks.conv("h_s.6", twice(x)))[:, : grid[0], : grid[1]]
    if last is not None:
        known = np.clip(16 * last[1], -LIMIT, LIMIT)
        change = np.clip(16 * (last[1] - before[1]), -LIMIT, LIMIT)
        x = np.concatenate((known, change, np.full((1, *grid), octaves)))
        x = relu(networks.conv("temporal.2", relu(networks.conv("temporal.0", x))))
        shared = np.concatenate((shared, relu(networks.conv("features.0", x))))
        predicted = (known + networks.conv("extrapolation", x) + 8) >> 4
        predicted = np.clip(predicted, -LATENT_LIMIT, LATENT_LIMIT)

    y = np.zeros((sum(networks.slices), *grid), np.int64)
    row, column = np.indices(grid)
    start = 0
    for number, count in enumerate(networks.slices):
        own = slice(start, start + count)
        for colour in (0, 1):
            k = 2 * number + colour
            x = np.concatenate((shared, 16 * y[: start + count * colour]))
            hidden = relu(networks.conv(f"contexts.{k}.0", x))
            mean, level = rounded(*np.split(networks.conv(f"contexts.{k}.2", hidden), 2))
            if last is not None:
                mean = gated(mean, networks.conv(f"gates.{k}", hidden), predicted[own])
                level = np.where(level > 0, np.clip(level - shift, 1, 47), 0)
            mine = (row + column) % 2 == colour
            y[own, mine] = 16 * coder.take(level[:, mine]) + mean[:, mine]
        start += count
    assert coder.state == 0 and coder.at == len(coder.data), "the data end with the last symbol"
    return z, y


def decode_file(
    data: bytes,
    networks: Networks,
    inter: Networks | None = None,
    picture: Networks | None = None,
):
    """(unit, CRC-32 computed, CRC-32 stated) of every unit; picture: of learned_picture units."""
    tables, ((grid, blocks), units) = networks.tables(), latent_units(data)
    for unit in units:
        reader = Reader(unit.payload)
        if unit.kind == LEARNED_PICTURE:
            yield unit, *learned_picture(unit, picture, blocks)
        elif unit.kind == LATENTS:
            octaves, stated = (512 * (reader.u(8) - 32) + 6) // 12, reader.u(32)
            coder = RangeDecoder(unit.payload[reader.at :], tables)
            yield unit, crc_of(decode_latents(networks, coder, octaves, grid)), stated
        elif unit.kind == MACHINE:
            low, high, _s = reader.float16(), reader.float16(), reader.float16()
            stated, octaves = reader.u(32), log2_code(low, high) - networks.typical()
            coder = RangeDecoder(unit.payload[reader.at :], tables)
            last = decode_latents(networks, coder, octaves, grid)
            before = last
            yield unit, crc_of(last), stated
        else:
            found = last
            if unit.payload:
                shift, coder = unit.payload[0] - 8, RangeDecoder(unit.payload[1:], tables)
                found = decode_latents(inter, coder, octaves, grid, last, before, shift)
            last, before = found, last
            start = zlib.crc32(struct.pack(">II", inter.weights_id, unit.frame))
            yield unit, crc_of(last, zlib.crc32(unit.head, start)), unit.check


def learned_picture(unit: Unit, networks: Networks, grid: tuple[int, int]) -> tuple[int, int]:
    """CRC-32 computed and stated of the latents of a learned_picture unit."""
    reader = Reader(unit.payload)
    _restorer, picture_id, qp = reader.u(16), reader.u(16), reader.u(8)
    assert picture_id == networks.weights_id >> 16
    _strength, has_map, reserved = reader.u(4), reader.u(1), reader.u(3)
    assert reserved == 0
    if has_map:
        reader.take(reader.leb128())
    stated, octaves = reader.u(32), (512 * (qp - 32) + 6) // 12
    coder = RangeDecoder(unit.payload[reader.at :], networks.tables())
    return crc_of(decode_latents(networks, coder, octaves, grid)), stated


def float_conv(tensors: dict, name: str, x: np.ndarray, stride: int = 1) -> np.ndarray:
    """(C, h, w) -> (O, ceil(h / stride), ceil(w / stride)), zeros beyond each border."""
    weight, bias = (tensors[f"g_s.{name}.{part}"].astype(np.float64) for part in ("weight", "bias"))
    k, (_, height, width) = weight.shape[2], x.shape
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    total = np.zeros((len(bias), -(-height // stride), -(-width // stride))) + bias[:, None, None]
    for i in range(k):
        for j in range(k):
            seen = x[:, i : i + height : stride, j : j + width : stride]
            total += np.einsum("oc,chw->ohw", weight[:, :, i, j], seen)
    return total


def act(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, x, x / 10)


def block(tensors: dict, name: str, x: np.ndarray) -> np.ndarray:
    hidden = act(float_conv(tensors, f"{name}.body.1", act(x)))
    return x + float_conv(tensors, f"{name}.body.3", hidden)


def shuffle(x: np.ndarray) -> np.ndarray:
    channels, height, width = x.shape
    x = x.reshape(channels // 4, 2, 2, height, width).transpose(0, 3, 1, 4, 2)
    return x.reshape(channels // 4, 2 * height, 2 * width)


def linear_log2(x: float) -> float:
    mantissa, exponent = math.frexp(x)
    return exponent - 1 + 2 * mantissa - 1


def synthesise(networks: Networks, y: np.ndarray, low: float, high: float) -> dict:
    """Latents of a machine unit with this range -> p2..p5 and p6, not yet cut to their sizes."""
    tensors = networks.tensors
    octaves = linear_log2(high - low) - linear_log2(float(tensors["typical_width"]))
    first, second = tensors["shrink"].astype(np.float64)
    factor = (high - low) / float(tensors["typical_width"])
    factor = factor * np.exp(octaves * (first + second * octaves))
    y = y / 16 * factor[:, None, None]
    h16 = float_conv(tensors, "trunk16.0", y)
    h16 = block(tensors, "trunk16.2", block(tensors, "trunk16.1", h16))
    h8 = shuffle(float_conv(tensors, "up", h16) + float_conv(tensors, "detail", y))
    h8 = block(tensors, "block8", h8)
    layers = {
        "p2": shuffle(float_conv(tensors, "p2.0", h8)),
        "p3": float_conv(tensors, "p3", h8),
        "p4": float_conv(tensors, "p4", h16),
        "p5": float_conv(tensors, "p5", h16, stride=2),
    }
    for n, name in enumerate(layers):
        std, mean = (tensors[key][n].astype(np.float64)[:, None, None] for key in ("std", "mean"))
        layers[name] = layers[name] * std + mean
    return layers | {"p6": layers["p5"][:, ::2, ::2]}


def main() -> None:
    networks = [Networks(path) for path in sys.argv[2:]]
    for unit, computed, stated in decode_file(Path(sys.argv[1]).read_bytes(), *networks):
        verdict = "as" if computed == stated else "not as"
        print(f"frame {unit.frame}: {computed:08x}, {verdict} the file states")


if __name__ == "__main__":
    main()
