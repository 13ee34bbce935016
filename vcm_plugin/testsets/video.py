# SPDX-License-Identifier: BSD-3-Clause
"""Which frames does a video file hold, and does it hold those that are annotated?

FFmpeg tells the size and the number of frames, by decoding them: what a container says of itself
need not be true. A rotation that a phone wrote into the file is applied, as that of a picture is,
so the size is the one after it. A .yuv file says nothing of itself: its bytes must be those of the
annotated frames, 4:2:0 with 8 or 10 bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
import numpy as np

from vcm_plugin.errors import InputError
from vcm_plugin.process import FFMPEG_REPAIR, ProcessError, blocks, ffmpeg_program, run

SUFFIXES = (".yuv", ".mp4", ".mkv", ".mov", ".m4v", ".avi", ".webm", ".y4m")  # in any case
YUV_FORMATS = {1: "yuv420p", 2: "yuv420p10le"}  # by bytes of a sample
MOST_FRAMES = 100_000


@dataclass(frozen=True)
class Video:
    """What a video file holds: its frames and their size in pixels, after any rotation."""

    height: int
    width: int
    frames: int


def video_path(folder: Path, name: str) -> Path | None:
    """The video file of this name without its suffix, which may be in capitals, in a folder.

    Raises InputError where there is only one of another kind.
    """
    found = [path for path in sorted(folder.glob("*")) if path.is_file() and path.stem == name]
    known = [path for path in found if path.suffix.lower() in SUFFIXES]
    if found and not known:
        raise InputError(
            f"{found[0]}: expected frames in images/, or a video named {', '.join(SUFFIXES)}; "
            "convert it with FFmpeg"
        )
    return min(known, key=lambda path: SUFFIXES.index(path.suffix.lower()), default=None)


def probe(path: Path) -> Video:
    """The size and the number of the frames of a video; all of them are decoded.

    Raises InputError where it is unreadable, damaged, or changes its size on the way.
    """
    command = _command(
        path, {}, format="framecrc", fps_mode="passthrough", vframes=MOST_FRAMES
    )  # fmt: skip
    try:
        told = run(command, repair=FFMPEG_REPAIR).stdout.decode("ascii", "replace")
    except ProcessError as error:
        raise _unreadable(path, error) from error
    size = re.search(r"^#dimensions 0: (\d+)x(\d+)", told, re.MULTILINE)
    frames = [line.split(",") for line in told.splitlines() if line and line[0] != "#"]
    if size is None or not frames:
        raise InputError(f"{path}: expected a video, found no frames in it; repair the file")
    if len({fields[4].strip() for fields in frames}) > 1:
        raise InputError(f"{path}: expected frames of one size, found several; scale them first")
    return Video(int(size[2]), int(size[1]), len(frames))


def check_video(path: Path, height: int, width: int, count: int) -> None:
    """Raise InputError where a video does not hold exactly the annotated frames of this size."""
    if path.suffix.lower() == ".yuv":
        yuv_format(path, height, width, count)
        return
    found = probe(path)
    if (found.height, found.width) != (height, width):
        raise InputError(
            f"{path}: expected frames of {height}x{width} (height x width) as annotated, found "
            f"{found.height}x{found.width} after the rotation that the file states, if any; "
            "correct the annotations, or convert the video"
        )
    if found.frames != count:
        raise InputError(
            f"{path}: expected {count} frames of {height}x{width} (height x width) as annotated, "
            f"found {found.frames}; give the whole sequence and no more"
        )


def video_frames(path: Path, height: int, width: int, count: int) -> Iterator[np.ndarray]:
    """The frames of a video in order, uint8 RGB (H, W, 3), one at a time.

    height, width, count: of the whole video, which `check_video` has found to be so.
    Raises InputError where the file turns out to be damaged.
    """
    options = {}
    if path.suffix.lower() == ".yuv":
        options = {"format": "rawvideo", "pix_fmt": yuv_format(path, height, width, count)}
        options["s"] = f"{width}x{height}"
    command = _command(path, options, format="rawvideo", pix_fmt="rgb24", fps_mode="passthrough")
    size, found = 3 * height * width, 0
    try:
        for raw in blocks(command, size, repair=FFMPEG_REPAIR):
            if len(raw) == size:
                found += 1
                yield np.frombuffer(raw, np.uint8).reshape(height, width, 3)
    except ProcessError as error:
        raise _unreadable(path, error) from error
    if found != count:
        raise InputError(
            f"{path}: expected {count} frames of {height}x{width} (height x width) as annotated, "
            f"found {found}; give the whole sequence and no more"
        )


def yuv_format(path: Path, height: int, width: int, count: int) -> str:
    """FFmpeg's name of the format of a raw file of so many frames; raises InputError."""
    pixels, found = height * width + 2 * (-(-height // 2) * -(-width // 2)), path.stat().st_size
    sizes = {count * pixels * sample_bytes: name for sample_bytes, name in YUV_FORMATS.items()}
    if found not in sizes:
        raise InputError(
            f"{path}: expected {count} frames of {height}x{width} (height x width), 4:2:0, so "
            f"{' or '.join(map(str, sizes))} bytes (8 or 10 bits a sample), found {found} bytes"
        )
    return sizes[found]


def _command(path: Path, reading: dict, **writing) -> list[str]:
    """FFmpeg over the first video stream of a file, which ends where it is damaged.

    Only files are read: a playlist cannot make FFmpeg open an address of the network.
    """
    source = ffmpeg.input(f"file:{path}", protocol_whitelist="file,pipe,crypto,data", **reading)
    output = ffmpeg.output(source["V:0"], "pipe:1", **writing)
    program, *options = ffmpeg.compile(output, cmd=ffmpeg_program())
    return [program, "-hide_banner", "-nostdin", "-loglevel", "error", "-xerror", *options]


def _unreadable(path: Path, error: ProcessError) -> InputError:
    if error.exit_status is None:  # FFmpeg itself is missing
        return error
    return InputError(f"{path}: expected a readable video, found: {error}")
