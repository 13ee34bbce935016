# SPDX-License-Identifier: BSD-3-Clause
"""Which layers does each split point have, at which strides of the padded network input?"""

from __future__ import annotations

# Layers of each split point, in bitstream order, with their strides to the padded network input.
SPLIT_POINTS: dict[str, dict[str, int]] = {
    "fpn": {"p2": 4, "p3": 8, "p4": 16, "p5": 32},
    "c2": {"c2": 4, "c3": 8, "c4": 16, "c5": 32},
    "r2": {"r2": 4},
}
INPUT_PADDING = 32  # grids that are not sent: the network input is padded to a multiple of this


def derived_grid(input_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(height, width) of a layer where the network input is padded to multiples of 32.

    >>> derived_grid((800, 1199), 4)
    (200, 304)
    """
    height, width = (-(-n // INPUT_PADDING) * INPUT_PADDING for n in input_size)
    return -(-height // stride), -(-width // stride)
