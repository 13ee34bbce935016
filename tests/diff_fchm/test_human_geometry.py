# SPDX-License-Identifier: BSD-3-Clause
"""Cells of the machine layer come to lie where the picture has them, in integers."""

import numpy as np
import pytest
import torch

from vcm_plugin.diff_fchm.human.geometry import (
    MAX_PIXELS,
    TAP_STEPS,
    Geometry,
    resample,
    resampling_taps,
)
from vcm_plugin.errors import BitstreamError, InputError

# (source, network input): no resize, enlarged as by COCO detectors, odd, shrunk
SIDES = [(64, 64), (427, 800), (121, 61), (1080, 800), (1333, 96), (17, 33)]


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize("source, net", SIDES)
def test_shares_are_integers_that_add_up(source, net, stride):
    taps = resampling_taps(-(-source // 8), source, net, stride)
    assert taps.dtype == np.int64 and taps.min() >= 0
    assert taps.shape == (-(-source // 8), -(-net // stride))  # no cell of padding alone
    assert (taps.sum(axis=1) == TAP_STEPS).all()


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize("source, net", SIDES)
def test_resize_is_undone(source, net, stride):
    """A layer that holds the place of its cells gives the place of the picture's cells."""
    taps = resampling_taps(-(-source // 8), source, net, stride)
    cells = (np.arange(taps.shape[1]) + 0.5) * stride * source / net  # in pixels of the picture
    expected = (np.arange(len(taps)) + 0.5) * 8
    reach = max(8, stride * source / net)  # nearer to the border the triangle is cut off
    inner = (expected > cells[0] + reach) & (expected < cells[-1] - reach)
    error = np.abs(taps @ cells / TAP_STEPS - expected)[inner]
    assert error.max(initial=0.0) <= 0.04 * reach  # a triangle of whole cells is not quite linear


def test_equal_grids_are_copied():
    taps = resampling_taps(9, 72, 72, 8)
    assert np.array_equal(taps, TAP_STEPS * np.eye(9, dtype=np.int64))


def test_padding_of_the_layer_is_not_read():
    geometry = Geometry((61, 90), (61, 90))
    layer = torch.zeros(1, 1, 16, 24)  # p2 of the input padded to (64, 96)
    layer[..., 16:, :], layer[..., 23:] = 1e9, 1e9
    assert resample(layer, *geometry.taps(4, geometry.grid8)).abs().max() == 0.0


@pytest.mark.parametrize("size", [(64, 64), (61, 90), (1080, 1920), (17, 33)])
def test_grids_cover_the_picture(size):
    geometry = Geometry(size, size)
    assert [8 * n >= side > 8 * (n - 1) for n, side in zip(geometry.grid8, size)] == [True, True]
    assert geometry.grid16 == tuple(-(-n // 2) for n in geometry.grid8)
    assert geometry.require() is geometry


def test_sizes_beyond_the_human_layer():
    with pytest.raises(InputError, match="at least 16 pixels"):
        Geometry((15, 400), (15, 400)).require()
    with pytest.raises(BitstreamError, match=f"at most {MAX_PIXELS}"):
        Geometry((2049, 2048), (64, 64)).require(BitstreamError)
