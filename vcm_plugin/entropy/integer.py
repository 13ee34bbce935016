# SPDX-License-Identifier: BSD-3-Clause
"""Networks whose every sum is exact: convolutions of integers, held in float64.

Every partial sum stays below 2^53 (proven from the weights when they are loaded), so it is exact in
any order, on any device, with any number of threads, under any setting of torch: what makes float32
products faster and less precise (TF32, bfloat16 in oneDNN) does not touch float64.

Why not float32: the weights of a sum add up to 2^20.4, which leaves float32's 24 bits to
inputs below 12. Weights split into two digits make exact products, but two products in float32
take as long as one in float64. Where inputs are that small, contexts.py and earlier.py do take
float32 (exact.py).

Fixed point: activations count 1/256 and are clamped to +-2^20; weights count 2^-14.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from vcm_plugin.entropy.networks import EntropyNetworks
from vcm_plugin.errors import InputError

ACTIVATION_STEPS = 256  # in 1.0
ACTIVATION_LIMIT = 1 << 20
ACTIVATIONS = (-ACTIVATION_LIMIT, ACTIVATION_LIMIT)
LATENT_STEPS = 16  # in 1.0, of means and decoded latents
WEIGHT_BITS = 14  # after the binary point


class IntegerConv(nn.Module):
    """A convolution of integers: weight (O, C, k, k) and bias (O,) hold int tensors.

    Input and output count 1/256. `weight` is kept as (O, k * k * C), as a product with the inputs
    wants it: taps, then channels. Raises InputError where a sum could pass 2^52.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        self.size = weight.shape[-1]
        self.register_buffer("weight", weight.double().permute(0, 2, 3, 1).flatten(1))
        self.register_buffer("bias", bias.double())
        largest = (self.weight.abs().sum(1) * ACTIVATION_LIMIT + self.bias.abs()).max().item()
        if not largest < 2.0**52:
            raise InputError(
                f"integer network: a sum of {largest:.3g} would not be exact; expected less than "
                "2^52: the weights file is damaged, or was trained with other networks"
            )
        self.largest_sum = int(largest)

    @property
    def taps(self) -> torch.Tensor:
        """The weights, (O, C, k * k)."""
        return self.weight.unflatten(1, (self.size * self.size, -1)).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) -> (N, O, h, w)."""
        if self.size == 1:
            found = settled(self.bias, self.weight, x.transpose(0, 1).flatten(1))
            return found.view(-1, *x.shape[:1], *x.shape[2:]).transpose(0, 1)
        n, channels, h, w = x.shape
        k, edge = self.size, self.size // 2
        x = F.pad(x.transpose(0, 1), (edge, edge, edge, edge))
        shape, x = x.shape[1:], x.flatten(1)  # a neighbour is as many columns away from every pixel
        fixed, width = 2.0**-WEIGHT_BITS, x.shape[1] - (k - 1) * (shape[2] + 1)
        total = (self.bias[:, None] * fixed + 0.5).repeat(1, x.shape[1])
        for tap, weight in enumerate(self.weight.split(channels, 1)):
            start = tap // k * shape[2] + tap % k
            total[:, :width].addmm_(weight, x[:, start : start + width], alpha=fixed)
        total = total.view(-1, *shape)[..., :h, :w].transpose(0, 1)
        return total.floor().clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


class UpsampledConv(nn.Module):
    """An IntegerConv of kernel 3 behind nearest upsampling by two, with 4 of 9 products.

    A pixel of the result sees 2 x 2 different inputs; which, depends on whether its row and column
    are even. The weights that meet the same input are added before, so no sum gets larger.
    """

    def __init__(self, conv: IntegerConv):
        super().__init__()
        first, middle, last = conv.taps.unflatten(2, (3, 3)).unbind(2)
        phases = []
        for rows in ((first, middle + last), (first + middle, last)):
            for even in (True, False):
                taps = []
                for left, centre, right in (row.unbind(2) for row in rows):
                    taps += (left, centre + right) if even else (left + centre, right)
                phases.append(torch.cat(taps, dim=1))
        self.register_buffer("weight", torch.stack(phases))  # (4, O, 4 * C)
        self.register_buffer("bias", conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) -> (N, O, 2 h, 2 w)."""
        n, _, h, w = x.shape
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # channels last
        found = x.new_empty(len(self.bias), n, h, 2, w, 2)
        for phase, weight in enumerate(self.weight):
            a, b = divmod(phase, 2)
            taps = [x[:, i : i + h, j : j + w] for i in (a, a + 1) for j in (b, b + 1)]
            rows = torch.cat(taps, dim=3).view(n * h * w, -1)
            found[:, :, :, a, :, b] = settled(self.bias, weight, rows.T).view(-1, n, h, w)
        return found.view(-1, n, 2 * h, 2 * w).transpose(0, 1)


def integer_weights(networks: EntropyNetworks) -> dict[str, torch.Tensor]:
    """Trained networks -> the weights of their integer twins, as they are stored."""
    weights = {}
    for name, conv in networks.named_modules():
        if isinstance(conv, nn.Conv2d):
            scale = 2.0**WEIGHT_BITS
            weight = torch.round(conv.weight.detach().double().cpu() * scale)
            bias = torch.round(conv.bias.detach().double().cpu() * scale * ACTIVATION_STEPS)
            small = weight.abs().max() < 1 << 15
            weights[f"{name}.weight"] = weight.to(torch.int16 if small else torch.int32)
            weights[f"{name}.bias"] = bias.to(torch.int64)
    return weights


def float_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `integer_weights` made -> the weights of the networks, as far as it kept them."""
    units = {"weight": 2.0**-WEIGHT_BITS, "bias": 2.0**-WEIGHT_BITS / ACTIVATION_STEPS}
    return {k: (x.double() * units[k.rpartition(".")[2]]).float() for k, x in weights.items()}


def integer_networks(
    networks: EntropyNetworks, weights: dict[str, torch.Tensor]
) -> EntropyNetworks:
    """The same graph with the convolutions of `weights`."""
    twins = copy.deepcopy(networks).requires_grad_(False)
    for name, conv in list(twins.named_modules()):
        if isinstance(conv, nn.Conv2d):
            weight, bias = (weights.get(f"{name}.{part}") for part in ("weight", "bias"))
            if weight is None or weight.shape != conv.weight.shape or bias.shape != conv.bias.shape:
                raise InputError(
                    f"integer network {name}: expected weights {tuple(conv.weight.shape)}, found "
                    f"{None if weight is None else tuple(weight.shape)}; the weights file does not "
                    "fit its own description"
                )
            parent = twins.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], IntegerConv(weight, bias))
    for parent in list(twins.modules()):
        if isinstance(parent, nn.Sequential):
            for number, layer in enumerate(parent):
                if isinstance(layer, nn.Upsample):
                    parent[number] = nn.Identity()
                    parent[number + 1] = UpsampledConv(parent[number + 1])
    return twins


def settled(bias: torch.Tensor, weight: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """bias (O,) + weight (O, K) @ inputs (K, n) -> activations in 1/256, rounded and clamped.

    Powers of two scale the sums before they are made, which changes no digit of them.
    """
    fixed = 2.0**-WEIGHT_BITS
    total = torch.addmm(bias[:, None] * fixed + 0.5, weight, inputs, alpha=fixed)
    return total.floor_().clamp_(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)
