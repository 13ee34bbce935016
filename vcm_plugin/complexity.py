# SPDX-License-Identifier: BSD-3-Clause
"""How much arithmetic the networks of the machine codec take, counted by fvcore.

Convolutions and matrix products count multiply-accumulates, an elementwise operation one for each
of its outputs. An operation that neither fvcore nor this file knows makes the count unknown: it is
reported by its name and never counted as zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import elementwise_flop_counter
from torch import nn

from vcm_plugin.entropy import EntropyNetworks
from vcm_plugin.machine_codec import MachineCodec
from vcm_plugin.vfcn import LAYERS

# fvcore itself passes over data movement, clamp, floor and ReLU.
ELEMENTWISE = ("add", "add_", "sub", "rsub", "mul", "mul_", "div", "exp", "leaky_relu")
MOVES_DATA = ("im2col", "pad", "pixel_shuffle", "pixel_unshuffle", "unflatten", "frexp")


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one frame, by operation; unknown: operations without a count."""

    by_operation: Mapping[str, float]
    unknown: Mapping[str, int]

    @property
    def total(self) -> float:
        """Of all operations; NaN where one of them has no count."""
        return float("nan") if self.unknown else float(sum(self.by_operation.values()))


class Reduction(nn.Module):
    """What the encoder runs: g_a, h_a and the entropy networks."""

    def __init__(self, codec: MachineCodec):
        super().__init__()
        self.model, self.networks = codec.model, codec.coder.networks

    def forward(self, p2, p3, p4, p5, ranges):
        y = self.model.analysis(dict(zip(LAYERS, (p2, p3, p4, p5))), ranges)
        z = self.model.h_a(y)
        return _entropy(self.networks, z.double(), y.double())


class Restoration(nn.Module):
    """What the decoder runs: the entropy networks and g_s."""

    def __init__(self, codec: MachineCodec):
        super().__init__()
        self.model, self.networks = codec.model, codec.coder.networks

    def forward(self, y_hat, z_hat, ranges):
        decoded = self.model.synthesis(y_hat, ranges)
        entropy = _entropy(self.networks, z_hat.double(), y_hat.double())
        return [*decoded.values(), *entropy]


def _entropy(networks: EntropyNetworks, z: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """Every network that LatentCoder runs for a picture, on the grids that it runs them on."""
    told = z.new_zeros(1, 1, 1, 1)
    psi = networks.psi(z, told, y.shape[-2:])
    outputs = [*networks.of_z(told)]
    for own, colour, _ in networks.passes(y.shape[-2:], y.device):
        outputs += networks.of_y(psi, y, own, colour)
    return outputs


def count_reduction(codec: MachineCodec, shapes: Mapping[str, tuple[int, ...]]) -> Macs:
    """Of encoding features of these shapes, layer name -> (channels, height, width)."""
    layers = [torch.zeros(1, *shapes[name], device=codec.device) for name in LAYERS]
    return count(Reduction(codec), (*(x.to(codec.dtype) for x in layers), _range(codec)))


def count_restoration(codec: MachineCodec, shapes: Mapping[str, tuple[int, ...]]) -> Macs:
    """Of decoding to features of these shapes."""
    height, width = shapes["p4"][-2:]
    config = codec.config
    y = torch.zeros(1, config.latents, height, width, device=codec.device, dtype=codec.dtype)
    z = y.new_zeros(1, config.hyper_latents, -(-height // 4), -(-width // 4))
    return count(Restoration(codec), (y, z, _range(codec)))


@torch.no_grad()
def count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Macs:
    """The multiply-accumulates of a module for these inputs."""
    analysis = FlopCountAnalysis(module.eval(), inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    for name in ELEMENTWISE:
        analysis.set_op_handle(f"aten::{name}", elementwise_flop_counter(0, 1))
    for name in MOVES_DATA:
        analysis.set_op_handle(f"aten::{name}", None)
    return Macs(dict(analysis.by_operator()), dict(analysis.unsupported_ops()))


def _range(codec: MachineCodec) -> torch.Tensor:
    return torch.tensor([[0.0, 1.0]], device=codec.device, dtype=codec.dtype)
