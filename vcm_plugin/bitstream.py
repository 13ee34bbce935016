# SPDX-License-Identifier: BSD-3-Clause
"""What the bytes of an .fcm file mean: its syntax, its writer and its reader."""

from __future__ import annotations

import math
import mmap
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from vcm_plugin.errors import InputError

VERSION = 1
MAX_INPUT_PIXELS = 1 << 22  # of the padded network input; bounds what a file can make us allocate
MAGIC = int.from_bytes(b"FCM", "big")
PROFILES = {1: "diff_fchm", 2: "vvc_feature", 3: "msfc"}
PACKED = (2, 3)  # profiles whose units are VVC streams of 10-bit pictures
UNIT_TYPES = {1: "machine", 2: "human", 3: "private"}
SAMPLERS = {0: "deterministic (no noise added after the start)"}
# Unit types of each profile, in file order; every one comes once per frame, frames in order.
# Only the first must be there: a file may end after the last unit of either type.
UNITS_OF_PROFILE = {
    "diff_fchm": ("machine", "human"),
    "vvc_feature": ("private",),
    "msfc": ("private",),
}
# Layers of each split point, with their strides to the padded network input (a test holds that
# features.SPLIT_POINTS says the same; this module stays free of torch).
LAYERS = {
    "fpn": {"p2": 4, "p3": 8, "p4": 16, "p5": 32},
    "c2": {"c2": 4, "c3": 8, "c4": 16, "c5": 32},
    "r2": {"r2": 4},
}
SPLIT_CODES = dict(enumerate(LAYERS, start=1))
INPUT_PADDING = 32  # grids that are not sent: the network input is padded to a multiple of this
MAX_SAMPLES = 1 << 30  # over all layers of a frame


class BitstreamError(InputError):
    """A bitstream is foreign, of another version, truncated or corrupt, or cannot be written."""


@dataclass(frozen=True)
class Element:
    """One row of the syntax: drives the writer, the reader and the documentation."""

    name: str
    descriptor: str
    meaning: str
    low: int = 0
    high: int = (1 << 32) - 1
    codes: Mapping[int, str] | None = None  # the values that are known
    # There only where each of these has this value, or one of these.
    when: tuple[tuple[str, int | tuple[int, ...]], ...] = ()
    times: str = ""  # the element that says how often this one comes


SIZE = (1, 65535)
CRC = Element("crc_32", "u(32)", "CRC-32 (zlib) of every byte of this structure before it")
SEQUENCE_HEADER = (
    Element("magic", "u(24)", "0x46434D, the letters FCM"),
    Element("version", "u(8)", f"{VERSION}"),
    Element("profile", "u(4)", "what the units hold", codes=PROFILES),
    Element("split_point", "u(4)", "names the layers and their strides", codes=SPLIT_CODES),
    Element("picture_flag", "u(1)", "1: one frame, without a rate"),
    Element("weights_flag", "u(1)", "1: weights_id follows"),
    Element("detector_flag", "u(1)", "1: detector_id follows; 0: it follows from weights_id"),
    Element("grid_flag", "u(1)", "1: the grid of the first layer follows; 0: it is that of the "
            f"network input, padded to multiples of {INPUT_PADDING}, at the layer's stride"),
    Element("channel_counts", "u(3)", "0: the channels follow from weights_id; 1: one count for "
            "all layers; else one count per layer", high=7),
    Element("exact_range_flag", "u(1)", "1: the range has 32-bit floats, 0: 16-bit floats"),
    Element("source_height", "ue(v)", "of the picture, in pixels", *SIZE),
    Element("source_width", "ue(v)", "of the picture, in pixels", *SIZE),
    Element("input_height", "ue(v)", "of the network input, before its padding", *SIZE),
    Element("input_width", "ue(v)", "of the network input, before its padding", *SIZE),
    Element("frame_count", "ue(v)", "", 1, 1 << 24, when=(("picture_flag", 0),)),
    Element("rate_numerator", "ue(v)", "frames per rate_denominator seconds", 1, 1 << 24,
            when=(("picture_flag", 0),)),
    Element("rate_denominator", "ue(v)", "in seconds", 1, 1 << 24, when=(("picture_flag", 0),)),
    Element("weights_id", "u(32)", "first 32 bits of the SHA-256 of the codec's weights",
            when=(("weights_flag", 1),)),
    Element("detector_id", "u(32)", "first 32 bits of the SHA-256 of the detector's weights",
            when=(("detector_flag", 1),)),
    Element("grid_height", "ue(v)", "of the first layer; a later layer has ceil(grid * first "
            "stride / its stride)", *SIZE, when=(("grid_flag", 1),)),
    Element("grid_width", "ue(v)", "of the first layer", *SIZE, when=(("grid_flag", 1),)),
    Element("layer_channels", "ue(v)", "channels of a layer", *SIZE, times="channel_counts"),
    Element("range_low", "f(16)", "value of sample 0",
            when=(("profile", PACKED), ("exact_range_flag", 0))),
    Element("range_high", "f(16)", "value of sample 1023",
            when=(("profile", PACKED), ("exact_range_flag", 0))),
    Element("exact_range_low", "f(32)", "value of sample 0",
            when=(("profile", PACKED), ("exact_range_flag", 1))),
    Element("exact_range_high", "f(32)", "value of sample 1023",
            when=(("profile", PACKED), ("exact_range_flag", 1))),
    CRC,
)  # fmt: skip
UNIT = (
    Element("unit_type", "u(8)", "", codes=UNIT_TYPES),
    Element("frame", "ue(v)", "number of the frame, from 0", high=(1 << 24) - 1),
    Element("length", "ue(v)", "of the payload, in bytes"),
    Element("payload", "b(length)", "as the next tables say, by unit type"),
    CRC,
)
UNIT_HEAD = UNIT[:3]
CRC_BYTES = 4
MACHINE_PAYLOAD = (
    Element("range_low", "f(16)", "IVN: feature value that is normalised to 0"),
    Element("range_high", "f(16)", "IVN: feature value that is normalised to 1"),
    Element("rate_point", "f(16)", "scale s of the range; only the human layer uses it"),
    Element("checksum", "u(32)", "CRC-32 of the decoded integer latents"),
    Element("data", "b(v)", "entropy-coded latents"),
)
HUMAN_PAYLOAD = (
    Element("weights_id", "u(32)", "first 32 bits of the SHA-256 of the human layer's weights"),
    Element("step", "f(16)", "q, the step of the quantiser of the auxiliary latents"),
    Element("seed", "u(32)", "of the CPU generator that draws the noise"),
    Element("sampler", "u(8)", "", codes=SAMPLERS),
    Element("steps", "u(8)", "of the sampler", 1, 50),
    Element("start", "u(16)", "time step of the first step", 1, 999),
    Element("checksum", "u(32)", "CRC-32 of the decoded integer latents"),
    Element("data", "b(v)", "entropy-coded latents"),
)


# --- the values that a file holds -----------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """How many frames a file has, and frames per second as (numerator, denominator).

    >>> Timing(97, (50, 1))
    Timing(frames=97, frame_rate=(50, 1))
    """

    frames: int
    frame_rate: tuple[int, int]


@dataclass(frozen=True)
class Header:
    """The sequence header of an .fcm file.

    grid: (height, width) of the first layer; None where it follows from input_size.
    channels: none (they follow from weights_id), one for all layers, or one per layer.
    frame_rate: frames per second as (numerator, denominator); None for a single picture.
    value_range: values of the samples 0 and 1023 (profiles vvc_feature and msfc); exact_range
    stores them as 32-bit floats. They must be such floats before they are used: see round_float.
    """

    profile: str
    split_point: str
    source_size: tuple[int, int]
    input_size: tuple[int, int]
    grid: tuple[int, int] | None = None
    channels: tuple[int, ...] = ()
    frames: int = 1
    frame_rate: tuple[int, int] | None = None
    weights_id: int | None = None
    detector_id: int | None = None
    value_range: tuple[float, float] | None = None
    exact_range: bool = False

    def __post_init__(self):
        if self.profile not in PROFILES.values() or self.split_point not in LAYERS:
            raise BitstreamError(
                f"expected one of the profiles {', '.join(PROFILES.values())} and of the split "
                f"points {', '.join(LAYERS)}; found {self.profile!r} and {self.split_point!r}"
            )
        weighted = self.profile != "vvc_feature"
        counts = (0, 1, len(self.strides)) if weighted else (1, len(self.strides))
        if len(self.channels) not in counts:
            raise BitstreamError(
                f"profile {self.profile}, split point {self.split_point}: expected "
                f"{' or '.join(map(str, counts))} channel counts, found {len(self.channels)}"
            )
        packed = _code(PROFILES, self.profile) in PACKED
        if weighted and self.weights_id is None:
            raise BitstreamError(f"profile {self.profile} needs a weights id in the header")
        if (self.value_range is not None) != packed:
            needed = "a value range" if packed else "no value range"
            raise BitstreamError(f"profile {self.profile} needs {needed} in the header")
        if packed and not self.value_range[0] < self.value_range[1]:
            raise BitstreamError(f"expected a value range low < high, found {self.value_range}")
        if self.frame_rate is None and self.frames != 1:
            raise BitstreamError(f"{self.frames} frames need a frame rate")
        self._check_grid()

    def _check_grid(self):
        first = next(iter(self.strides.values()))
        if self.grid and any(
            g * first < n for g, n in zip(self.grid, self.input_size, strict=True)
        ):
            raise BitstreamError(
                f"a first layer of {self.grid} at stride {first} does not cover the network "
                f"input of {self.input_size}"
            )
        samples = sum(math.prod(s) for s in self.shapes(max(self.channels, default=1)).values())
        if samples > MAX_SAMPLES:
            raise BitstreamError(f"expected at most {MAX_SAMPLES} features, found {samples}")

    @property
    def strides(self) -> dict[str, int]:
        """Layer name -> stride to the padded network input, in bitstream order."""
        return LAYERS[self.split_point]

    def shapes(self, channels: int | None = None) -> dict[str, tuple[int, int, int]]:
        """Layer name -> (channels, height, width); `channels` where the weights id says them."""
        counts = self.channels or (channels,)
        if counts == (None,):
            raise BitstreamError("the header leaves the channel count to its weights id: pass it")
        counts = counts * (len(self.strides) // len(counts))
        first = next(iter(self.strides.values()))
        base = [n * first for n in self.grid or derived_grid(self.input_size, first)]
        return {
            name: (count, -(-base[0] // stride), -(-base[1] // stride))
            for count, (name, stride) in zip(counts, self.strides.items(), strict=True)
        }

    def require_picture(self) -> None:
        """Raise BitstreamError where the file holds a sequence."""
        if self.frames != 1:
            raise BitstreamError(
                f"expected one picture, found a sequence of {self.frames} frames: decode it frame "
                "by frame, or with --frame N"
            )

    def require_weights(self, profile: str, weights_id: int, channels: int) -> None:
        """Raise BitstreamError unless a learned codec of split point fpn can decode the file.

        weights_id, channels: of the weights that the codec has, and of the layers they are for.
        """
        if (self.profile, self.split_point) != (profile, "fpn"):
            raise BitstreamError(
                f"expected a file of profile {profile}, split point fpn; found profile "
                f"{self.profile}, split point {self.split_point}: decode it with the codec that "
                "wrote it"
            )
        if self.weights_id != weights_id:
            raise BitstreamError(
                f"the file was made with the weights {self.weights_id:08x}, these are "
                f"{weights_id:08x}; decode it with the weights that it names"
            )
        if self.channels or self.detector_id is not None:
            raise BitstreamError(
                "expected channels and detector to follow from the weights id, found them in the "
                "header"
            )
        _, height, width = self.shapes(channels)["p2"]
        pixels = 16 * height * width
        if pixels > MAX_INPUT_PIXELS:
            raise BitstreamError(
                f"expected a network input of at most {MAX_INPUT_PIXELS} pixels, found {pixels}"
            )


@dataclass(frozen=True)
class Unit:
    """One unit: type "machine", "human" or "private", number of its frame, payload."""

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


@dataclass(frozen=True)
class MachinePayload:
    """Payload of a machine unit; its floats must be 16-bit floats already (round_float)."""

    value_range: tuple[float, float]
    rate_point: float
    checksum: int
    data: bytes

    def to_bytes(self) -> bytes:
        low, high = self.value_range
        if not low < high:
            raise BitstreamError(f"expected a range low < high, found {self.value_range}")
        values = {"range_low": low, "range_high": high, "rate_point": self.rate_point}
        return _write(MACHINE_PAYLOAD, values | {"checksum": self.checksum, "data": self.data})

    @classmethod
    def from_bytes(cls, payload: bytes) -> MachinePayload:
        values, _ = _read(MACHINE_PAYLOAD, payload, 0, "the payload of a machine unit")
        low, high = values["range_low"], values["range_high"]
        if not low < high:
            raise BitstreamError(f"expected a range low < high, found {(low, high)}")
        return cls((low, high), values["rate_point"], values["checksum"], values["data"])


@dataclass(frozen=True)
class HumanPayload:
    """Payload of a human unit: how its picture is sampled, and its entropy-coded data.

    step must be a 16-bit float above zero already (round_float).
    """

    weights_id: int
    step: float
    seed: int
    steps: int
    start: int
    checksum: int
    data: bytes
    sampler: int = 0

    def to_bytes(self) -> bytes:
        self._check()
        return _write(HUMAN_PAYLOAD, vars(self))

    @classmethod
    def from_bytes(cls, payload: bytes) -> HumanPayload:
        found = cls(**_read(HUMAN_PAYLOAD, payload, 0, "the payload of a human unit")[0])
        found._check()
        return found

    def _check(self) -> None:
        if not self.step > 0.0:
            raise BitstreamError(f"expected a quantiser step above 0, found {self.step}")
        if self.steps > self.start:
            raise BitstreamError(
                f"expected at most as many sampling steps as time steps, found {self.steps} steps "
                f"from {self.start}"
            )


def derived_grid(input_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(height, width) of a layer where the network input is padded to multiples of 32.

    >>> derived_grid((800, 1199), 4)
    (200, 304)
    """
    height, width = (-(-n // INPUT_PADDING) * INPUT_PADDING for n in input_size)
    return -(-height // stride), -(-width // stride)


def compact_shapes(
    shapes: Mapping[str, Sequence[int]], input_size: tuple[int, int]
) -> tuple[tuple[int, int] | None, tuple[int, ...]]:
    """The header's `grid` and `channels` for given layer shapes, as short as they can be.

    >>> compact_shapes({"r2": (256, 200, 304)}, (800, 1199))
    (None, (256,))
    """
    split_point = next((k for k, v in LAYERS.items() if list(v) == list(shapes)), None)
    if split_point is None:
        raise BitstreamError(f"no split point has the layers {', '.join(shapes)}")
    first = next(iter(LAYERS[split_point]))
    grid = tuple(shapes[first][1:])
    channels = tuple(shape[0] for shape in shapes.values())
    return (
        None if grid == derived_grid(input_size, LAYERS[split_point][first]) else grid,
        channels[:1] if len(set(channels)) == 1 else channels,
    )


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


# --- writer ---------------------------------------------------------------------------------


def write_header(header: Header) -> bytes:
    """The bytes of the sequence header."""
    values = {
        "magic": MAGIC,
        "version": VERSION,
        "profile": _code(PROFILES, header.profile),
        "split_point": _code(SPLIT_CODES, header.split_point),
        "picture_flag": int(header.frame_rate is None),
        "weights_flag": int(header.weights_id is not None),
        "detector_flag": int(header.detector_id is not None),
        "grid_flag": int(header.grid is not None),
        "channel_counts": len(header.channels),
        "exact_range_flag": int(header.exact_range),
        "frame_count": header.frames,
        "weights_id": header.weights_id,
        "detector_id": header.detector_id,
        "layer_channels": header.channels,
    }
    values["source_height"], values["source_width"] = header.source_size
    values["input_height"], values["input_width"] = header.input_size
    values["grid_height"], values["grid_width"] = header.grid or (None, None)
    values["rate_numerator"], values["rate_denominator"] = header.frame_rate or (None, None)
    prefix = "exact_" if header.exact_range else ""
    low, high = header.value_range or (None, None)
    values |= {f"{prefix}range_low": low, f"{prefix}range_high": high}
    return _write(SEQUENCE_HEADER, values)


def write_unit(unit: Unit) -> bytes:
    """The bytes of one unit."""
    values = {"unit_type": _code(UNIT_TYPES, unit.type), "frame": unit.frame}
    return _write(UNIT, values | {"length": len(unit.payload), "payload": unit.payload})


def write(header: Header, units: Sequence[Unit]) -> bytes:
    """A whole file; the units must be those that its reader expects, in this order."""
    found = [(unit.type, unit.frame) for unit in units]
    kinds = UNITS_OF_PROFILE[header.profile]
    expected = [(kind, frame) for kind in kinds for frame in range(header.frames)]
    if found not in (expected, expected[: header.frames]):
        raise BitstreamError(
            f"profile {header.profile}: expected {header.frames} {kinds[0]} units, in the order "
            f"of the frames, then as many {' or '.join(kinds[1:]) or 'other'} units or none; "
            f"found {len(found)} units that are not"
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
        kind = UNITS_OF_PROFILE[header.profile][0]
        sizes.append(size + file.write(write_unit(Unit(kind, len(sizes), payload))))
    if first is None or len(sizes) != first.frames:
        expected = first.frames if first else "at least one"
        raise BitstreamError(f"expected {expected} frames, found {len(sizes)}")
    return sizes


class _BitWriter:
    """Appends u(n), ue(v), f(n) and bytes; only u(n) may leave the byte boundary."""

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

    def ue(self, value: int):
        while value >= 0x80:
            self.bytes.append(value & 0x7F | 0x80)
            value >>= 7
        self.bytes.append(value)

    def f(self, count: int, value: float):
        self.bytes += struct.pack(">e" if count == 16 else ">f", value)


def _write(elements: Sequence[Element], values: Mapping) -> bytes:
    writer = _BitWriter()
    for element in elements:
        if not _present(element, values):
            continue
        if element is CRC:
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
    elif kind == "f":
        if value != round_float(value, int(size)):
            raise BitstreamError(
                f"{element.name}: {value} is no {size}-bit float; use round_float before the value "
                "is used, so that encoder and decoder see the same"
            )
        writer.f(int(size), value)
    else:
        _check(element, value)
        if kind == "u":
            writer.u(int(size), value)
        else:
            writer.ue(value)


# --- reader ---------------------------------------------------------------------------------


def read_header(data: bytes) -> tuple[Header, int]:
    """The sequence header and the number of its bytes."""
    values, size = _read(SEQUENCE_HEADER, data, 0, "the sequence header")
    prefix = "exact_" if values["exact_range_flag"] else ""
    low, high = values.get(f"{prefix}range_low"), values.get(f"{prefix}range_high")
    picture = values["picture_flag"]
    header = Header(
        profile=PROFILES[values["profile"]],
        split_point=SPLIT_CODES[values["split_point"]],
        source_size=(values["source_height"], values["source_width"]),
        input_size=(values["input_height"], values["input_width"]),
        grid=(values["grid_height"], values["grid_width"]) if values["grid_flag"] else None,
        channels=tuple(values["layer_channels"]),
        frames=1 if picture else values["frame_count"],
        frame_rate=None if picture else (values["rate_numerator"], values["rate_denominator"]),
        weights_id=values.get("weights_id"),
        detector_id=values.get("detector_id"),
        value_range=None if low is None else (low, high),
        exact_range=bool(values["exact_range_flag"]),
    )
    return header, size


def read_unit(data: bytes, start: int) -> tuple[Unit, int]:
    """The unit that starts at a byte, and where the next one starts."""
    values, end = _read(UNIT, data, start, f"the unit at byte {start}")
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
    """Where each unit starts, and the bytes up to the end of the last one of the first kind."""
    starts: list[int] = []
    machine_bytes = 0
    for kind in UNITS_OF_PROFILE[header.profile]:
        if machine_bytes and offset == len(data):
            break
        for frame in range(header.frames):
            if offset == len(data):
                raise BitstreamError(
                    f"truncated: expected the {kind} unit of frame {frame} of {header.frames} at "
                    f"byte {offset}, found the end of the file"
                )
            head, payload = _read(UNIT_HEAD, data, offset, f"the unit at byte {offset}")
            found = UNIT_TYPES[head["unit_type"]], head["frame"]
            if found != (kind, frame):
                raise BitstreamError(
                    f"expected the {kind} unit of frame {frame} at byte {offset}, found a "
                    f"{found[0]} unit of frame {found[1]}"
                )
            starts.append(offset)
            end = payload + head["length"] + CRC_BYTES
            if end > len(data):
                read_unit(data, offset)  # says what is missing
            offset = end
        machine_bytes = machine_bytes or offset
    if offset != len(data):
        raise BitstreamError(
            f"expected the end of the file at byte {offset}, found {len(data) - offset} more bytes"
        )
    return starts, machine_bytes


def machine_bits(data: bytes) -> int:
    """Bits of the file up to the end of its last machine unit."""
    return 8 * read(data).machine_bytes


class _BitReader:
    """Reads u(n), ue(v), f(n) and bytes; says what was expected where the data end."""

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

    def ue(self, name: str) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1, name)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise BitstreamError(f"{name} in {self.place} is not in its shortest form")
                return value
        raise BitstreamError(f"{name} in {self.place} has more than 5 bytes")

    def f(self, count: int, name: str) -> float:
        form = ">e" if count == 16 else ">f"
        (value,) = struct.unpack(form, self.take(count // 8, name))
        if not math.isfinite(value):
            raise BitstreamError(f"expected a finite {name} in {self.place}, found {value}")
        return value


def _read(elements: Sequence[Element], data: bytes, start: int, place: str) -> tuple[dict, int]:
    reader = _BitReader(data, start, place)
    values: dict = {}
    for element in elements:
        if not _present(element, values):
            continue
        if element is CRC:
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
    if kind == "f":
        return reader.f(int(size), element.name)
    if element.name == "magic" and bytes(reader.data[:3]) != MAGIC.to_bytes(3, "big"):
        found = bytes(reader.data[:3])
        raise BitstreamError(
            f"not an .fcm file: expected the magic bytes 46 43 4d (FCM), found "
            f"{found.hex(' ') or 'an empty file'}"
        )
    value = reader.u(int(size), element.name) if kind == "u" else reader.ue(element.name)
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


def _present(element: Element, values: Mapping) -> bool:
    return all(values[name] in _accepted(value) for name, value in element.when)


def _accepted(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _code(codes: Mapping[int, str], name: str) -> int:
    for code, known in codes.items():
        if known == name:
            return code
    raise BitstreamError(f"expected one of {', '.join(codes.values())}; found {name!r}")


# --- in words -------------------------------------------------------------------------------


def describe(data: bytes) -> list[str]:
    """What a file holds, in words: one line for each fact."""
    stream = read(data)
    header = stream.header
    size = " x ".join(str(n) for n in header.source_size)
    net = " x ".join(str(n) for n in header.input_size)
    lines = [
        f".fcm version {VERSION}, profile {header.profile}, split point {header.split_point}",
        f"source {size}, network input {net} (height x width)",
    ]
    if header.frame_rate:
        numerator, denominator = header.frame_rate
        lines.append(f"{header.frames} frames at {numerator / denominator:g} per second")
    else:
        lines.append("one picture")
    for name, (count, height, width) in header.shapes(0).items():
        channels = count or "channels of the weights"
        lines.append(f"layer {name}: {channels} x {height} x {width} (channels x height x width)")
    for name in ("weights_id", "detector_id"):
        if getattr(header, name) is not None:
            lines.append(f"{name.replace('_', ' ')} {getattr(header, name):08x}")
    if header.value_range:
        lines.append("samples 0 .. 1023 stand for {:g} .. {:g}".format(*header.value_range))
    lines += [_describe_unit(unit) for unit in stream.units]
    lines.append(f"machine bits {8 * stream.machine_bytes}, total bits {8 * len(data)}")
    return lines


def _describe_unit(unit: Unit) -> str:
    line = f"{unit.type} unit of frame {unit.frame}: {len(unit.payload)} bytes"
    if unit.type == "machine":
        payload = MachinePayload.from_bytes(unit.payload)
        low, high = payload.value_range
        return (
            f"{line}, rate point {payload.rate_point:.4g}, range {low:g} .. {high:g}, "
            f"checksum {payload.checksum:08x}, {len(payload.data)} bytes of latents"
        )
    if unit.type == "human":
        payload = HumanPayload.from_bytes(unit.payload)
        return (
            f"{line}, step {payload.step:.4g}, weights {payload.weights_id:08x}, seed "
            f"{payload.seed}, {payload.steps} sampling steps from {payload.start}, "
            f"checksum {payload.checksum:08x}, {len(payload.data)} bytes of latents"
        )
    return line


SYNTAX = {
    "sequence_header": SEQUENCE_HEADER,
    "unit": UNIT,
    "payload of a machine unit": MACHINE_PAYLOAD,
    "payload of a human unit": HUMAN_PAYLOAD,
}
DESCRIPTORS = """\
Descriptors: u(n): n-bit unsigned integer, most significant bit first. ue(v): unsigned LEB128, 7 bits in a byte,
least significant group first, top bit set in all bytes but the last, shortest form, at most 5 bytes. f(n): IEEE 754
float of n bits, big-endian, finite. b(n): n bytes; b(v): the bytes up to the end of the payload."""  # noqa: E501


def syntax() -> str:
    """The syntax tables in Markdown, made from the tables that the writer and reader follow."""
    parts = [DESCRIPTORS]
    for title, elements in SYNTAX.items():
        rows = "\n".join(f"| {' | '.join(syntax_row(element))} |" for element in elements)
        parts.append(
            f"### {title}\n\n| element | descriptor | present | meaning |\n"
            f"| --- | --- | --- | --- |\n{rows}"
        )
    return "\n\n".join(parts)


def syntax_row(element: Element) -> tuple[str, str, str, str]:
    """One row of a syntax table: element, descriptor, when it is present, what it means."""
    conditions = (
        f"{name} = {' or '.join(map(str, _accepted(value)))}" for name, value in element.when
    )
    present = ", ".join(conditions) or "always"
    if element.times:
        present = f"{element.times} times"
    meaning = element.meaning
    if element.codes:
        codes = ", ".join(f"{code}: {name}" for code, name in element.codes.items())
        meaning = f"{meaning}; {codes}" if meaning else codes
    if element.low or element.high != (1 << 32) - 1:
        limits = f"{element.low} .. {element.high}"
        meaning = f"{meaning}; {limits}" if meaning else limits
    return element.name, element.descriptor, present, meaning


RULES = """\
A file is a sequence_header and then units up to its end. Profile diff_fchm: one machine unit for
every frame, in the order of the frames, then either nothing or one human unit for every frame in
the same order. A file may be cut after the last machine unit: what is left is a valid file.
Profiles vvc_feature and msfc: one private unit for every frame, which holds a VVC byte stream
(Annex B) of the packed 10-bit picture of that frame: the layers (vvc_feature), or one layer of
reduced channels on the grid of the last layer (msfc; weights_id says how many there are, and which
network restores the layers). Of a sequence (vvc_feature), the payloads one after the other are one
VVC byte stream: unit n holds its n-th access unit in decoding order. Where unit 1 is an intra
picture all are, so that unit n is frame n, which is decoded with the parameter sets of unit 0.
Machine bits are the bytes up to the end of the last machine (vvc_feature, msfc: private) unit;
total bits are the size of the file. A reader refuses a value that is not in the tables, a length
beyond the end of the file, a wrong CRC-32, a float that is not finite and a byte after the last
unit."""


def document() -> str:
    """The text of docs/bitstream.md."""
    return (
        f"# The .fcm bitstream, version {VERSION}\n\n{RULES}\n\n{syntax()}\n\n"
        "This page is made by `vcm_plugin.bitstream.document()`; a test holds that it agrees.\n"
    )


__doc__ = f"{__doc__}\n\n{RULES}\n\n{syntax()}\n"
