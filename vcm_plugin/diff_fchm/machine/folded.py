# SPDX-License-Identifier: BSD-3-Clause
"""VFCN as a codec runs it: no pass over p2..p5 but those of the convolutions.

What Vfcn does between features and g_a, and between g_s and features, is linear for each channel,
and the range of IVN cancels out of it:

    y = done * g_a((P - mean) / std),    P = std * g_s(undone * y_hat) + mean

Here mean and std are part of the weights. p2, by far the largest layer, is taken in strips that
stay in the cache.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn import functional as F

from vcm_plugin.diff_fchm.machine.vfcn import Vfcn

STRIP_CELLS = 4096  # of the grid of p3


class FoldedVfcn(nn.Module):
    """g_a and g_s of a trained Vfcn, from features and to features, one picture at a time.

    dtype: of their arithmetic.
    """

    def __init__(self, model: Vfcn, dtype: torch.dtype = torch.float32):
        super().__init__()
        model = copy.deepcopy(model).float().requires_grad_(False)
        self.g_a, self.g_s, self.h_a = model.g_a, model.g_s, model.h_a
        statistics = model.statistics()
        means = {name: mean.flatten() for name, (mean, _) in statistics.items()}
        stds = {name: std.flatten() for name, (_, std) in statistics.items()}
        g_a, g_s = model.g_a, model.g_s
        for name in means if g_a.fuse else ("p2",):
            getattr(g_a, name).weight /= stds[name].view(1, -1, 1, 1)
        for name in [*means][1:] if g_a.fuse else ():
            conv = getattr(g_a, name)
            conv.bias = nn.Parameter(-conv.weight[:, :, 0, 0] @ means[name], requires_grad=False)
        for name in means:
            head = g_s.p2[0] if name == "p2" else getattr(g_s, name)
            each = head.out_channels // len(means[name])
            std, mean = (x[name].repeat_interleave(each) for x in (stds, means))
            head.weight *= std.view(-1, 1, 1, 1)
            head.bias.mul_(std).add_(mean)
        self.to(dtype, memory_format=torch.channels_last)
        self.register_buffer("mean", means["p2"].view(-1, 1, 1))

    def analysis(self, layers: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Features p2..p5 (C, h, w) -> g_a((P - mean) / std), (1, latents, h16, w16)."""
        h = self._fine(layers["p2"])
        if not self.g_a.fuse:
            return self.g_a.coarse(h)
        mixed = {
            name: _mixed(layers[name], getattr(self.g_a, name))
            for name in self.g_s.levels if name != "p2"
        }  # fmt: skip
        h += mixed.pop("p3")
        return self.g_a.coarse(h, **mixed)

    def synthesis(self, y_hat: torch.Tensor) -> dict[str, torch.Tensor]:
        """y_hat (1, latents, h16, w16), with the range undone -> features p2..p5, float32."""
        h16, h8 = self.g_s.trunk(y_hat.contiguous(memory_format=torch.channels_last))
        coarse = {
            name: getattr(self.g_s, name)(h16)[0].float()
            for name in self.g_s.levels if name in ("p4", "p5")
        }  # fmt: skip
        channels, (height, width) = len(self.mean), h8.shape[-2:]
        head3 = getattr(self.g_s, "p3", None)
        p3 = head3 and h8.new_empty(head3.out_channels, height, width, dtype=torch.float32)
        p2 = h8.new_empty(channels, 2 * height, 2 * width, dtype=torch.float32)
        cells = p2.view(channels, height, 2, width, 2)
        h8 = F.pad(h8, (0, 0, 1, 1))
        for top, end in _strips(height, width):
            strip = h8[:, :, top : end + 2]
            if head3 is not None:
                p3[:, top:end] = self._head(strip, head3)
            found = self._head(strip, self.g_s.p2[0]).unflatten(0, (channels, 2, 2))
            cells[:, top:end] = found.permute(0, 3, 1, 4, 2)
        return {"p2": p2, **({} if head3 is None else {"p3": p3}), **coarse}

    def _fine(self, p2: torch.Tensor) -> torch.Tensor:
        """The first convolution of g_a: p2 (C, h, w) -> (1, width8, h8, w8)."""
        conv, (channels, rows, columns) = self.g_a.p2, p2.shape
        height, width = -(-rows // 2), -(-columns // 2)
        dtype = conv.weight.dtype
        found = p2.new_empty(height, width, conv.out_channels, dtype=dtype).permute(2, 0, 1)
        most = max(end - top for top, end in _strips(height, width))
        padded = p2.new_zeros(2 * most + 1, columns + 2, channels, dtype=dtype).permute(2, 0, 1)
        for top, end in _strips(height, width):
            first, last = 2 * top - 1, 2 * end  # rows of p2 that the strip sees
            begin, stop = max(first, 0), min(last, rows)
            inner = padded[:, begin - first : stop - first, 1:-1]
            torch.sub(p2[:, begin:stop], self.mean, out=inner)
            padded[:, stop - first :] = 0
            strip = padded[None, :, : last - first]
            found[:, top:end] = F.conv2d(strip, conv.weight, stride=2)[0]
        return found[None]

    @staticmethod
    def _head(strip: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
        """A convolution of rows that hold their padding above and below, (O, rows, w)."""
        return F.conv2d(strip, conv.weight, conv.bias, padding=(0, 1))[0]


def _mixed(layer: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """A convolution with kernel 1: (C, h, w) -> (1, O, h, w), channels last."""
    cells = layer.to(conv.weight.dtype).flatten(1).T
    found = torch.addmm(conv.bias, cells, conv.weight.flatten(1).T)
    return found.view(1, *layer.shape[1:], -1).permute(0, 3, 1, 2)


def _strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """First row and end of strips of the grid of p3, all but the last of one size."""
    rows = max(1, STRIP_CELLS // width)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))
