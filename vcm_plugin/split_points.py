# SPDX-License-Identifier: BSD-3-Clause
"""Which layers does each split point have, at which strides of the padded network input?"""

from __future__ import annotations

from collections.abc import Iterable

from vcm_plugin.errors import InputError

# Layers of each split point, in bitstream order, with their strides to the padded network input. A
# file names a split point by its place in this table: a new one stands at the end.
SPLIT_POINTS: dict[str, dict[str, int]] = {
    "fpn": {"p2": 4, "p3": 8, "p4": 16, "p5": 32},
    "c2": {"c2": 4, "c3": 8, "c4": 16, "c5": 32},
    "r2": {"r2": 4},
    # Layers by their numbers in the network's cfg file, as CompressAI-Vision calls them.
    "jde_tvd": {"36": 8, "61": 16, "74": 32},  # sums that end stages of Darknet-53
    "jde_hieve": {"105": 8, "90": 16, "75": 32},  # the first layer of each head
    "yolox_l13": {"l13": 8},
    "yolox_l37": {"l37": 8},
    "sam": {"imgenc": 16},
}
INPUT_PADDING = 32  # grids that are not sent: the network input is padded to a multiple of this


def split_point_of(layers: Iterable[str]) -> str:
    """The name of the split point that has exactly these layers, in this order.

    Raises InputError where there is none.

    >>> split_point_of(["36", "61", "74"])
    'jde_tvd'
    """
    found = list(layers)
    for name, strides in SPLIT_POINTS.items():
        if found == list(strides):
            return name
    known = "; ".join(f"{', '.join(strides)} ({name})" for name, strides in SPLIT_POINTS.items())
    raise InputError(
        f"expected the layers of one split point, in this order: {known}; found {', '.join(found)}"
    )


def derived_grid(input_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """(height, width) of a layer where the network input is padded to multiples of 32.

    >>> derived_grid((800, 1199), 4)
    (200, 304)
    """
    height, width = (-(-n // INPUT_PADDING) * INPUT_PADDING for n in input_size)
    return -(-height // stride), -(-width // stride)
