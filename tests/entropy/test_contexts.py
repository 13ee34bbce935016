# SPDX-License-Identifier: BSD-3-Clause
"""The integer networks: exact under every setting, and the contexts those of EntropyNetworks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from precision import less_precise
from vfcn_tiny import CONFIG

from vcm_plugin.entropy.contexts import IntegerContexts
from vcm_plugin.entropy.exact import float32_is_kept
from vcm_plugin.entropy.integer import (
    ACTIVATION_LIMIT,
    IntegerConv,
    UpsampledConv,
    integer_networks,
    integer_weights,
)
from vcm_plugin.entropy.networks import EntropyNetworks

GRIDS = [(1, 1), (1, 2), (2, 1), (3, 3), (4, 6), (5, 4), (7, 9)]


@pytest.fixture(scope="module")
def networks() -> EntropyNetworks:
    torch.manual_seed(2)
    floats = EntropyNetworks(replace(CONFIG, slices=(2, 3, 3)))
    for parameter in floats.parameters():
        parameter.data *= 3
    return integer_networks(floats, integer_weights(floats))


def activations(*shape: int, seed: int, largest: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, shape, generator=generator).double()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("largest", [300, ACTIVATION_LIMIT])
def test_contexts_are_those_of_the_networks(networks, grid, largest):
    psi = activations(1, CONFIG.hyper_width, *grid, seed=3, largest=largest).abs()
    y = 16 * activations(1, CONFIG.latents, *grid, seed=4, largest=largest // 16)
    sums, y_hat = IntegerContexts(networks).begin(psi), torch.zeros_like(y)
    for own, colour, mask in networks.passes(grid, y.device):
        number, cells = networks.slices.index(own), mask.bool()
        expected = [x[0][:, cells] for x in networks.of_y(psi, y_hat, own, colour)]
        mean, level = (x.long() for x in expected)
        mean = ((mean + 8) >> 4).clamp(-(1 << 15), 1 << 15)
        level = (((8 * level + 128) >> 8) + 16).clamp(0, 47)
        for found, wanted in zip(sums.of(number, colour), (mean, level)):
            assert np.array_equal(found, wanted)
        y_hat[:, own] += mask * y[:, own]
        sums.know(number, colour, y[0, own][:, cells].div(16).int().numpy())


def exactly(conv: IntegerConv, x: torch.Tensor) -> torch.Tensor:
    """A convolution in Python's integers, (O, h, w)."""
    columns = torch.nn.functional.unfold(x, conv.size, padding=conv.size // 2)[0].long()
    total = conv.taps.flatten(1).long() @ columns + conv.bias.long()[:, None]
    limits = (-ACTIVATION_LIMIT, ACTIVATION_LIMIT)
    return ((total + (1 << 13)) >> 14).clamp(*limits).unflatten(1, x.shape[-2:])


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("mkldnn", [True, False])
def test_convolutions_are_exact_whatever_torch_is_told_of_float32(size, mkldnn):
    weight = activations(5, 60, size, size, seed=5, largest=30000).int()
    conv = IntegerConv(weight, activations(5, seed=6, largest=1 << 30).long())
    x = activations(1, 60, 6, 7, seed=7, largest=ACTIVATION_LIMIT // 8)
    with torch.backends.mkldnn.flags(enabled=mkldnn), less_precise():
        assert torch.equal(conv(x)[0].long(), exactly(conv, x))


@pytest.mark.parametrize("grid", GRIDS)
def test_a_convolution_behind_upsampling_is_that_of_the_upsampled(grid):
    weight = activations(5, 6, 3, 3, seed=8, largest=30000).int()
    conv = IntegerConv(weight, activations(5, seed=9, largest=1 << 30).long())
    x = activations(2, 6, *grid, seed=10, largest=ACTIVATION_LIMIT)
    found = UpsampledConv(conv)(x)
    assert torch.equal(found, conv(torch.nn.functional.interpolate(x, scale_factor=2)))


def test_float32_is_left_when_torch_may_make_it_less_precise():
    matmul = torch.backends.mkldnn.matmul
    with less_precise():
        assert not float32_is_kept()
        torch.set_float32_matmul_precision("high")
        assert not float32_is_kept()
        torch.set_float32_matmul_precision("highest")
        assert float32_is_kept() == torch.backends.mkl.is_available()
        matmul.fp32_precision = "tf32"
        assert not float32_is_kept()


@pytest.mark.parametrize("largest", [2, 300, 1 << 14])
def test_a_product_is_taken_in_float32_only_where_every_sum_fits(networks, largest):
    contexts, narrow = IntegerContexts(networks), []
    psi = activations(1, CONFIG.hyper_width, 8, 8, seed=3, largest=largest).abs()
    sums, multiply = contexts.begin(psi), torch.mm

    def noting(weight, inputs):
        if weight.dtype == torch.float32:
            fullest = (weight.double().abs() @ inputs.double().abs()).max().item()
            narrow.append(fullest)
        return multiply(weight, inputs)

    y_hat = activations(2, 32, seed=4, largest=largest).int().numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "mm", noting)
        sums.know(0, 0, y_hat)
    assert all(fullest < 2**24 for fullest in narrow)
    assert len(narrow) == (sums.narrow and largest < 1 << 14)
