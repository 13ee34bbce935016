# SPDX-License-Identifier: BSD-3-Clause
"""How channels of falling importance become one picture: whole ones first, halved ones below.

All channels have one grid (h, w). The first `whole` stand as tiles of h x w, row by row, then the
others as tiles of ceil(h / 2) x ceil(w / 2). A halved channel has the low quarter of the cosine
coefficients of the whole one, as they are: so its values are up to twice as far from zero, and its
errors weigh as those of a whole one.

Columns are chosen so that the picture is as small as can be and not longer than four times its
width. Tiles that nothing fills are at the level of zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from anchors import packing
from anchors.fctm_networks import inverse_transform, transform
from vcm_plugin import vvc
from vcm_plugin.stages import stage

MAX_ASPECT = 4


@dataclass(frozen=True)
class Place:
    """Where channels lie: `count` tiles of `grid` (height, width), row by row from `top`."""

    count: int
    grid: tuple[int, int]
    top: int
    columns: int

    @property
    def rows(self) -> int:
        """Of tiles."""
        return -(-self.count // self.columns)


def half(grid: tuple[int, int]) -> tuple[int, int]:
    """The grid of a halved channel.

    >>> half((8, 11))
    (4, 6)
    """
    return -(-grid[0] // 2), -(-grid[1] // 2)


def layout(count: int, whole: int, grid: tuple[int, int]) -> tuple[tuple[int, int], list[Place]]:
    """Size of the picture (height, width), which can be coded, and the places of channels.

    >>> size, places = layout(10, 6, (8, 10))
    >>> size, [(p.count, p.grid, p.top, p.columns) for p in places]
    ((32, 32), [(6, (8, 10), 0, 2), (4, (4, 5), 24, 4)])
    """
    found = [_with_columns(count, whole, grid, n) for n in range(1, max(1, count) + 1)]
    allowed = [one for one in found if max(one[0]) <= MAX_ASPECT * min(one[0])] or found
    return min(allowed, key=lambda one: (one[0][0] * one[0][1], abs(one[0][0] - one[0][1])))


@stage("conversion")
def pack(b: torch.Tensor, whole: int, value_range: tuple[float, float]) -> np.ndarray:
    """Channels (C, h, w), of which the first `whole` stay whole, as 10-bit samples (H, W)."""
    size, places = layout(len(b), whole, tuple(b.shape[1:]))
    picture = np.full(size, packing.zero_level(value_range), np.uint16)
    for place, channels in zip(places, (b[:whole], b[whole:])):
        if channels.shape[1:] != place.grid:
            channels = inverse_transform(transform(channels)[:, : place.grid[0], : place.grid[1]])
        samples = _rounded(channels.numpy(), value_range)
        for tile, one in zip(_tiles(picture, place), samples):
            tile[:] = one
    return picture


@stage("conversion")
def unpack(
    picture: np.ndarray,
    count: int,
    whole: int,
    grid: tuple[int, int],
    value_range: tuple[float, float],
) -> torch.Tensor:
    """The channels (count, h, w) of a packed picture."""
    b = torch.zeros(count, *grid)
    first = 0
    for place in layout(count, whole, grid)[1]:
        tiles = np.stack([tile.copy() for tile in _tiles(picture, place)] or [np.zeros(place.grid)])
        found = torch.from_numpy(packing.dequantise(tiles, value_range))[: place.count]
        if place.grid != grid:
            low = torch.zeros(place.count, *grid)
            low[:, : place.grid[0], : place.grid[1]] = transform(found)
            found = inverse_transform(low)
        b[first : first + place.count] = found
        first += place.count
    return b


def _rounded(b: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """The nearest samples; those of the feature anchor are rounded down."""
    low, high = value_range
    scaled = (b - np.float32(low)) / np.float32(high - low) * np.float32(packing.MAX_SAMPLE)
    return np.clip(np.rint(scaled), 0, packing.MAX_SAMPLE).astype(np.uint16)


def _with_columns(count: int, whole: int, grid: tuple[int, int], columns: int):
    width = columns * grid[1]
    first = Place(whole, grid, 0, columns)
    small = half(grid)
    second = Place(count - whole, small, first.rows * grid[0], max(1, width // small[1]))
    height = second.top + second.rows * small[0]
    return vvc.coded_size(height, width), [first, second]


def _tiles(picture: np.ndarray, place: Place):
    """Views of the tiles of a place."""
    height, width = place.grid
    for k in range(place.count):
        row, column = divmod(k, place.columns)
        top, left = place.top + row * height, column * width
        yield picture[top : top + height, left : left + width]
