# SPDX-License-Identifier: BSD-3-Clause
"""Which planes does a VVC encoder take? 10-bit samples, and RGB <-> Y'CbCr 4:2:0 of BT.709."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.stages import stage
from vcm_plugin.vvc.stream import (
    PictureFormat,
)

Planes = tuple[np.ndarray, ...]
# libvvenc takes 8, but FFmpeg gives it a buffer of one byte per pixel of luma, parameter sets
# included, which a smaller picture may overflow.
MIN_SIZE = 32


def coded_size(height: int, width: int) -> tuple[int, int]:
    """The smallest size of at least that height and width that both encoders take.

    >>> coded_size(4250, 4864), coded_size(321, 9)
    ((4250, 4864), (322, 32))
    """
    return max(height + height % 2, MIN_SIZE), max(width + width % 2, MIN_SIZE)


def rgb_size(picture: np.ndarray) -> tuple[int, int]:
    """(height, width) of an RGB picture; raises InputError for what is not uint8 (H, W, 3)."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise InputError(
            f"expected a uint8 picture (H, W, 3), found {picture.dtype} {picture.shape}; "
            "vcm_plugin.read_picture makes one of a file"
        )
    return picture.shape[:2]


def samples_of(plane: np.ndarray) -> bytes:
    """A plane (H, W) as encoders read it: 16 bits a sample, the lower byte first."""
    return plane.astype("<u2").tobytes()


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


def split_planes(raw: bytes, picture: PictureFormat) -> Planes:
    """Decoded samples, 16 bits each -> the planes, uint16 (H, W) and (H / 2, W / 2).

    Raises BitstreamError where there are more or fewer samples than the format says.
    """
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


# R'G'B' in 0 .. 1 -> Y' in 0 .. 1, Cb and Cr in -0.5 .. 0.5 (Rec. ITU-R BT.709).
RED, BLUE = 0.2126, 0.0722
TO_YCBCR = np.array(
    [
        [RED, 1 - RED - BLUE, BLUE],
        [-RED / (2 - 2 * BLUE), (RED + BLUE - 1) / (2 - 2 * BLUE), 0.5],
        [0.5, (RED + BLUE - 1) / (2 - 2 * RED), -BLUE / (2 - 2 * RED)],
    ]
)
LEVELS = ((64, 876), (512, 896), (512, 896))  # offset and span of Y', Cb, Cr in 10 bits
# Change of Y', Cb, Cr in 10-bit levels -> change of R, G, B in 0 .. 255.
RGB_OF_LEVELS = 255 * np.linalg.inv(TO_YCBCR) / np.array([span for _, span in LEVELS])


@stage("conversion")
def to_planes(picture: np.ndarray, size: tuple[int, int], resized: bool) -> Planes:
    """10-bit Y', Cb, Cr planes of an RGB picture, resampled or padded to a coded size."""
    if not resized:
        margins = [(0, size[i] - picture.shape[i]) for i in range(2)] + [(0, 0)]
        picture = np.pad(picture, margins, mode="edge")
    ycbcr = picture.reshape(-1, 3) @ (TO_YCBCR.T / 255)
    ycbcr = ycbcr.reshape(picture.shape).astype(np.float32)
    half = (size[0] // 2, size[1] // 2)
    planes = []
    for index, (offset, span) in enumerate(LEVELS):
        plane = _resample(ycbcr[..., index], half if index else size)
        planes.append(np.rint(plane * span + offset).clip(4, 1019).astype(np.uint16))
    return tuple(planes)


@stage("conversion")
def to_picture(planes: Planes, source: tuple[int, int], resized: bool) -> np.ndarray:
    """The RGB picture of decoded planes, resampled or cropped to the source's size."""
    return to_levels(to_rgb(planes, source, resized))


def to_rgb(planes: Planes, source: tuple[int, int], resized: bool) -> np.ndarray:
    """What `to_picture` rounds: float64 RGB (H, W, 3), about 0 .. 255."""
    size = source if resized else planes[0].shape
    ycbcr = np.empty((*size, 3))
    for index, (offset, span) in enumerate(LEVELS):
        plane = (planes[index].astype(np.float32) - offset) / span
        ycbcr[..., index] = _resample(plane, size)
    rgb = ycbcr.reshape(-1, 3) @ np.linalg.inv(TO_YCBCR).T * 255
    return rgb.reshape(ycbcr.shape)[: source[0], : source[1]]


def to_levels(rgb: np.ndarray) -> np.ndarray:
    """Float RGB -> uint8."""
    return np.ascontiguousarray(np.rint(rgb).clip(0, 255).astype(np.uint8))


def resample_planes(
    planes: Planes, size: tuple[int, int], source: tuple[int, int], resized: bool
) -> list[np.ndarray]:
    """Decoded planes at the size of the source, float32: Y' (H, W), Cb and Cr (H/2, W/2).

    size: even, what comes back, at least that of the source; the last samples are repeated.
    resized: the planes are resampled to the source's size; else they have it already.
    """
    found = []
    for index, plane in enumerate(planes):
        shrink = 2 if index else 1
        own = tuple(-(-n // shrink) for n in source)
        plane = plane.astype(np.float32)
        plane = _resample(plane, own) if resized else plane[: own[0], : own[1]]
        margins = [(0, n // shrink - m) for n, m in zip(size, own)]
        found.append(np.pad(plane, margins, mode="edge"))
    return found


def _resample(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if plane.shape == tuple(size):
        return plane
    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.LANCZOS))
