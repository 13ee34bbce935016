# SPDX-License-Identifier: BSD-3-Clause
"""Do layers come back from the packed picture, and lie where the test conditions say?"""

import math

import numpy as np
import pytest

from anchors.packing import layout, pack, quantise, unpack, zero_level
from vcm_plugin.errors import InputError

RANGE = (-23.0919, 20.2466)  # MPEG-OIV6 detection, as cfg/ctc has it


def pyramid(channels, height, width, levels=4):
    sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(levels)]
    return {f"p{i + 2}": (channels, *size) for i, size in enumerate(sizes)}


def c2_layers(channels, height, width):
    layers = pyramid(1, height, width)
    return {f"c{i + 2}": (channels << i, *s[1:]) for i, s in enumerate(layers.values())}


def random_layers(shapes, seed=0):
    draw = np.random.default_rng(seed)
    return {k: draw.normal(0, 6, shape).astype(np.float32) for k, shape in shapes.items()}


SHAPES = [
    pyramid(256, 24, 32),
    pyramid(256, 32, 24),
    pyramid(64, 16, 16),
    pyramid(192, 16, 24),
    pyramid(192, 24, 16),  # columns do not divide p5's channels
    pyramid(2048, 8, 16, levels=1),
    pyramid(7, 10, 18),  # prime
    pyramid(13, 9, 5),  # prime, odd grids
    pyramid(256, 25, 38),  # p3's tiles do not divide the frame's width
    c2_layers(64, 24, 16),
    {"r2": (256, 13, 21)},
    {"r2": (1, 1, 1)},
    {"a": (900, 2, 2), "b": (1, 3, 99)},  # a tile that is wider than the first layer
]


@pytest.mark.parametrize("shapes", SHAPES)
def test_round_trip(shapes):
    layers = random_layers(shapes)
    picture = pack(layers, RANGE)
    assert picture.dtype == np.uint16 and picture.max() <= 1023
    found = unpack(picture, shapes, RANGE)
    assert list(found) == list(shapes)
    step = (RANGE[1] - RANGE[0]) / 1023
    for name, layer in layers.items():
        assert found[name].dtype == np.float32
        error = np.clip(layer, *RANGE) - found[name]
        assert -1e-4 < error.min() and error.max() < step + 1e-4  # floor, not rounding
        assert np.array_equal(quantise(found[name] + np.float32(step / 4), RANGE),
                              quantise(layer, RANGE))  # fmt: skip


@pytest.mark.parametrize("shapes", SHAPES)
def test_every_channel_has_its_own_place_and_the_rest_is_zero(shapes):
    """Against a second, naive implementation, tile by tile."""
    layers = random_layers(shapes, seed=1)
    picture = pack(layers, RANGE)
    expected = np.full(picture.shape, zero_level(RANGE))
    for tiles in layout(shapes).layers:
        for channel in range(tiles.channels):
            top = tiles.top + channel // tiles.columns * tiles.height
            left = channel % tiles.columns * tiles.width
            tile = quantise(layers[tiles.name][channel], RANGE)
            expected[top : top + tiles.height, left : left + tiles.width] = tile
    assert np.array_equal(picture, expected)


@pytest.mark.parametrize(
    "shapes, size, rows_and_columns",
    [
        (pyramid(256, 200, 304), (4250, 4864), [(16, 16), (8, 32), (4, 64), (2, 128)]),
        (pyramid(256, 304, 200), (6460, 3200), [(16, 16), (8, 32), (4, 64), (2, 128)]),
        (pyramid(64, 64, 80), (680, 640), [(8, 8), (4, 16), (2, 32), (1, 64)]),
        (pyramid(192, 16, 24), (340, 288), [(16, 12), (8, 24), (4, 48), (2, 96)]),
        (pyramid(128, 24, 16), (255, 256), [(8, 16), (4, 32), (2, 64), (1, 128)]),
        (c2_layers(256, 40, 56), (1200, 896), [(16, 16), (16, 32), (16, 64), (16, 128)]),
        ({"r2": (256, 40, 56)}, (640, 896), [(16, 16)]),
    ],
)
def test_layouts_of_the_test_conditions(shapes, size, rows_and_columns):
    """Seen to agree sample for sample with CompressAI-Vision (snapshot of April 2026)."""
    frame = layout(shapes)
    assert (frame.height, frame.width) == size
    assert [(tiles.rows, tiles.columns) for tiles in frame.layers] == rows_and_columns


def test_the_largest_layer_comes_first_whatever_its_place():
    frame = layout({"p3": (64, 8, 10), "p2": (64, 16, 20)})
    assert [tiles.name for tiles in frame.layers] == ["p2", "p3"]


def test_quantisation_of_known_values():
    low, high = -1.0, 3.0
    values = np.float32([-2, -1, -0.998, 0, 1, 2.9999, 3, 4])
    expected = [math.floor(min(max((v - low) / (high - low), 0), 1) * 1023) for v in values]
    assert quantise(values, (low, high)).tolist() == expected
    assert zero_level((low, high)) == 256
    assert zero_level((1.0, 2.0)) == 0 and zero_level((-2.0, -1.0)) == 1023


@pytest.mark.parametrize("bad", [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)])
def test_a_range_that_is_none(bad):
    with pytest.raises(InputError, match="value range low < high"):
        quantise(np.zeros(3, np.float32), bad)


def test_shapes_that_do_not_fit():
    with pytest.raises(InputError, match="packed picture of 680 x 640"):
        unpack(np.zeros((680, 642), np.uint16), pyramid(64, 64, 80), RANGE)
    for shapes in ({}, {"p2": (4, 0, 3)}, {"p2": (4, 3)}):
        with pytest.raises(InputError, match="expected layers"):
            layout(shapes)
