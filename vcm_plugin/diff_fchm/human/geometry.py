# SPDX-License-Identifier: BSD-3-Clause
"""Which cells of the machine layer lie under a cell of the picture, in integers.

The detector resizes a picture of (H, W) to a network input of (h, w) and pads it to whole cells;
the human layer works on the grids of the picture itself: stride 8 for the latents of the
autoencoder, stride 16 for the auxiliary latents. Cell j at stride n is centred at (j + 1/2) n, and
a place v of the picture's height is v h / H of the network input. Everything follows from the sizes
in the header; no float is involved, so every machine finds the same taps.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch

from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid

STRIDE = 8  # of the latents of the autoencoder, in pixels of the picture
TAP_STEPS = 256  # the taps of a cell add up to this
MIN_SIDE = 16  # pixels
MAX_PIXELS = 1 << 22  # of the picture; bounds what a file can make us allocate


@dataclass(frozen=True)
class Geometry:
    """source_size, input_size: (height, width) of the picture and of the network input."""

    source_size: tuple[int, int]
    input_size: tuple[int, int]

    @property
    def grid8(self) -> tuple[int, int]:
        """(rows, columns) of the latents of the autoencoder."""
        height, width = self.source_size
        return -(-height // STRIDE), -(-width // STRIDE)

    @property
    def grid16(self) -> tuple[int, int]:
        """(rows, columns) of the auxiliary latents: cells of 2 x 2 of grid8, filled up."""
        rows, columns = self.grid8
        return -(-rows // 2), -(-columns // 2)

    def taps(
        self, stride: int, grid: tuple[int, int], cell: int = STRIDE
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows (grid[0], cells) and columns (grid[1], cells) of a layer at `stride` for a grid of
        the picture at stride `cell`: float64 tensors of integers; `grid` may go beyond the
        picture, its cells then repeat the last ones."""
        rows, columns = (
            torch.from_numpy(resampling_taps(count, source, net, stride, cell).astype(np.float64))
            for count, source, net in zip(grid, self.source_size, self.input_size)
        )
        return rows, columns

    def require(self, error: type[InputError] = InputError) -> Geometry:
        """Return self; raise an error of this class for a picture too small or too large."""
        height, width = self.source_size
        if min(height, width) < MIN_SIDE or height * width > MAX_PIXELS:
            raise error(
                f"the human layer takes pictures of at least {MIN_SIDE} pixels a side and at most "
                f"{MAX_PIXELS} in all, found {height} x {width} (height x width)"
            )
        return self


def geometry_of_picture(picture: np.ndarray, features: FeaturePyramid) -> Geometry:
    """The grids of a picture and of its features.

    Raises InputError where it is not theirs, uint8 (H, W, 3) of their source's size, or where it is
    too small or too large.
    """
    geometry = Geometry(features.source_size, features.input_size).require()
    if tuple(picture.shape) != (*geometry.source_size, 3) or picture.dtype != np.uint8:
        raise InputError(
            f"expected the picture that the features were made of, uint8 "
            f"{(*geometry.source_size, 3)}, found {picture.dtype} {tuple(picture.shape)}"
        )
    return geometry


@functools.lru_cache(maxsize=64)
def resampling_taps(
    count: int, source: int, net: int, stride: int, cell: int = STRIDE
) -> np.ndarray:
    """(count, cells) int64: share of each cell of a layer in `count` cells of stride `cell`, in
    1/256.

    source, net: pixels of the picture and of the network input along this side. A triangle as wide
    as the coarser of the two grids: interpolation where the layer is coarser, an average where it
    is finer. Cells that hold only padding have no share.

    >>> resampling_taps(2, 16, 16, 16), resampling_taps(2, 16, 32, 16)[0]
    (array([[256],
           [256]]), array([256,   0]))
    """
    cells = -(-net // stride)
    unit = 2 * source * stride  # positions count 1 / unit of a cell
    centres = (2 * np.arange(count, dtype=np.int64) + 1) * cell * net - source * stride
    centres = centres.clip(0, (cells - 1) * unit)
    radius = max(unit, 2 * cell * net)
    places = np.arange(cells, dtype=np.int64) * unit
    shares = (radius - np.abs(places[None] - centres[:, None])).clip(min=0)
    sums = np.cumsum(shares, axis=1)
    total = sums[:, -1:]
    edges = (2 * TAP_STEPS * sums + total) // (2 * total)
    return np.diff(edges, axis=1, prepend=0)


def resample(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Cells (N, C, h, w) -> cells of the picture (N, C, rows, columns); x may hold padding."""
    x = x[..., : rows.shape[1], : columns.shape[1]]
    return rows.to(x) @ x @ columns.to(x).T * (1.0 / TAP_STEPS**2)
