# SPDX-License-Identifier: BSD-3-Clause
"""How the elements of a syntax table become bits and come back."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping, Sequence

from vcm_plugin.bitstream.syntax import CRC, MAGIC, VERSION, Element, is_present
from vcm_plugin.errors import BitstreamError


def round_float(value: float, bits: int = 16, towards: str = "nearest") -> float:
    """The 16- or 32-bit float (IEEE 754) nearest to a value, or next to it "down" or "up".

    >>> round_float(-23.0919), round_float(-23.0919, towards="down"), round_float(0.1, 32)
    (-23.09375, -23.09375, 0.10000000149011612)
    """
    form, integer = {16: (">e", ">H"), 32: (">f", ">I")}[bits]
    try:
        packed = struct.pack(form, value)
    except (OverflowError, struct.error):
        packed = struct.pack(form, math.inf)
    rounded = struct.unpack(form, packed)[0]
    if (towards == "down" and rounded > value) or (towards == "up" and rounded < value):
        (code,) = struct.unpack(integer, packed)
        sign = 1 << (bits - 1)
        if code in (0, sign):  # from either zero to the smallest number of the other sign
            code = 1 | (sign if towards == "down" else 0)
        else:
            code += 1 if (code & sign != 0) == (towards == "down") else -1
        rounded = struct.unpack(form, struct.pack(integer, code))[0]
    if not math.isfinite(rounded):
        raise BitstreamError(f"{value:g} does not fit a {bits}-bit float of the bitstream")
    return rounded


class _BitWriter:
    """Appends u(n), leb128(v), float(n) and bytes; only u(n) may leave the byte boundary."""

    def __init__(self):
        self.bytes = bytearray()
        self.open_bits, self.open_count = 0, 0

    def u(self, count: int, value: int):
        self.open_bits = self.open_bits << count | value
        self.open_count += count
        while self.open_count >= 8:
            self.open_count -= 8
            self.bytes.append(self.open_bits >> self.open_count & 0xFF)
        self.open_bits &= (1 << self.open_count) - 1

    def leb128(self, value: int):
        while value >= 0x80:
            self.bytes.append(value & 0x7F | 0x80)
            value >>= 7
        self.bytes.append(value)

    def float(self, count: int, value: float):
        self.bytes += struct.pack(">e" if count == 16 else ">f", value)


def write_elements(elements: Sequence[Element], values: Mapping) -> bytes:
    """The bytes of a table of the syntax; values: by the names of its elements.

    Raises BitstreamError for a value that an element does not take.
    """
    writer = _BitWriter()
    for element in elements:
        if not is_present(element, values):
            continue
        if element.name == CRC.name:
            writer.u(32, zlib.crc32(writer.bytes))
            continue
        found = values[element.name]
        for value in found if element.times else (found,):
            _write_value(writer, element, value)
    return bytes(writer.bytes)


def _write_value(writer: _BitWriter, element: Element, value):
    kind, size = element.descriptor[:-1].split("(")
    if kind == "b":
        writer.bytes += value
    elif kind == "float":
        if value != round_float(value, int(size)):
            raise BitstreamError(
                f"{element.name}: {value} is no {size}-bit float; use round_float before the value "
                "is used, so that encoder and decoder see the same"
            )
        writer.float(int(size), value)
    else:
        _check(element, value)
        if kind == "u":
            writer.u(int(size), value)
        else:
            writer.leb128(value)


class _BitReader:
    """Reads u(n), leb128(v), float(n) and bytes; says what was expected where the data end."""

    def __init__(self, data: bytes, start: int, place: str):
        self.data, self.start, self.place = data, start, place
        self.offset, self.open_count = start, 0

    def take(self, count: int, name: str) -> bytes:
        found = len(self.data) - self.offset
        if count > found:
            raise BitstreamError(
                f"truncated in {self.place}: {name} needs {count} bytes at byte {self.offset}, "
                f"found {max(found, 0)}; the file has {len(self.data)} bytes"
            )
        self.offset += count
        return bytes(self.data[self.offset - count : self.offset])

    def u(self, count: int, name: str) -> int:
        if not self.open_count and count % 8 == 0:
            return int.from_bytes(self.take(count // 8, name), "big")
        if not self.open_count:
            self.open_bits, self.open_count = self.take(1, name)[0], 8
        self.open_count -= count  # the tables never let a flag cross a byte
        return self.open_bits >> self.open_count & ((1 << count) - 1)

    def leb128(self, name: str) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1, name)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise BitstreamError(f"{name} in {self.place} is not in its shortest form")
                return value
        raise BitstreamError(f"{name} in {self.place} has more than 5 bytes")

    def float(self, count: int, name: str) -> float:
        form = ">e" if count == 16 else ">f"
        (value,) = struct.unpack(form, self.take(count // 8, name))
        if not math.isfinite(value):
            raise BitstreamError(f"expected a finite {name} in {self.place}, found {value}")
        return value


def read_elements(
    elements: Sequence[Element], data: bytes, start: int, place: str
) -> tuple[dict, int]:
    """The values of a table of the syntax, read from byte `start` on, and where it ends.

    place: what is read, for the messages. Raises BitstreamError where the data end too soon, a
    value is none that the table allows, or the CRC-32 is another.
    """
    reader = _BitReader(data, start, place)
    values: dict = {}
    for element in elements:
        if not is_present(element, values):
            continue
        if element.name == CRC.name:
            _check_crc(reader)
        elif element.times:
            count = values[element.times]
            values[element.name] = [_read_value(reader, element, values) for _ in range(count)]
        else:
            values[element.name] = _read_value(reader, element, values)
    return values, reader.offset


def _read_value(reader: _BitReader, element: Element, values: Mapping):
    kind, size = element.descriptor[:-1].split("(")
    if kind == "b":
        rest = len(reader.data) - reader.offset
        return reader.take(rest if size == "v" else values[size], element.name)
    if kind == "float":
        return reader.float(int(size), element.name)
    if element.name == "magic" and bytes(reader.data[:3]) != MAGIC.to_bytes(3, "big"):
        found = bytes(reader.data[:3])
        raise BitstreamError(
            f"not an .fcm file: expected the magic bytes 46 43 4d (FCM), found "
            f"{found.hex(' ') or 'an empty file'}"
        )
    value = reader.u(int(size), element.name) if kind == "u" else reader.leb128(element.name)
    if element.name == "version" and value != VERSION:
        raise BitstreamError(
            f"expected .fcm version {VERSION}, found version {value}: use the release of "
            "vcm-plugin that wrote it"
        )
    _check(element, value, f" in {reader.place}")
    return value


def _check(element: Element, value, place: str = ""):
    if element.codes is not None and value not in element.codes:
        known = ", ".join(f"{code} ({name})" for code, name in element.codes.items())
        raise BitstreamError(f"unknown {element.name}{place}: expected {known}; found {value}")
    high = element.high
    if element.descriptor.startswith("u("):
        high = min(high, (1 << int(element.descriptor[2:-1])) - 1)
    if not isinstance(value, int) or not element.low <= value <= high:
        raise BitstreamError(
            f"expected {element.name}{place} from {element.low} to {high}, found {value}"
        )


def _check_crc(reader: _BitReader):
    computed = zlib.crc32(memoryview(reader.data)[reader.start : reader.offset])
    stored = reader.u(32, CRC.name)
    if stored != computed:
        raise BitstreamError(
            f"corrupt: {reader.place} has the CRC-32 {computed:08x}, expected {stored:08x}"
        )
