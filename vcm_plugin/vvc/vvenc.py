# SPDX-License-Identifier: BSD-3-Clause
"""How one 10-bit picture becomes a VVC byte stream and a picture again: VVenC.

The decoder is the native VVC decoder of the same FFmpeg.
"""

from __future__ import annotations

import functools
import itertools
import mmap
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
import numpy as np

from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.process import (
    FFMPEG_REPAIR,
    ProcessError,
    blocks,
    feed,
    ffmpeg_program,
    run,
)
from vcm_plugin.vvc.frames import batches, of_one_size, once
from vcm_plugin.vvc.planes import Planes, check_planes, samples_of, split_planes
from vcm_plugin.vvc.stream import (
    LAST_SLICE_NAL,
    PictureFormat,
    access_units,
    moved,
    nal_units,
    order_bits,
    read_format,
)

PRESETS = ("faster", "fast", "medium", "slow", "slower")
# Pictures in one process. FFmpeg's wrapper of VVenC 1.15 ends without having written anything after
# 7 to 10 intra pictures; larger pictures gain nothing, and should not lie in memory together.
TOGETHER, TOGETHER_SAMPLES = 6, 1 << 22
MID_LEVEL = 512  # chroma of libvvenc's input where only luma is coded
# One intra picture, all of its bits spent on the picture, its QP as given (the encoder's default
# is three below), tools for moving pictures off.
PICTURE_PARAMETERS = {
    "IntraPeriod": 1,
    "GOPSize": 1,
    "DecodingRefreshType": "idr_no_radl",  # each as the first one of a stream
    "IntraQPOffset": 0,
    "AccessUnitDelimiter": 0,
    "HrdParametersPresent": 0,
    "VuiParametersPresent": 0,
    "CabacZeroWordPaddingEnabled": 0,
    "MCTF": 0,
    "BIM": 0,
    "LookAhead": 0,
    # What VVenC falls back to, or does not use, for one intra picture. Unless it is told so it
    # warns on stdout, which is where the stream goes.
    "ALFSpeed": 0,
    "MaxMTTDepth": 1,
}
# Of those, what a sequence with inter prediction does without: GOPs as the preset has them, intra
# pictures below the QP of the others.
INTRA_ONLY = (
    "IntraPeriod", "GOPSize", "DecodingRefreshType", "IntraQPOffset", "LookAhead", "ALFSpeed",
    "MaxMTTDepth",
)  # fmt: skip
# Low delay: every picture from earlier ones, in the order of display. VVenC has it for GOPs of 8.
LOW_DELAY_PARAMETERS = {"PicReordering": 0, "DecodingRefreshType": "none", "GOPSize": 8}
LUMA_PARAMETERS = {"ChromaFormatIDC": 400}
# Tools of the slower presets that cost the fastest two little time: on FPN features and on a
# photograph they saved 6 to 7 % of the rate of "faster" and 1 % of that of "fast".
PRESET_PARAMETERS = {
    "faster": {"DepQuant": 1, "SignHideFlag": 0, "RDOQ": 1, "MIP": 1, "FastMIP": 3},
    "fast": {"MIP": 1, "FastMIP": 3},
}


@dataclass(frozen=True)
class VVenC:
    """VVenC and the native VVC decoder of one FFmpeg, through pipes.

    threads: of encoder and decoder; the stream does not depend on it (a test holds that).
    parameters: further parameters of VVenC, over those of this file. perceptual: VVenC spends bits
    where they are seen (its QPA), so the QP moves from block to block. low_delay: of sequences with
    inter prediction, pictures are coded in the order of display.
    """

    preset: str = "faster"
    threads: int = 1
    parameters: tuple[tuple[str, int | str], ...] = ()
    perceptual: bool = False
    low_delay: bool = False

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise InputError(f"expected a preset of {', '.join(PRESETS)}; found {self.preset!r}")
        if self.threads < 1:
            raise InputError(f"expected one encoder thread or more, found {self.threads}")

    def encode(self, planes: Sequence[np.ndarray], qp: int) -> bytes:
        """The VVC byte stream of one picture."""
        return self.encode_batch([planes], qp)[0]

    def encode_batch(self, pictures: Iterable[Sequence[np.ndarray]], qp: int) -> list[bytes]:
        """The VVC byte stream of each of some pictures of one size, the same bytes as by `encode`;
        up to TOGETHER of them go through one process, in a perceptual encoder each alone."""
        return list(self._intra_streams(pictures, qp))

    def _intra_streams(self, pictures: Iterable[Sequence[np.ndarray]], qp: int) -> Iterator[bytes]:
        count = 1 if self.perceptual else TOGETHER  # QPA looks at the picture before
        for together in batches(of_one_size(pictures, qp), count, TOGETHER_SAMPLES):
            data = self._coded_together(together, qp)
            units = list(access_units(data))
            if len(units) != len(together):
                raise ProcessError(
                    f"expected {len(together)} pictures of VVenC, found {len(units)}; install "
                    "another version of imageio-ffmpeg"
                )
            bits = order_bits(data)
            yield from (moved(unit, -number, bits) for number, unit in enumerate(units))

    def _coded_together(self, pictures: Sequence[Sequence[np.ndarray]], qp: int) -> bytes:
        """One stream of intra pictures of one size, each an IDR picture with its parameter sets."""
        height, width = pictures[0][0].shape
        command = self.encode_command(height, width, qp, len(pictures[0]) == 1)
        raw = b"".join(map(_raw, pictures))
        try:
            data = run([ffmpeg_program(), *command], stdin=raw, repair=FFMPEG_REPAIR).stdout
        except ProcessError as error:
            if error.exit_status is None:
                raise
            raise ProcessError(
                f"VVenC could not code a picture of {height} x {width} at QP {qp} (its stream must "
                f"fit {height * width} bytes; a higher QP makes it smaller): {error}",
                error.exit_status,
            ) from None
        message = re.search(rb"[ -~\n]{24,}\Z", data)  # no stream ends in so much plain text
        if message:
            text = " ".join(message[0].decode().split())
            raise ProcessError(f"VVenC wrote a message into its stream: {text}")
        return data

    def encode_frames(
        self, frames: Iterable[Sequence[np.ndarray]], qp: int, intra_period: int = 1,
        frame_rate: tuple[int, int] = (1, 1),
    ) -> Iterator[bytes]:  # fmt: skip
        """The access units of a sequence in decoding order: one after the other, a VVC stream.

        intra_period 1: every picture as `encode` codes it, its parameter sets sent once.
        Otherwise an intra picture every so many frames, and inter prediction between them.
        frame_rate: as Vtm takes it; VVenC is told one frame a second, whatever it is.
        """
        if intra_period == 1:
            return once(self._intra_streams(frames, qp))
        return self._inter_frames(frames, qp, intra_period)

    def _inter_frames(
        self, frames: Iterable[Sequence[np.ndarray]], qp: int, intra_period: int
    ) -> Iterator[bytes]:
        frames = iter(frames)
        first = next(frames, None)
        if first is None:
            return
        size, luma_only = check_planes(first, qp), len(first) == 1
        command = self.encode_command(*size, qp, luma_only, intra_period)
        with tempfile.TemporaryDirectory(prefix="vcm-vvenc-") as folder:
            stream = Path(folder, "out.vvc")
            pictures = of_one_size(itertools.chain([first], frames), qp)
            command[-1] = str(stream)  # VVenC may write messages to stdout
            feed([ffmpeg_program(), *command], map(_raw, pictures), repair=FFMPEG_REPAIR)
            with (
                stream.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                yield from access_units(data)

    def encode_command(
        self, height: int | str, width: int | str, qp: int | str, luma_only: bool,
        intra_period: int | str = 1,
    ) -> list[str]:  # fmt: skip
        """The arguments of FFmpeg: for intra pictures, or for a sequence with inter prediction."""
        parameters = PICTURE_PARAMETERS | (LUMA_PARAMETERS if luma_only else {})
        if intra_period != 1:
            parameters = {k: v for k, v in parameters.items() if k not in INTRA_ONLY}
            parameters["IntraPeriod"] = intra_period
            parameters |= LOW_DELAY_PARAMETERS if self.low_delay else {}
        parameters |= PRESET_PARAMETERS.get(self.preset, {}) | dict(self.parameters)
        pipe_in = ffmpeg.input(
            "pipe:0", format="rawvideo", pix_fmt="yuv420p10le", s=f"{width}x{height}", r=1
        )
        options = {
            "format": "vvc",
            "vcodec": "libvvenc",
            "preset": self.preset,
            "qp": qp,
            "qpa": int(self.perceptual),
            "threads": self.threads,
            "vvenc-params": ":".join(f"{key}={value}" for key, value in parameters.items()),
        }
        return _ffmpeg_arguments(pipe_in.output("pipe:1", **options))

    def decode(self, data: bytes) -> Planes:
        """The planes of a stream of one picture; BitstreamError where it is not decodable."""
        return self.decode_batch([data])[0]

    def decode_batch(self, streams: Sequence[bytes]) -> list[Planes]:
        """The planes of each of some streams of one picture, all of one format, by one process.

        Raises BitstreamError where one is not decodable.
        """
        picture = read_format(streams[0])
        if len(streams) > 1:
            for data in streams:
                _require_one_picture(data, picture)
        command = self._decode_command("pipe:0")
        with _corrupt_where_it_fails():
            raw = run(command, stdin=b"".join(streams), repair=FFMPEG_REPAIR).stdout
        ends = range(picture.bytes, picture.bytes * len(streams), picture.bytes)
        parts = [raw[start:end] for start, end in zip((0, *ends), (*ends, None), strict=True)]
        return [split_planes(part, picture) for part in parts]

    def decode_frames(self, units: Iterable[bytes]) -> Iterator[Planes]:
        """The planes of each picture of a sequence in the order of display, as they come.

        units: access units in decoding order. Raises BitstreamError where one is not decodable.
        """
        units = iter(units)
        first = next(units, b"")
        picture = read_format(first)
        with tempfile.TemporaryDirectory(prefix="vcm-ffmpeg-") as folder:
            stream = Path(folder, "in.vvc")
            with stream.open("wb") as file:
                file.writelines(itertools.chain([first], units))
            command = self._decode_command(str(stream))
            with _corrupt_where_it_fails():
                for raw in blocks(command, picture.bytes, repair=FFMPEG_REPAIR):
                    yield split_planes(raw, picture)

    def _decode_command(self, stream: str) -> list[str]:
        """FFmpeg and its arguments: from a stream to raw planes of every picture."""
        source = ffmpeg.input(stream, format="vvc", threads=self.threads, err_detect="explode")
        output = source.output("pipe:1", format="rawvideo", fps_mode="passthrough")
        return [ffmpeg_program(), *_ffmpeg_arguments(output, "-xerror")]

    def identity(self, luma_only: bool, random_access: bool = False) -> dict:
        """What determines the stream: versions and command line (not the number of threads)."""
        period = "PERIOD" if random_access else 1
        command = self.encode_command("H", "W", "QP", luma_only, period)
        command[command.index("-threads") + 1] = "N"
        return {
            **vvenc_versions(),
            "preset": self.preset,
            "chroma_format": "4:0:0" if luma_only else "4:2:0",
            "command": " ".join(["ffmpeg", *command]),
        }


def vvenc_versions() -> dict[str, str]:
    """Versions of FFmpeg and of its VVenC; ProcessError where there is no such encoder."""
    return dict(_vvenc_versions(ffmpeg_program()))


@functools.lru_cache
def _vvenc_versions(program: str) -> tuple[tuple[str, str], ...]:
    banner = run([program, "-version"], repair=FFMPEG_REPAIR).stdout.decode("utf-8", "replace")
    source = ffmpeg.input("color=s=16x16", format="lavfi")
    options = {"format": "null", "vcodec": "libvvenc", "pix_fmt": "yuv420p10le", "frames:v": 1}
    command = ffmpeg.compile(source.output("-", qpa=0, **options), cmd=program)
    try:
        log = run([*command, "-loglevel", "verbose"]).stderr.decode("utf-8", "replace")
    except ProcessError as error:
        raise ProcessError(f"FFmpeg has no working libvvenc; {FFMPEG_REPAIR} ({error})") from None
    version = re.search(r"libvvenc version: (\S+)", log)
    return (
        ("encoder", f"VVenC {version[1] if version else 'of unknown version'}"),
        ("ffmpeg", banner.split()[2]),
    )


@contextmanager
def _corrupt_where_it_fails() -> Iterator[None]:
    """A decoder that ends with an error has been given a damaged stream: a BitstreamError."""
    try:
        yield
    except ProcessError as error:
        if error.exit_status is None:
            raise
        raise BitstreamError(f"the VVC stream is truncated or corrupt: {error}") from None


def _require_one_picture(data: bytes, expected: PictureFormat) -> None:
    """Raise BitstreamError unless a stream holds one picture of a format, in one slice: otherwise
    its pictures might be taken for those of the next stream."""
    found, slices = read_format(data), sum(kind <= LAST_SLICE_NAL for kind, _ in nal_units(data))
    if found != expected or slices != 1:
        raise BitstreamError(
            f"expected one VVC picture of {expected}, found {slices} of {found}: decode it alone"
        )


def _ffmpeg_arguments(output, *more: str) -> list[str]:
    quiet = ("-hide_banner", "-nostdin", "-loglevel", "error", *more)
    return [*quiet, *ffmpeg.compile(output, cmd="ffmpeg")[1:]]


def _raw(planes: Sequence[np.ndarray]) -> bytes:
    """Planes as FFmpeg reads them, with mid-level chroma where there is none."""
    if len(planes) == 1:
        height, width = planes[0].shape
        planes = (planes[0], *[np.full((height // 2, width // 2), MID_LEVEL, np.uint16)] * 2)
    return b"".join(map(samples_of, planes))
