# SPDX-License-Identifier: BSD-3-Clause
"""How feature layers become one 10-bit picture, and how they come back out of it.

The layout is that of the harness, sample for sample. A layer of C channels of h x w is a table of
tiles, channels in order, row by row. R is the largest divisor of C not above sqrt(C):

- The layer with the most features comes first (the earlier one where two have as many). It has
  R columns of C / R rows, or C / R columns of R rows where h > w. Its width is the frame's width.
- Each following layer, by falling number of features, stands below; it has as many columns as
  its tiles fit into the frame's width.

Where a layer's tiles do not fill its rows (a channel count that the columns do not divide, or a
tile width that does not divide the frame's; the harness fails there), the last row stays open at
the end and each row at its right: those samples are padding, at the level of the value zero.
The frame is as wide as the widest tile where that is more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vcm_plugin.errors import InputError
from vcm_plugin.stages import stage

MAX_SAMPLE = 1023  # 10 bits


@dataclass(frozen=True)
class Tiles:
    """A layer's place in the frame: `rows` x `columns` tiles of `height` x `width`, at `top`."""

    name: str
    channels: int
    height: int
    width: int
    rows: int
    columns: int
    top: int


@dataclass(frozen=True)
class Layout:
    """Size of the frame in samples, and the layers in it from top to bottom."""

    height: int
    width: int
    layers: tuple[Tiles, ...]


def layout(shapes: Mapping[str, tuple[int, int, int]]) -> Layout:
    """The layout of layers of given shapes (channels, height, width).

    >>> frame = layout({"p2": (256, 200, 304), "p3": (256, 100, 152)})
    >>> frame.height, frame.width, [(t.rows, t.columns) for t in frame.layers]
    (4000, 4864, [(16, 16), (8, 32)])
    """
    if not shapes or any(len(shape) != 3 or min(shape) < 1 for shape in shapes.values()):
        raise InputError(f"expected layers (channels, height, width), found {dict(shapes)}")
    ordered = sorted(shapes.items(), key=lambda item: -math.prod(item[1]))
    first_width = _columns_of_first(*ordered[0][1]) * ordered[0][1][2]
    frame_width = max(first_width, *(shape[2] for _, shape in ordered), 1)
    tiles, top = [], 0
    for index, (name, (channels, height, width)) in enumerate(ordered):
        columns = first_width // width if index == 0 else frame_width // width
        rows = -(-channels // columns)
        tiles.append(Tiles(name, channels, height, width, rows, columns, top))
        top += rows * height
    return Layout(top, frame_width, tuple(tiles))


@stage("conversion")
def pack(layers: Mapping[str, np.ndarray], value_range: tuple[float, float]) -> np.ndarray:
    """Layers (C, h, w) as one picture of 10-bit samples, uint16 (H, W)."""
    frame = layout({name: layer.shape for name, layer in layers.items()})
    picture = np.full((frame.height, frame.width), zero_level(value_range), np.uint16)
    for tiles in frame.layers:
        samples = quantise(layers[tiles.name], value_range)
        picture_tiles = _tiles_of(picture, tiles)  # (rows, columns, h, w)
        full = tiles.channels // tiles.columns
        head = samples[: full * tiles.columns]
        picture_tiles[:full] = head.reshape(full, tiles.columns, tiles.height, tiles.width)
        if full < tiles.rows:
            picture_tiles[full, : tiles.channels - full * tiles.columns] = samples[len(head) :]
    return picture


@stage("conversion")
def unpack(
    picture: np.ndarray,
    shapes: Mapping[str, tuple[int, int, int]],
    value_range: tuple[float, float],
) -> dict[str, np.ndarray]:
    """The float32 layers of given shapes, in the order of `shapes`, from a packed picture."""
    frame = layout(shapes)
    if picture.shape != (frame.height, frame.width):
        raise InputError(
            f"expected a packed picture of {frame.height} x {frame.width} for the layers "
            f"{dict(shapes)}, found {' x '.join(map(str, picture.shape))}"
        )
    found = {}
    for tiles in frame.layers:
        samples = _tiles_of(picture, tiles).reshape(-1, tiles.height, tiles.width)
        found[tiles.name] = dequantise(samples[: tiles.channels], value_range)
    return {name: found[name] for name in shapes}


def quantise(features: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """floor(clamp((f - low) / (high - low), 0, 1) * 1023) in float32, as uint16.

    >>> quantise(np.float32([-9, -1, 0, 1, 3]), (-1.0, 1.0)).tolist()
    [0, 0, 511, 1023, 1023]
    """
    low, span = _low_and_span(value_range)
    scaled = (np.asarray(features, np.float32) - low) / span
    return np.floor(np.clip(scaled, 0, 1) * np.float32(MAX_SAMPLE)).astype(np.uint16)


def dequantise(samples: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """x / 1023 * (high - low) + low in float32."""
    low, span = _low_and_span(value_range)
    return samples.astype(np.float32) / np.float32(MAX_SAMPLE) * span + low


def zero_level(value_range: tuple[float, float]) -> int:
    """The sample of the value zero, round(-low / (high - low) * 1023), within 0 .. 1023."""
    low, high = value_range
    return min(max(math.floor(-low / (high - low) * MAX_SAMPLE + 0.5), 0), MAX_SAMPLE)


def _low_and_span(value_range: tuple[float, float]) -> tuple[np.float32, np.float32]:
    low, high = value_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"expected a finite value range low < high, found {low:g} .. {high:g}")
    return np.float32(low), np.float32(high - low)


def _columns_of_first(channels: int, height: int, width: int) -> int:
    divisor = next(n for n in range(math.isqrt(channels), 0, -1) if channels % n == 0)
    return channels // divisor if height > width else divisor


def _tiles_of(picture: np.ndarray, tiles: Tiles) -> np.ndarray:
    """View (rows, columns, h, w) of a layer's place in the picture."""
    bottom = tiles.top + tiles.rows * tiles.height
    place = picture[tiles.top : bottom, : tiles.columns * tiles.width]
    grid = place.reshape(tiles.rows, tiles.height, tiles.columns, tiles.width)
    return grid.transpose(0, 2, 1, 3)
