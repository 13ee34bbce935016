# SPDX-License-Identifier: BSD-3-Clause
"""The remote-inference anchor: what does it cost to send the picture itself to the network?

RGB -> (resize) -> Y'CbCr 4:2:0 of 10 bits, BT.709, limited range -> one intra VVC picture, and
back to RGB at the source's size. The file is the raw VVC byte stream. Where the coded size is not
the source's, a first NAL unit of the unspecified type 28 says the source's: ue(v) of
2 * height + resized, ue(v) of width, with ue(v) as in .fcm files (no byte of it can be zero, so
it needs no escape bytes). resized = 1: resample to that size; 0: crop to it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

from vcm_plugin import vvc
from vcm_plugin.bitstream.header import Timing
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.rate_points import SIZED_QP, Grammar, parse_sized_qp
from vcm_plugin.vvc import stream as vvc_stream
from vcm_plugin.vvc.choice import Candidate, Coding, best, bit_price, coded_size, codings
from vcm_plugin.vvc.planes import rgb_size, to_picture, to_planes

MAX_SIZE = 1 << 16


@dataclass(frozen=True)
class VvcRemoteSettings:
    """What a test condition says of vvc_remote."""

    name: ClassVar[str] = "vvc_remote"
    kind: ClassVar[str] = "picture"
    grammar: ClassVar[Grammar] = SIZED_QP
    points_key: ClassVar[str] = "vvc_remote_qps"
    sizes_key: ClassVar[str] = "vvc_remote_sizes"
    preset_key: ClassVar[str] = "vvc_remote_preset"
    batches: ClassVar[bool] = True

    vvc_remote_qps: tuple[int, ...] = ()
    vvc_remote_sizes: tuple[int, ...] = ()  # percent of height and width
    vvc_remote_preset: str | None = None
    vvc_remote_perceptual: bool = False  # VVenC's perceptual bit allocation
    vvc_random_access: bool = False  # of sequences; all-intra otherwise
    vvc_low_delay: bool = False  # of sequences; inter prediction in the order of display

    def make(self, context) -> VvcRemoteCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        context.require("vvc_remote_preset")
        return VvcRemoteCodec(
            preset=self.vvc_remote_preset,
            threads=context.threads,
            random_access=self.vvc_random_access or self.vvc_low_delay,
            low_delay=self.vvc_low_delay,
            perceptual=self.vvc_remote_perceptual,
        )


@dataclass(frozen=True)
class VtmRemoteSettings:
    """What a test condition says of vtm_remote: the same pictures, coded by VTM."""

    name: ClassVar[str] = "vtm_remote"
    kind: ClassVar[str] = "picture"
    grammar: ClassVar[Grammar] = SIZED_QP
    points_key: ClassVar[str] = "vtm_remote_qps"
    sizes_key: ClassVar[str] = "vtm_remote_sizes"

    vtm_remote_qps: tuple[int, ...] = ()
    vtm_remote_sizes: tuple[int, ...] = ()
    vtm_version: str | None = None  # the only one that is taken
    vvc_random_access: bool = False
    vvc_low_delay: bool = False

    def make(self, context) -> VvcRemoteCodec:
        """The codec of a condition (ctc.codecs.Context)."""
        return VvcRemoteCodec(
            backend="vtm",
            vtm_version=self.vtm_version,
            random_access=self.vvc_random_access or self.vvc_low_delay,
            low_delay=self.vvc_low_delay,
        )


@dataclass(frozen=True)
class VvcRemoteCodec:
    """Picture codec on VVenC (`vvc_remote`) or VTM (`vtm_remote`).

    The rate point is "QP" or "QP@percent": the picture is coded at that percentage of its height
    and width; of a single picture also "auto:Q" (vcm_plugin/vvc/choice.py). preset, threads: of
    VVenC; VTM has neither. backend: "vvenc" or "vtm". vtm_version, random_access, low_delay (of
    sequences), perceptual (of VVenC): as in VvcFeatureCodec.
    """

    preset: str = "faster"
    threads: int = 1
    backend: str = "vvenc"
    vtm_version: str | None = None
    random_access: bool = False
    low_delay: bool = False
    perceptual: bool = False

    kind: ClassVar[str] = "picture"

    def __post_init__(self):
        if self.backend not in ("vvenc", "vtm"):
            raise InputError(f"expected the backend vvenc or vtm, found {self.backend!r}")
        vvc.VVenC(self.preset, self.threads)  # refuses settings that it does not know

    @property
    def name(self) -> str:
        """The codec's name on the command line and in results."""
        return {"vvenc": "vvc_remote", "vtm": "vtm_remote"}[self.backend]

    @property
    def encoder(self) -> vvc.VVenC | vvc.Vtm:
        """The encoder and decoder of one picture."""
        if self.backend == "vtm":
            return vvc.Vtm.from_environment(self.low_delay, self.vtm_version)
        return vvc.VVenC(
            self.preset, self.threads, perceptual=self.perceptual, low_delay=self.low_delay
        )

    def identity(self) -> dict:
        """What determines the bitstreams."""
        return {
            "codec": self.name,
            "colour": "BT.709, limited range, 10 bits, 4:2:0, chroma sited at the centre",
            "resampling": "Lanczos 3, of float samples",
            "inner_codec": self.encoder.identity(False, self.random_access),
        }

    def encode(self, picture: np.ndarray, rate_point: str) -> bytes:
        """The VVC stream of an RGB picture, uint8 (H, W, 3)."""
        return self.encode_batch([picture], rate_point)[0]

    def encode_batch(self, pictures: Sequence[np.ndarray], rate_point: str) -> list[bytes]:
        """The VVC stream of each of some RGB pictures of one size, as `encode` codes it."""
        ways = [self._coded(pictures, coding) for coding in codings(rate_point)]
        price = bit_price(rate_point)
        return [
            best(picture, candidates, price)
            for picture, *candidates in zip(pictures, *ways, strict=True)
        ]

    def encode_frames(
        self, frames: Iterable[np.ndarray], rate_point: str, timing: Timing, file: BinaryIO
    ) -> list[int]:
        """Write the VVC stream of a sequence of RGB pictures; the bytes of each, as coded.

        The raw stream has no place for the frame rate.
        """
        qp, percent = parse_sized_qp(rate_point)
        prefixes: list[bytes] = []

        def planes() -> Iterator[vvc.Planes]:
            for picture in frames:
                prefixes[:] = prefixes or [_size_prefix(picture, percent)]
                yield _planes(picture, percent)

        sizes = []
        period = vvc.intra_period(timing.frame_rate, self.random_access)
        for unit in self.encoder.encode_frames(planes(), qp, period, timing.frame_rate):
            sizes.append(file.write(unit if sizes else prefixes[0] + unit))
        return sizes

    def _coded(self, pictures: Sequence[np.ndarray], coding: Coding) -> list[Candidate]:
        """One way to code each picture."""
        planes = [_planes(picture, coding.percent) for picture in pictures]
        streams = self.encoder.encode_batch(planes, coding.qp)
        coded = [
            _size_prefix(picture, coding.percent) + stream
            for picture, stream in zip(pictures, streams, strict=True)
        ]
        return [Candidate(data, partial(self.decode, data)) for data in coded]

    def decode(self, data: bytes) -> np.ndarray:
        """The RGB picture of a VVC stream, at the size that its source had."""
        return self.decode_batch([data])[0]

    def decode_batch(self, streams: Sequence[bytes]) -> list[np.ndarray]:
        """The RGB picture of each of some VVC streams of one coded size."""
        decoded = self.encoder.decode_batch(streams)
        return [
            _picture(planes, *source_size(data))
            for planes, data in zip(decoded, streams, strict=True)
        ]

    def decode_frames(self, path: Path) -> Iterator[np.ndarray]:
        """The RGB pictures of the VVC stream of a sequence, decoded as they are asked for."""
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            source = None
            for planes in self.encoder.decode_frames(vvc_stream.access_units(data)):
                source = source or source_size(next(vvc_stream.access_units(data)))
                yield _picture(planes, *source)


def _planes(picture: np.ndarray, percent: int) -> vvc.Planes:
    """The planes that are coded for an RGB picture at a percentage of its size."""
    size = rgb_size(picture)
    return to_planes(picture, coded_size(size, percent), resized=percent < 100)


def _size_prefix(picture: np.ndarray, percent: int) -> bytes:
    """What comes before the stream of a picture: its size, where that is not the coded size."""
    source = picture.shape[:2]
    if coded_size(source, percent) == source:
        return b""
    return source_size_nal(source, resized=percent < 100)


def _picture(planes: vvc.Planes, source: tuple[int, int], resized: bool) -> np.ndarray:
    if len(planes) != 3:
        raise BitstreamError("expected a VVC picture in 4:2:0, found luma only")
    if not resized and vvc.coded_size(*source) != planes[0].shape:
        raise BitstreamError(
            f"a coded picture of {planes[0].shape} cannot be cropped to the source's {source}"
        )
    return to_picture(planes, source, resized)


def source_size(data: bytes) -> tuple[tuple[int, int], bool]:
    """(height, width) of the source of a stream, and whether it was resampled to its coded size."""
    kind, payload = (vvc_stream.nal_units(data) or [(None, b"")])[0]
    if kind == vvc_stream.UNSPECIFIED_NAL:
        return _read_source_size(payload)
    coded = vvc_stream.read_format(data)
    return (coded.height, coded.width), False


def source_size_nal(source: tuple[int, int], resized: bool) -> bytes:
    """The NAL unit that carries the size of the source."""
    payload = _leb128(2 * source[0] + resized) + _leb128(source[1])
    return vvc_stream.nal_unit(vvc_stream.UNSPECIFIED_NAL, payload)


def _read_source_size(payload: bytes) -> tuple[tuple[int, int], bool]:
    values, value, shift = [], 0, 0
    for byte in payload:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append(value)
            value, shift = 0, 0
    height, width = (values[0] >> 1, values[1]) if len(values) == 2 else (0, 0)
    if shift or not (0 < height < MAX_SIZE and 0 < width < MAX_SIZE):
        raise BitstreamError("the NAL unit with the size of the source picture is corrupt")
    return (height, width), bool(values[0] & 1)


def _leb128(value: int) -> bytes:
    head = []
    while value >= 0x80:
        head.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*head, value])
