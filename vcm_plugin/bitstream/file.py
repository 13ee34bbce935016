# SPDX-License-Identifier: BSD-3-Clause
"""How header and units become an .fcm file, and how a file is read, whole or frame by frame."""

from __future__ import annotations

import itertools
import mmap
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vcm_plugin.bitstream.bits import read_elements, write_elements
from vcm_plugin.bitstream.header import Header, read_header, write_header
from vcm_plugin.bitstream.syntax import (
    AFTER_OTHERS,
    CRC_BYTES,
    PAYLOAD,
    UNIT,
    UNIT_HEAD,
    UNIT_TYPES,
    UNITS_OF_PROFILE,
    code_of,
)
from vcm_plugin.errors import BitstreamError


@dataclass(frozen=True)
class Unit:
    """One unit: its type (a name of UNIT_TYPES), number of its frame, payload.

    check: of an inter unit, which alone can tell whether it is damaged once it is decoded.
    """

    type: str
    frame: int
    payload: bytes
    check: int | None = None


@dataclass(frozen=True)
class Stream:
    """A whole file. machine_bytes: its length up to the end of the last machine unit (of other
    profiles: of the last unit of their first type), which is a valid file by itself."""

    header: Header
    units: tuple[Unit, ...]
    machine_bytes: int

    def payload_of(self, kind: str) -> bytes:
        """The payload of the unit of this type for a person, in a file of one picture.

        Raises BitstreamError where it has none.
        """
        self.header.require_picture()
        for unit in self.units:
            if unit.type == kind:
                return unit.payload
        kinds = ", ".join(unit.type for unit in self.units)
        raise BitstreamError(
            f"expected {'an' if kind[0] in 'aeiou' else 'a'} {kind} unit after the machine unit, "
            f"found only: {kinds}; encode with --human, or decode for the machine alone"
        )


def write_unit(unit: Unit) -> bytes:
    """The bytes of one unit."""
    return write_elements(UNIT, _values(unit))


def inter_check(weights_id: int, frame: int, payload: bytes, latents_crc: Callable) -> int:
    """The check of an inter unit. latents_crc: a CRC-32 -> that with the decoded latents added."""
    start = zlib.crc32(weights_id.to_bytes(4, "big") + frame.to_bytes(4, "big"))
    unit = write_elements((*UNIT_HEAD, PAYLOAD), _values(Unit("inter", frame, payload)))
    return latents_crc(zlib.crc32(unit, start))


def _values(unit: Unit) -> dict:
    values = {"unit_type": code_of(UNIT_TYPES, unit.type), "frame": unit.frame}
    return values | {"length": len(unit.payload), "payload": unit.payload, "check": unit.check}


def write(header: Header, units: Sequence[Unit]) -> bytes:
    """A whole file; the units must be those that its reader expects, in this order."""
    found = [(_stands_for(unit), unit.frame) for unit in units]
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


def _stands_for(unit: Unit) -> str:
    """The type whose place a unit takes."""
    for kind, others in AFTER_OTHERS.items():
        if unit.frame and unit.type in others:
            return kind
    return unit.type


def write_frames(file: BinaryIO, frames: Iterable[tuple[Header, bytes | Unit]]) -> list[int]:
    """Write a file as its frames come; nothing of them is kept. Returns the bytes of each frame.

    frames: header and payload of each, or the unit where it is not of the first type. The header
    is written once and counts with the first frame.
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
        if not isinstance(payload, Unit):
            payload = Unit(UNITS_OF_PROFILE[header.profile][0][0], len(sizes), payload)
        sizes.append(size + file.write(write_unit(payload)))
    if first is None or len(sizes) != first.frames:
        expected = first.frames if first else "at least one"
        raise BitstreamError(f"expected {expected} frames, found {len(sizes)}")
    return sizes


def read_unit(data: bytes, start: int, frame: int = 0) -> tuple[Unit, int]:
    """The unit that starts at a byte, and where the next one starts. frame: its number, where it
    does not say so itself."""
    values, end = read_elements(UNIT, data, start, f"the unit at byte {start}")
    kind, frame = UNIT_TYPES[values["unit_type"]], values.get("frame", frame)
    return Unit(kind, frame, values["payload"], values.get("check")), end


def read(data: bytes) -> Stream:
    """A whole file. Raises BitstreamError unless every byte of it is as written."""
    reader = FrameReader(data)
    frames = reader.header.frames
    units = tuple(
        read_unit(data, start, number % frames)[0] for number, start in enumerate(reader.starts)
    )
    return Stream(reader.header, units, reader.machine_bytes)


class FrameReader:
    """The frames of a file in place: opening it reads the heads of its units, no payload.

    data: the bytes of a file; `FrameReader.open` maps a file of any length. `reader[n]` is the
    payload of the first kind of unit of frame n, its CRC checked. Raises BitstreamError.
    """

    def __init__(self, data: bytes | mmap.mmap, whole: bool = True):
        """whole: refuse a file whose units do not follow each other up to its end; else the frames
        before that place can be read."""
        self._data = data
        self.header, offset = read_header(data)
        self.starts: list[int] = []
        self.kinds: list[str] = []
        self.machine_bytes = 0
        self.broken: BitstreamError | None = None
        try:
            self._find_units(offset)
        except BitstreamError as error:
            if whole:
                raise
            self.broken = error

    @classmethod
    def open(cls, path: Path, whole: bool = True) -> FrameReader:
        """The frames of the file at a path."""
        try:
            with open(path, "rb") as file:
                return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), whole)
        except ValueError:  # a file without a byte cannot be mapped
            return cls(b"", whole)

    def __len__(self) -> int:
        return self.header.frames

    def __getitem__(self, frame: int) -> bytes:
        return self.unit(frame).payload

    def intra_before(self, frame: int) -> int:
        """The nearest frame, this one or one before it, that is decoded without others."""
        while frame and self.kinds[frame] == "inter":
            frame -= 1
        return frame

    def intra_after(self, frame: int) -> int:
        """The nearest frame after this one that is decoded without others, or their number."""
        frame += 1
        known = min(len(self), len(self.kinds))
        while frame < known and self.kinds[frame] == "inter":
            frame += 1
        return frame if frame < known else len(self)

    def unit(self, frame: int) -> Unit:
        """The first kind of unit of a frame, its CRC checked where it is one of the unit alone."""
        if not 0 <= frame < len(self):
            raise IndexError(f"expected a frame from 0 to {len(self) - 1}, found {frame}")
        if frame >= len(self.starts):
            raise self.broken
        return read_unit(self._data, self.starts[frame], frame)[0]

    def _find_units(self, offset: int) -> None:
        """Where each unit starts, its type, and where the last one of the first group ends."""
        header, data = self.header, self._data
        for kinds in UNITS_OF_PROFILE[header.profile]:
            if self.machine_bytes and offset == len(data):
                break
            for frame in range(header.frames):
                try:
                    kind, end = _unit_end(data, offset, kinds, frame, header.frames)
                except BitstreamError as error:
                    raise BitstreamError(f"{error}{_gone(frame, header.frames)}") from error
                self.starts.append(offset)
                self.kinds.append(kind)
                offset = end
                if frame == 0:  # the type of the first frame, for all of them
                    kinds = AFTER_OTHERS.get(kind, (kind,))
            self.machine_bytes = self.machine_bytes or offset
        if offset != len(data):
            raise BitstreamError(
                f"expected the end of the file at byte {offset}, found {len(data) - offset} more "
                "bytes; a frame has one human, auxiliary_picture or learned_picture unit at most"
            )


def _unit_end(data, offset: int, kinds: tuple[str, ...], frame: int, frames: int):
    """The type of the unit at `offset`, one of `kinds`, and where the unit ends."""
    expected = " or ".join(kinds)
    if offset == len(data):
        raise BitstreamError(
            f"truncated: expected the {expected} unit of frame {frame} of {frames} at "
            f"byte {offset}, found the end of the file"
        )
    head, payload = read_elements(UNIT_HEAD, data, offset, f"the unit at byte {offset}")
    kind, found = UNIT_TYPES[head["unit_type"]], head.get("frame", frame)
    if kind not in kinds or found != frame:
        raise BitstreamError(
            f"expected the {expected} unit of frame {frame} at byte {offset}, found a "
            f"{kind} unit of frame {found}"
        )
    end = payload + head["length"] + CRC_BYTES
    if end > len(data):
        read_unit(data, offset)  # says what is missing
    return kind, end


def _gone(frame: int, frames: int) -> str:
    """What a file lacks whose units cannot be followed from here on, of a sequence."""
    return f"; frames {frame} to {frames - 1} are gone" if frames > 1 else ""


def machine_bits(data: bytes) -> int:
    """Bits of the file up to the end of its last machine unit, as Stream.machine_bytes counts."""
    return 8 * read(data).machine_bytes
