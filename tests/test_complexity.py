# SPDX-License-Identifier: BSD-3-Clause
"""Does the count of the arithmetic hold against a count by hand, and say what it cannot count?"""

import math

import pytest
import torch
from torch import nn
from vfcn_tiny import pyramid, tiny_weights

from vcm_plugin.entropy import IntegerConv
from vcm_plugin.machine_codec import MachineCodec

complexity = pytest.importorskip("vcm_plugin.complexity", reason="fvcore is not importable")


def counted_by_hooks(codec: MachineCodec) -> dict[str, float]:
    """A dict that every convolution adds its taps times its outputs to, by its kind."""
    counts = {"conv": 0.0, "matmul": 0.0}

    def add(module, inputs, output):
        taps = module.weight.shape[1:].numel()
        counts["conv" if isinstance(module, nn.Conv2d) else "matmul"] += taps * output.numel()

    for network in (codec.model, codec.coder.networks):
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, IntegerConv)):
                module.register_forward_hook(add)
    return counts


@pytest.mark.parametrize("input_size", [(61, 90), (64, 33)])
def test_fvcore_counts_what_encoder_and_decoder_run(tmp_path, input_size):
    codec = MachineCodec(tiny_weights(tmp_path))
    features = pyramid(input_size)
    shapes = {name: tuple(layer.shape) for name, layer in features.layers.items()}
    reduction = complexity.count_reduction(codec, shapes)
    restoration = complexity.count_restoration(codec, shapes)
    counts = counted_by_hooks(codec)
    data = codec.encode(features, "1")
    assert {kind: reduction.by_operation[kind] for kind in counts} == counts
    counts.update(conv=0.0, matmul=0.0)
    codec.decode(data)
    assert {kind: restoration.by_operation[kind] for kind in counts} == counts
    for macs in (reduction, restoration):
        assert not macs.unknown and macs.total > sum(counts.values()) / 10
        assert macs.by_operation["leaky_relu"] > 0  # elementwise operations count too


def test_an_operation_without_a_count_is_named_and_not_zero():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumsum(x, 1) * 2

    macs = complexity.count(Odd(), (torch.ones(2, 3),))
    assert macs.unknown == {"aten::cumsum": 1} and math.isnan(macs.total)
    assert macs.by_operation["mul"] == 6
