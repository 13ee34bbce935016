# SPDX-License-Identifier: BSD-3-Clause
"""Does "auto:Q" take the best bargain, and is a QP worth what it says?"""

import numpy as np
import pytest
from hvcn_tiny import picture

from anchors.vvc_remote import VvcRemoteCodec
from vcm_plugin.errors import InputError
from vcm_plugin.rate_points import MAX_QP, PICTURE
from vcm_plugin.vvc.choice import OFFSETS, bit_price, coded_size, codings
from vcm_plugin.vvc.planes import resample_planes, to_rgb

CODEC = VvcRemoteCodec()


def noisy(size) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 40, (*size, 3))
    return (picture(size) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("source", [picture((96, 128)), noisy((96, 128))], ids=["smooth", "noisy"])
def test_auto_takes_the_coding_with_the_least_cost(source):
    costs = {}
    for coding in codings("auto:45"):
        data = CODEC.encode(source, f"{coding.qp}@{coding.percent}")
        error = np.square(source.astype(float) - CODEC.decode(data)).sum()
        costs[data] = error + bit_price("auto:45") * 8 * len(data)
    assert len(costs) == 4
    assert CODEC.encode(source, "auto:45") == min(costs, key=costs.get)


def test_auto_leaves_out_qps_below_zero():
    assert [c.percent for c in codings("auto:6")] == [100, 75]
    assert all(0 <= c.qp <= MAX_QP for q in range(MAX_QP + 1) for c in codings(f"auto:{q}"))


def test_the_price_of_a_bit_rises_with_qp_and_is_that_of_full_size():
    prices = [bit_price(str(qp)) for qp in (22, 32, 42)]
    assert prices == sorted(prices) and prices[2] > 5 * prices[1]
    for percent, lower in OFFSETS.items():
        assert bit_price(f"{40 - lower}@{percent}") == bit_price("auto:40") == bit_price("40")


def test_rate_points_of_pictures():
    assert [PICTURE.integer(text) for text in ("37", "32@50", "auto:42")] == [37, 32, 42]
    for text in ("auto:64", "auto:", "auto:32@50", "32@10", "-1"):
        with pytest.raises(InputError, match="expected"):
            PICTURE.parse(text)


@pytest.mark.parametrize("source, percent", [((97, 131), 50), ((97, 131), 100), ((96, 128), 75)])
def test_planes_at_the_size_of_the_source_lie_under_its_picture(source, percent):
    """The luma that a network sees, sample by sample that of the picture, odd sizes too."""
    size = coded_size(source, percent)
    rows, columns = np.mgrid[: size[0], : size[1]]
    luma = (300 + 4 * rows + columns + 40 * np.sin(rows / 3)).astype(np.uint16)
    grey = np.full((size[0] // 2, size[1] // 2), 512, np.uint16)
    planes, resized = (luma, grey, grey), percent < 100
    found = resample_planes(planes, (104, 136), source, resized)
    assert [x.shape for x in found] == [(104, 136), (52, 68), (52, 68)]
    picture = to_rgb(planes, source, resized)[..., 1]
    seen = (found[0][: source[0], : source[1]] - 64) / 876 * 255
    assert np.abs(seen - picture).max() < 0.01
