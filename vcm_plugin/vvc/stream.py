# SPDX-License-Identifier: BSD-3-Clause
"""What lies in a VVC byte stream: NAL units, access units, and the format of its pictures.

Syntax: Rec. ITU-T H.266, 7.3 and Annex B. No Python library reads it, and a file that announces
too large a picture must be refused before a decoder makes room for it.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vcm_plugin.errors import BitstreamError

PARAMETER_SETS = (14, 15, 16)  # NAL types: of video, sequence and picture
SUFFIX_NALS = (18, 21, 22, 24, 25)  # that belong to the picture before them
LAST_SLICE_NAL, INTRA_NALS = 11, (7, 8, 9)  # slices have the types 0 .. 11
ADAPTATION_NALS, PICTURE_HEADER_NAL = (17, 18), 19
START_CODES = (b"\0\0\1", b"\0\0\0\1")  # with which a byte stream can begin
UNSPECIFIED_NAL = 28  # a type that VVC leaves to the application; decoders skip it
SPS_NAL = 15


def nal_units(data: bytes) -> list[tuple[int, bytes]]:
    """(type, payload without start code and header) of each NAL unit of a byte stream."""
    if not data.startswith(START_CODES):
        raise BitstreamError(
            f"not a VVC byte stream: expected the start code 00 00 01, found "
            f"{data[:4].hex(' ') or 'an empty file'}"
        )
    parts = [part.rstrip(b"\0") for part in data.split(b"\0\0\1")[1:]]
    return [(part[1] >> 3, part[2:]) for part in parts if len(part) > 2]


def nal_unit(kind: int, payload: bytes) -> bytes:
    """One NAL unit with a start code of three bytes; the payload must need no escape bytes."""
    return b"\0\0\1" + bytes([0, kind << 3 | 1]) + payload


def raw_nal_units(data: bytes | mmap.mmap) -> Iterator[tuple[int, bytes]]:
    """(type, bytes with the start code) of each NAL unit; together they are the stream."""
    start = data.find(b"\0\0\1")
    begin = 0
    while 0 <= start < len(data) - 4:
        following = data.find(b"\0\0\1", start + 3)
        end = following if following >= 0 else len(data)
        end -= following >= 0 and data[end - 1] == 0  # a start code of four bytes
        yield data[start + 4] >> 3, data[begin:end]
        begin, start = end, following


def access_units(data: bytes | mmap.mmap) -> Iterator[bytes]:
    """The bytes of each picture of a stream with one slice in a picture, in decoding order."""
    unit, complete = b"", False
    for kind, raw in raw_nal_units(data):
        if complete and kind not in SUFFIX_NALS:
            yield unit
            unit, complete = b"", False
        unit += raw
        complete |= kind <= LAST_SLICE_NAL
    yield unit


def parameter_sets(unit: bytes) -> bytes:
    """The parameter sets of an access unit, which decode every intra picture after it."""
    return b"".join(raw for kind, raw in raw_nal_units(unit) if kind in PARAMETER_SETS)


def is_intra(unit: bytes) -> bool:
    """Whether an access unit is an intra picture that is decoded without other pictures."""
    return any(kind in INTRA_NALS for kind, _ in raw_nal_units(unit))


def all_intra(units: Sequence[bytes]) -> bool:
    """Whether a sequence is all-intra, by its first three access units. Where there is inter
    prediction, two intra pictures may come first: with random access the second one is the next."""
    return all(map(is_intra, units[:3]))


def picture_of(unit: Callable[[int], bytes], frames: int, number: int) -> bytes | None:
    """The stream that decodes to one frame of an all-intra sequence alone; None where there is
    inter prediction, which asks for the frames before it, too.

    unit: gives an access unit in decoding order. frames: how many there are.
    """
    wanted = unit(number)
    if number == 0:
        return wanted
    if not all_intra([unit(n) for n in range(min(3, frames))]):
        return None
    return parameter_sets(unit(0)) + wanted


def adaptation_sets(unit: bytes) -> list[bytes]:
    """The adaptation parameter sets (filters, luma mapping) that an access unit brings."""
    return [payload for kind, payload in nal_units(unit) if kind in ADAPTATION_NALS]


def order_bits(data: bytes) -> int:
    """Bits of the picture order count that every picture of a stream carries."""
    for kind, payload in nal_units(data):
        if kind == SPS_NAL:
            bits = _BitReader(_without_emulation(payload))
            _read_sps(bits)
            bits.u(2)  # synchronisation of rows, entry points
            return 4 + bits.u(4)
    raise BitstreamError("the VVC stream has no sequence parameter set: it is foreign or truncated")


def moved(unit: bytes, offset: int, bits: int) -> bytes:
    """An access unit with its picture `offset` places later in the order of display.

    bits: of the picture order count (`order_bits`). Nothing but that count is changed, so what the
    picture is predicted from has to be moved as far.
    """
    return b"".join(_moved(kind, raw, offset, bits) for kind, raw in raw_nal_units(unit))


def _moved(kind: int, raw: bytes, offset: int, bits: int) -> bytes:
    if kind > LAST_SLICE_NAL and kind != PICTURE_HEADER_NAL:
        return raw
    start = raw.index(b"\0\0\1") + 5  # start code and header
    payload = _without_emulation(raw[start:])
    reader = _BitReader(payload)
    if kind != PICTURE_HEADER_NAL and not reader.u(1):  # a slice without a picture header
        return raw
    _skip_to_order(reader)
    place, order = reader.offset, reader.u(bits)
    shift = 8 * len(payload) - place - bits
    value = int.from_bytes(payload, "big")
    value += ((order + offset) % (1 << bits) - order) << shift
    return raw[:start] + _with_emulation(value.to_bytes(len(payload), "big"))


def _skip_to_order(bits: _BitReader):
    """Rec. ITU-T H.266, 7.3.2.8, up to the picture order count."""
    refresh = bits.u(1)
    bits.u(1)  # no reference picture
    if refresh:
        bits.u(1)
    if bits.u(1):  # inter slices are allowed
        bits.u(1)
    bits.ue()  # picture parameter set


def _without_emulation(payload: bytes) -> bytes:
    return payload.replace(b"\0\0\3", b"\0\0")


def _with_emulation(payload: bytes) -> bytes:
    """Rec. ITU-T H.266, 7.4.2.1: no start code may seem to stand in a payload."""
    escaped = re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", payload)
    return escaped + b"\3" * escaped.endswith(b"\0")


@dataclass(frozen=True)
class PictureFormat:
    """Of a coded picture: size of the luma plane in samples, number of planes (1 or 3)."""

    height: int
    width: int
    planes: int

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each plane."""
        return [
            (self.height, self.width),
            *[(self.height // 2, self.width // 2)] * (self.planes - 1),
        ]

    @property
    def bytes(self) -> int:
        """Of the decoded picture."""
        return 2 * sum(height * width for height, width in self.sizes)


def read_format(data: bytes) -> PictureFormat:
    """Size and planes that the sequence parameter set of a VVC byte stream announces."""
    for kind, payload in nal_units(data):
        if kind == SPS_NAL:
            return _read_sps(_BitReader(_without_emulation(payload)))
    raise BitstreamError("the VVC stream has no sequence parameter set: it is foreign or truncated")


class _BitReader:
    def __init__(self, data: bytes):
        self.bits = "".join(f"{byte:08b}" for byte in data[:256])
        self.offset = 0

    def u(self, count: int) -> int:
        self.offset += count
        if self.offset > len(self.bits):
            raise BitstreamError("the sequence parameter set of the VVC stream is truncated")
        return int("0" + self.bits[self.offset - count : self.offset], 2)

    def ue(self) -> int:
        zeros = 0
        while self.u(1) == 0:
            zeros += 1
        return (1 << zeros) - 1 + (self.u(zeros) if zeros else 0)

    def align(self):
        self.offset = -(-self.offset // 8) * 8


def _read_sps(bits: _BitReader) -> PictureFormat:
    """Rec. ITU-T H.266, 7.3.2.4, up to the bit depth."""
    bits.u(8)  # sps and vps id
    sublayers = bits.u(3)
    chroma = bits.u(2)
    bits.u(2)  # CTU size
    if bits.u(1):
        _skip_profile_tier_level(bits, sublayers)
    bits.u(1)  # sps_gdr_enabled_flag
    if bits.u(1):  # sps_ref_pic_resampling_enabled_flag
        bits.u(1)
    width, height = bits.ue(), bits.ue()
    if bits.u(1):  # sps_conformance_window_flag, offsets in chroma samples
        unit = 2 if chroma == 1 else 1
        width -= unit * (bits.ue() + bits.ue())
        height -= unit * (bits.ue() + bits.ue())
    subpictures = bits.u(1)
    depth = None if subpictures else 8 + bits.ue()
    if depth != 10 or chroma > 1 or not 0 < height <= 1 << 16 or not 0 < width <= 1 << 16:
        raise BitstreamError(
            "expected a VVC stream of one 10-bit picture in 4:0:0 or 4:2:0, found chroma format "
            f"{chroma}, {depth} bits, {height} x {width}"
        )
    return PictureFormat(height, width, 3 if chroma else 1)


def _skip_profile_tier_level(bits: _BitReader, sublayers: int):
    """Rec. ITU-T H.266, 7.3.3.1 and 7.3.3.2."""
    bits.u(7 + 1 + 8 + 2)  # profile, tier, level, two flags
    if bits.u(1):  # gci_present_flag
        bits.u(71)
        bits.u(bits.u(8))
    bits.align()
    present = [bits.u(1) for _ in range(sublayers)]
    bits.align()
    bits.u(8 * sum(present))
    for _ in range(bits.u(8)):
        bits.u(32)
