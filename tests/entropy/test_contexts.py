# SPDX-License-Identifier: BSD-3-Clause
"""The integer networks: exact under every setting, and the contexts those of EntropyNetworks."""

from dataclasses import replace

import pytest
import torch
from precision import less_precise
from vfcn_tiny import CONFIG

from vcm_plugin.entropy.contexts import IntegerContexts
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
    y = activations(1, CONFIG.latents, *grid, seed=4, largest=largest)
    sums, y_hat = IntegerContexts(networks).begin(psi), torch.zeros_like(y)
    for own, colour, mask in networks.passes(grid, y.device):
        number, cells = networks.slices.index(own), mask.bool()
        expected = [x[0][:, cells] for x in networks.of_y(psi, y_hat, own, colour)]
        for found, wanted in zip(sums.of(number, colour), expected):
            assert torch.equal(found, wanted)
        y_hat[:, own] += mask * y[:, own]
        sums.know(number, colour, y[0, own][:, cells])


def exactly(conv: IntegerConv, x: torch.Tensor) -> torch.Tensor:
    """A convolution in Python's integers, (O, h, w)."""
    columns = torch.nn.functional.unfold(x, conv.size, padding=conv.size // 2)[0].long()
    total = conv.weight.long() @ columns + conv.bias.long()[:, None]
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
