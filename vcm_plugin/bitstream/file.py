# SPDX-License-Identifier: BSD-3-Clause
"""How header and units become an .fcm file, and how a file is read, whole or frame by frame."""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vcm_plugin.bitstream.bits import read_elements, write_elements
from vcm_plugin.bitstream.header import Header, read_header, write_header
from vcm_plugin.bitstream.syntax import (
    CRC_BYTES,
    UNIT,
    UNIT_HEAD,
    UNIT_TYPES,
    UNITS_OF_PROFILE,
    code_of,
)
from vcm_plugin.errors import BitstreamError


@dataclass(frozen=True)
class Unit:
    """One unit: its type (a name of UNIT_TYPES), number of its frame, payload."""

    type: str
    frame: int
    payload: bytes


@dataclass(frozen=True)
class Stream:
    """A whole file. machine_bytes: its length up to the end of the last machine unit (for
    the profiles of anchors: private unit), which is a valid file by itself."""

    header: Header
    units: tuple[Unit, ...]
    machine_bytes: int


def write_unit(unit: Unit) -> bytes:
    """The bytes of one unit."""
    values = {"unit_type": code_of(UNIT_TYPES, unit.type), "frame": unit.frame}
    return write_elements(UNIT, values | {"length": len(unit.payload), "payload": unit.payload})


def write(header: Header, units: Sequence[Unit]) -> bytes:
    """A whole file; the units must be those that its reader expects, in this order."""
    found = [(unit.type, unit.frame) for unit in units]
    groups = UNITS_OF_PROFILE[header.profile]
    accepted = [
        [(kind, frame) for kind in kinds for frame in range(header.frames)]
        for count in range(1, len(groups) + 1)
        for kinds in itertools.product(*groups[:count])
    ]
    if found not in accepted:
        then = " or ".join(kind for group in groups[1:] for kind in group) or "other"
        raise BitstreamError(
            f"profile {header.profile}: expected {header.frames} {groups[0][0]} units, in the "
            f"order of the frames, then as many {then} units or none; found {len(found)} units "
            "that are not"
        )
    return write_header(header) + b"".join(write_unit(unit) for unit in units)


def write_frames(file: BinaryIO, frames: Iterable[tuple[Header, bytes]]) -> list[int]:
    """Write a file as its frames come; nothing of them is kept. Returns the bytes of each frame.

    frames: header and payload of each. The header is written once and counts with the first frame.
    Raises BitstreamError where the header of a frame is another one, or says another number of
    frames than come.
    """
    first, sizes = None, []
    for header, payload in frames:
        if first is None:
            first, size = header, file.write(write_header(header))
        elif header != first:
            raise BitstreamError(
                f"frame {len(sizes)}: expected the sizes and layers of frame 0, network input "
                f"{first.input_size} of a source of {first.source_size}, found "
                f"{header.input_size} of {header.source_size}: a file holds frames of one kind"
            )
        else:
            size = 0
        kind = UNITS_OF_PROFILE[header.profile][0][0]
        sizes.append(size + file.write(write_unit(Unit(kind, len(sizes), payload))))
    if first is None or len(sizes) != first.frames:
        expected = first.frames if first else "at least one"
        raise BitstreamError(f"expected {expected} frames, found {len(sizes)}")
    return sizes


def read_unit(data: bytes, start: int) -> tuple[Unit, int]:
    """The unit that starts at a byte, and where the next one starts."""
    values, end = read_elements(UNIT, data, start, f"the unit at byte {start}")
    return Unit(UNIT_TYPES[values["unit_type"]], values["frame"], values["payload"]), end


def read(data: bytes) -> Stream:
    """A whole file. Raises BitstreamError unless every byte of it is as written."""
    reader = FrameReader(data)
    units = tuple(read_unit(data, start)[0] for start in reader.starts)
    return Stream(reader.header, units, reader.machine_bytes)


class FrameReader:
    """The frames of a file in place: opening it reads the heads of its units, no payload.

    data: the bytes of a file; `FrameReader.open` maps a file of any length. `reader[n]` is the
    payload of the first kind of unit of frame n, its CRC checked. Raises BitstreamError.
    """

    def __init__(self, data: bytes | mmap.mmap):
        self._data = data
        self.header, offset = read_header(data)
        self.starts, self.machine_bytes = _unit_starts(data, self.header, offset)

    @classmethod
    def open(cls, path: Path) -> FrameReader:
        """The frames of the file at a path."""
        try:
            with open(path, "rb") as file:
                return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError:  # a file without a byte cannot be mapped
            return cls(b"")

    def __len__(self) -> int:
        return self.header.frames

    def __getitem__(self, frame: int) -> bytes:
        if not 0 <= frame < len(self):
            raise IndexError(f"expected a frame from 0 to {len(self) - 1}, found {frame}")
        return read_unit(self._data, self.starts[frame])[0].payload


def _unit_starts(data: bytes | mmap.mmap, header: Header, offset: int) -> tuple[list[int], int]:
    """Where each unit starts, and the bytes up to the end of the last one of the first group."""
    starts: list[int] = []
    machine_bytes = 0
    for kinds in UNITS_OF_PROFILE[header.profile]:
        if machine_bytes and offset == len(data):
            break
        for frame in range(header.frames):
            starts.append(offset)
            kind, offset = _unit_end(data, offset, kinds, frame, header.frames)
            kinds = (kind,)  # that of the first frame, for all of them
        machine_bytes = machine_bytes or offset
    if offset != len(data):
        raise BitstreamError(
            f"expected the end of the file at byte {offset}, found {len(data) - offset} more "
            "bytes; a frame has one human or one auxiliary_picture unit at most"
        )
    return starts, machine_bytes


def _unit_end(data, offset: int, kinds: tuple[str, ...], frame: int, frames: int):
    """The type of the unit at `offset`, one of `kinds`, and where the unit ends."""
    expected = " or ".join(kinds)
    if offset == len(data):
        raise BitstreamError(
            f"truncated: expected the {expected} unit of frame {frame} of {frames} at "
            f"byte {offset}, found the end of the file"
        )
    head, payload = read_elements(UNIT_HEAD, data, offset, f"the unit at byte {offset}")
    kind, found = UNIT_TYPES[head["unit_type"]], head["frame"]
    if kind not in kinds or found != frame:
        raise BitstreamError(
            f"expected the {expected} unit of frame {frame} at byte {offset}, found a "
            f"{kind} unit of frame {found}"
        )
    end = payload + head["length"] + CRC_BYTES
    if end > len(data):
        read_unit(data, offset)  # says what is missing
    return kind, end


def machine_bits(data: bytes) -> int:
    """Bits of the file up to the end of its last machine unit."""
    return 8 * read(data).machine_bytes
