# SPDX-License-Identifier: BSD-3-Clause
"""How one 10-bit picture becomes a VVC byte stream and a picture again: VVenC or VTM.

Both classes have encode(planes, qp) -> bytes, decode(bytes) -> planes and identity(luma_only);
encode_frames and decode_frames do the same for the pictures of a sequence, one after the other.
Planes are uint16 arrays of 10-bit samples: (luma,) is coded as 4:0:0, (luma, cb, cr) as 4:2:0.
QP is the QP of the (only, intra) slice. `coded_size` says which sizes can be coded.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import mmap
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
import numpy as np

from anchors.vvc_stream import (
    PARAMETER_SETS,
    PictureFormat,
    access_units,
    parameter_sets,
    raw_nal_units,
    read_format,
)
from vcm_plugin.bitstream import BitstreamError
from vcm_plugin.errors import InputError
from vcm_plugin.process import (
    FFMPEG_REPAIR,
    ProcessError,
    blocks,
    feed,
    ffmpeg_program,
    run,
)

Planes = tuple[np.ndarray, ...]

PRESETS = ("faster", "fast", "medium", "slow", "slower")
# libvvenc takes 8, but FFmpeg gives it a buffer of one byte per pixel of luma, parameter sets
# included, which a smaller picture may overflow.
MIN_SIZE = 32
# FFmpeg's wrapper of VVenC 1.15 ends without having written anything after 7 to 10 intra pictures.
TOGETHER = 6
MID_LEVEL = 512  # chroma of libvvenc's input where only luma is coded
# One intra picture, all of its bits spent on the picture, its QP as given (the encoder's default
# is three below), tools for moving pictures off.
PICTURE_PARAMETERS = {
    "IntraPeriod": 1,
    "GOPSize": 1,
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
INTRA_ONLY = ("IntraPeriod", "GOPSize", "IntraQPOffset", "LookAhead", "ALFSpeed", "MaxMTTDepth")
LUMA_PARAMETERS = {"ChromaFormatIDC": 400}
# Tools of the slower presets that cost the fastest two little time: on FPN features and on a
# photograph they saved 6 to 7 % of the rate of "faster" and 1 % of that of "fast".
PRESET_PARAMETERS = {
    "faster": {"DepQuant": 1, "SignHideFlag": 0, "RDOQ": 1, "MIP": 1, "FastMIP": 3},
    "fast": {"MIP": 1, "FastMIP": 3},
}
VTM_PATHS = ("VCM_VTM_ENCODER", "VCM_VTM_DECODER", "VCM_VTM_CONFIG")


def coded_size(height: int, width: int) -> tuple[int, int]:
    """The smallest size of at least that height and width that both encoders take.

    >>> coded_size(4250, 4864), coded_size(321, 9)
    ((4250, 4864), (322, 32))
    """
    return max(height + height % 2, MIN_SIZE), max(width + width % 2, MIN_SIZE)


# --- VVenC and FFmpeg's own VVC decoder -----------------------------------------------------


@dataclass(frozen=True)
class VVenC:
    """VVenC and the native VVC decoder of one FFmpeg, through pipes.

    threads: of encoder and decoder; the stream does not depend on it (a test holds that).
    parameters: further parameters of VVenC, over those of this file.
    """

    preset: str = "faster"
    threads: int = 1
    parameters: tuple[tuple[str, int | str], ...] = ()

    def __post_init__(self):
        if self.preset not in PRESETS:
            raise InputError(f"expected a preset of {', '.join(PRESETS)}; found {self.preset!r}")
        if self.threads < 1:
            raise InputError(f"expected one encoder thread or more, found {self.threads}")

    def encode(self, planes: Sequence[np.ndarray], qp: int) -> bytes:
        """The VVC byte stream of one picture."""
        height, width = check_planes(planes, qp)
        luma_only = len(planes) == 1
        raw = _raw(planes)
        command = self.encode_command(height, width, qp, luma_only)
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

    def encode_together(self, frames: Sequence[Sequence[np.ndarray]], qp: int) -> bytes:
        """Up to TOGETHER intra pictures of one size in one stream, by one process: each decodes to
        the samples that `encode` makes of it. For training on many small pictures."""
        assert 0 < len(frames) <= TOGETHER
        height, width = check_planes(frames[0], qp)
        raw = b"".join(_raw(_same_planes(planes, frames[0], qp)) for planes in frames)
        command = self.encode_command(height, width, qp, len(frames[0]) == 1)
        start = command.index("-frames:v")
        del command[start : start + 2]
        return run([ffmpeg_program(), *command], stdin=raw, repair=FFMPEG_REPAIR).stdout

    def encode_frames(
        self, frames: Iterable[Sequence[np.ndarray]], qp: int, intra_period: int = 1
    ) -> Iterator[bytes]:
        """The access units of a sequence in decoding order: one after the other, a VVC stream.

        intra_period 1: every picture as `encode` codes it, its parameter sets sent once.
        Otherwise an intra picture every so many frames, and inter prediction between them.
        """
        if intra_period == 1:
            return _intra_frames(self, frames, qp)
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
            pictures = itertools.chain([first], (_same_planes(f, first, qp) for f in frames))
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
        """The arguments of FFmpeg: for one picture, or for a sequence with inter prediction."""
        parameters = PICTURE_PARAMETERS | (LUMA_PARAMETERS if luma_only else {})
        if intra_period != 1:
            parameters = {k: v for k, v in parameters.items() if k not in INTRA_ONLY}
            parameters["IntraPeriod"] = intra_period
        parameters |= PRESET_PARAMETERS.get(self.preset, {}) | dict(self.parameters)
        pipe_in = ffmpeg.input(
            "pipe:0", format="rawvideo", pix_fmt="yuv420p10le", s=f"{width}x{height}", r=1
        )
        options = {
            "format": "vvc",
            "vcodec": "libvvenc",
            **({"frames:v": 1} if intra_period == 1 else {}),
            "preset": self.preset,
            "qp": qp,
            "qpa": 0,
            "threads": self.threads,
            "vvenc-params": ":".join(f"{key}={value}" for key, value in parameters.items()),
        }
        return _ffmpeg_arguments(pipe_in.output("pipe:1", **options))

    def decode(self, data: bytes) -> Planes:
        """The planes of a stream of one picture; BitstreamError where it is not decodable."""
        picture = read_format(data)
        pipe_in = ffmpeg.input("pipe:0", format="vvc", threads=self.threads, err_detect="explode")
        command = _ffmpeg_arguments(pipe_in.output("pipe:1", format="rawvideo"), "-xerror")
        try:
            done = run([ffmpeg_program(), *command], stdin=data, repair=FFMPEG_REPAIR)
        except ProcessError as error:
            if error.exit_status is None:
                raise
            raise BitstreamError(f"the VVC stream is truncated or corrupt: {error}") from None
        return _split_planes(done.stdout, picture)

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
            source = ffmpeg.input(
                str(stream), format="vvc", threads=self.threads, err_detect="explode"
            )
            output = source.output("pipe:1", format="rawvideo", fps_mode="passthrough")
            command = [ffmpeg_program(), *_ffmpeg_arguments(output, "-xerror")]
            try:
                for raw in blocks(command, picture.bytes, repair=FFMPEG_REPAIR):
                    yield _split_planes(raw, picture)
            except ProcessError as error:
                if error.exit_status is None:
                    raise
                raise BitstreamError(f"the VVC stream is truncated or corrupt: {error}") from None

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


def _ffmpeg_arguments(output, *more: str) -> list[str]:
    quiet = ("-hide_banner", "-nostdin", "-loglevel", "error", *more)
    return [*quiet, *ffmpeg.compile(output, cmd="ffmpeg")[1:]]


# --- VTM ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vtm:
    """The executables of VTM and its all-intra configuration, at paths that the user gives.

    The command line is that of the common test conditions; no VTM was at hand to run it.
    """

    encoder: Path
    decoder: Path
    config: Path

    @classmethod
    def from_environment(cls) -> Vtm:
        """Paths from VCM_VTM_ENCODER, VCM_VTM_DECODER and VCM_VTM_CONFIG."""
        missing = [name for name in VTM_PATHS if not os.environ.get(name)]
        if missing:
            raise ProcessError(
                f"VTM is not configured: set {', '.join(missing)} to the paths of "
                "EncoderAppStatic, DecoderAppStatic and encoder_intra_vtm.cfg"
            )
        return cls(*(Path(os.environ[name]) for name in VTM_PATHS))

    def encode(self, planes: Sequence[np.ndarray], qp: int) -> bytes:
        """The VVC byte stream of one picture."""
        height, width = check_planes(planes, qp)
        with tempfile.TemporaryDirectory(prefix="vcm-vtm-") as folder:
            source, stream = Path(folder, "in.yuv"), Path(folder, "out.bin")
            try:
                source.write_bytes(b"".join(map(_samples, planes)))
            except OSError as error:
                raise ProcessError(f"could not write a picture for VTM: {error}") from None
            command = self.encode_command(source, stream, height, width, qp, len(planes) == 1)
            run(command, repair="set VCM_VTM_ENCODER to the path of EncoderAppStatic")
            return _read_output(stream, "VTM's encoder")

    def encode_frames(
        self, frames: Iterable[Sequence[np.ndarray]], qp: int, intra_period: int = 1
    ) -> Iterator[bytes]:
        """The access units of a sequence, every picture an intra picture."""
        if intra_period != 1:
            raise InputError("VTM codes sequences all-intra here: set vvc_random_access to false")
        return _intra_frames(self, frames, qp)

    def decode_frames(self, units: Iterable[bytes]) -> Iterator[Planes]:
        """The planes of each picture of an all-intra sequence."""
        units = iter(units)
        first = next(units, b"")
        sets = parameter_sets(first)
        yield self.decode(first)
        for unit in units:
            yield self.decode(sets + unit)

    def encode_command(
        self, source: Path | str, stream: Path | str, height: int | str, width: int | str,
        qp: int | str, luma_only: bool,
    ) -> list[str]:  # fmt: skip
        """The command line of CTC.md for one picture; chroma format 420 for three planes."""
        command = f"-q {qp} -o {os.devnull} -wdt {width} -hgt {height} -fr 1 -ts 1 -v 6"
        command += " --Level=6.2 --IntraPeriod=1 --InputChromaFormat="
        command += "400" if luma_only else "420"
        command += " --InputBitDepth=10 --InternalBitDepth=10 --ConformanceWindowMode=1 -dph 0"
        command += " --DecodingRefreshType=1"
        files = ["-i", str(source), "-c", str(self.config)]
        output = [f"--BitstreamFile={stream}", "--FramesToBeEncoded=1"]
        return [str(self.encoder), *files, *command.split(), *output]

    def decode(self, data: bytes) -> Planes:
        """The planes of a stream of one picture."""
        picture = read_format(data)
        with tempfile.TemporaryDirectory(prefix="vcm-vtm-") as folder:
            stream, output = Path(folder, "out.bin"), Path(folder, "dec.yuv")
            try:
                stream.write_bytes(data)
            except OSError as error:
                raise ProcessError(f"could not write a stream for VTM: {error}") from None
            try:
                run(
                    [self.decoder, "-b", stream, "-o", output, "-d", "10"],
                    repair="set VCM_VTM_DECODER to the path of DecoderAppStatic",
                )
            except ProcessError as error:
                if error.exit_status is None:
                    raise
                raise BitstreamError(f"the VVC stream is truncated or corrupt: {error}") from None
            return _split_planes(_read_output(output, "VTM's decoder"), picture)

    def identity(self, luma_only: bool, random_access: bool = False) -> dict:
        """What determines the stream: digests of encoder and configuration, and the command."""
        names = {"encoder": self.encoder, "config": self.config}
        placeholder = Vtm(Path("EncoderAppStatic"), Path(), Path("CONFIG"))
        command = placeholder.encode_command("IN", "OUT", "H", "W", "QP", luma_only)
        return {
            "encoder": "VTM",
            **{f"{name}_sha256": _sha256(path) for name, path in names.items()},
            "chroma_format": "4:0:0" if luma_only else "4:2:0",
            "command": " ".join(command),
        }


def _read_output(path: Path, program: str) -> bytes:
    if not path.is_file():
        raise ProcessError(f"{program} ended without an error, but wrote no file")
    return path.read_bytes()


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ProcessError(
            f"{path} of VTM cannot be read ({error.strerror}); correct VCM_VTM_ENCODER, "
            "VCM_VTM_DECODER and VCM_VTM_CONFIG"
        ) from None


# --- what both share ------------------------------------------------------------------------


def _intra_frames(
    encoder: VVenC | Vtm, frames: Iterable[Sequence[np.ndarray]], qp: int
) -> Iterator[bytes]:
    """Each picture coded by itself; parameter sets that are those of the first are left out."""
    first, sets = None, set()
    for planes in frames:
        first = planes if first is None else first
        unit = encoder.encode(_same_planes(planes, first, qp), qp)
        nals = list(raw_nal_units(unit))
        yield b"".join(raw for _, raw in nals if raw not in sets)
        sets = sets or {raw for kind, raw in nals if kind in PARAMETER_SETS}


def _same_planes(
    planes: Sequence[np.ndarray], first: Sequence[np.ndarray], qp: int
) -> Sequence[np.ndarray]:
    check_planes(planes, qp)
    found, expected = ([plane.shape for plane in frame] for frame in (planes, first))
    if found != expected:
        raise InputError(f"expected frames of one size, {expected}, found one of {found}")
    return planes


def _samples(plane: np.ndarray) -> bytes:
    return plane.astype("<u2").tobytes()


def _raw(planes: Sequence[np.ndarray]) -> bytes:
    """Planes as FFmpeg reads them, with mid-level chroma where there is none."""
    if len(planes) == 1:
        height, width = planes[0].shape
        planes = (planes[0], *[np.full((height // 2, width // 2), MID_LEVEL, np.uint16)] * 2)
    return b"".join(map(_samples, planes))


def parse_qp(text: str) -> int:
    """A QP of VVC, 0 .. 63."""
    if not re.fullmatch(r"[0-9]{1,2}", text) or int(text) > 63:
        raise InputError(f"expected a QP from 0 to 63 as rate point, found {text!r}")
    return int(text)


def check_planes(planes: Sequence[np.ndarray], qp: int) -> tuple[int, int]:
    """(height, width) of the luma plane, after a check of everything that an encoder assumes."""
    height, width = planes[0].shape
    half = (height // 2, width // 2)
    if coded_size(height, width) != (height, width):
        raise InputError(
            f"expected even sizes of at least {MIN_SIZE}, found {height} x {width}: pad the "
            "picture to coded_size first"
        )
    if len(planes) not in (1, 3) or any(plane.shape != half for plane in planes[1:]):
        raise InputError(
            f"expected a luma plane alone or with two chroma planes of {half[0]} x {half[1]}, "
            f"found {[plane.shape for plane in planes]}"
        )
    if any(plane.dtype != np.uint16 or plane.max() > 1023 for plane in planes):
        raise InputError("expected 10-bit samples, 0 .. 1023, in uint16 arrays")
    if not 0 <= qp <= 63:
        raise InputError(f"expected a QP from 0 to 63, found {qp}")
    return height, width


def intra_period(frame_rate: tuple[int, int], random_access: bool) -> int:
    """Frames from one intra picture to the next: about a second, as the test conditions have it.

    >>> [intra_period((fps, 1), True) for fps in (24, 30, 50, 60)], intra_period((50, 1), False)
    ([32, 32, 64, 64], 1)
    """
    return 32 * max(1, round(frame_rate[0] / frame_rate[1] / 32)) if random_access else 1


def _split_planes(raw: bytes, picture: PictureFormat) -> Planes:
    height, width = picture.height, picture.width
    expected = picture.bytes
    # VTM may write mid-level chroma beside the luma of a 4:0:0 picture.
    if len(raw) != expected and not (picture.planes == 1 and len(raw) == 3 * height * width):
        raise BitstreamError(
            f"expected one decoded picture of {height} x {width} ({expected} bytes), found "
            f"{len(raw)} bytes: the VVC stream is truncated, corrupt or holds other pictures"
        )
    samples, planes, start = np.frombuffer(raw, "<u2"), [], 0
    for h, w in picture.sizes:
        planes.append(samples[start : start + h * w].reshape(h, w).astype(np.uint16))
        start += h * w
    return tuple(planes)
