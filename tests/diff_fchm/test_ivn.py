# SPDX-License-Identifier: BSD-3-Clause
"""IVN: the range is found without padding, scaled, rounded, inverted; bad input is refused."""

import math

import pytest
import torch
from vfcn_tiny import pyramid

from vcm_plugin.bitstream import round_float
from vcm_plugin.diff_fchm.machine import ivn
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.rate_points import parse_scale


def test_the_range_leaves_out_cells_of_padding_only():
    features = pyramid((61, 90))
    features.layers["p2"][:, 16:, :] = 100.0
    features.layers["p3"][:, :, 12:] = -100.0
    low, high = ivn.feature_range(features.layers, features.input_size)
    assert -100.0 < low < 0.0 < high < 100.0
    features.layers["p2"][0, 15, 22] = 50.0  # the last cell that holds a row and a column of input
    assert ivn.feature_range(features.layers, features.input_size)[1] == 50.0


def test_the_range_passes_no_gradient():
    layers = {name: x.requires_grad_() for name, x in pyramid().layers.items()}
    assert all(isinstance(v, float) for v in ivn.feature_range(layers, (61, 90)))


@pytest.mark.parametrize("s", [0.25, 1.0, 3.3])
def test_normalise_and_invert_are_inverse_with_the_rounded_range(s):
    features = pyramid()
    value_range = ivn.scaled_range((-3.1, 5.7), s)
    assert value_range == tuple(round_float(v) for v in value_range)
    back = ivn.invert(ivn.normalise(features.layers, value_range), value_range)
    for name, layer in features.layers.items():
        torch.testing.assert_close(back[name], layer, atol=1e-5, rtol=1e-5)


def test_scaling_keeps_the_level_of_zero_and_divides_the_rest():
    one, two = ivn.scaled_range((-4.0, 8.0), 1.0), ivn.scaled_range((-4.0, 8.0), 2.0)
    layers = {"p2": torch.tensor([0.0, 3.0])}
    first, second = (ivn.normalise(layers, r)["p2"] for r in (one, two))
    torch.testing.assert_close(second[0], first[0])
    torch.testing.assert_close(second[1] - second[0], (first[1] - first[0]) / 2)


def test_log2_code_is_linear_between_powers_of_two():
    for width in (0.01, 0.5, 0.75, 1.0, 1.99, 7.0, 130.0):
        exponent = math.floor(math.log2(width))
        expected = (exponent + width / 2.0**exponent - 1.0) * 256
        found = ivn.log2_code((0.0, width)) - ivn.log2_code((0.0, 1.0))
        assert found == math.floor(expected), width


@pytest.mark.parametrize("text", ["", "high", "0", "-1", "nan", "inf", "0.01", "1000"])
def test_rate_points_out_of_range(text):
    with pytest.raises(InputError, match="expected a scale s between"):
        parse_scale(text)


def test_constant_and_infinite_features():
    layers = {name: torch.full_like(x, 2.0) for name, x in pyramid().layers.items()}
    with pytest.raises(InputError, match="found 2 everywhere"):
        ivn.feature_range(layers, (61, 90))
    layers["p3"][0, 0, 0] = math.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        ivn.feature_range(layers, (61, 90))


@pytest.mark.parametrize("value_range", [(1.0, 1.0 + 1e-5), (0.0, 1e-9)])
def test_a_range_too_narrow_for_16_bit_floats(value_range):
    with pytest.raises(InputError, match="no range in 16-bit floats"):
        ivn.scaled_range(value_range, 1.0)


def test_a_range_too_wide_for_16_bit_floats():
    with pytest.raises(BitstreamError):
        ivn.scaled_range((-60000.0, 1.0), 4.0)
