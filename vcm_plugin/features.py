# SPDX-License-Identifier: BSD-3-Clause
"""What NN-Part1 hands to a codec and a codec hands to NN-Part2: a named set of feature layers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vcm_plugin.errors import InputError
from vcm_plugin.split_points import SPLIT_POINTS, split_point_of


@dataclass(frozen=True)
class FeaturePyramid:
    """The features of one picture at one split point.

    layers: name -> float32 tensor (C, h, w); names are exactly those of one entry of SPLIT_POINTS.
    source_size: (height, width) of the picture in pixels, before the detector's resize.
    input_size: (height, width) of the network input after the resize, before the padding.

    Raises InputError where names, ranks, types or grid sizes do not fit each other.
    """

    layers: dict[str, torch.Tensor]
    source_size: tuple[int, int]
    input_size: tuple[int, int]

    def __post_init__(self):
        strides = SPLIT_POINTS[self.split_point]
        finest = next(iter(strides))
        base_h, base_w = (n * strides[finest] for n in self.layers[finest].shape[-2:])
        for name, layer in self.layers.items():
            if layer.ndim != 3 or layer.dtype != torch.float32:
                raise InputError(
                    f"layer {name}: expected a float32 tensor (C, h, w), "
                    f"found {layer.dtype} {tuple(layer.shape)}"
                )
            expected = (-(-base_h // strides[name]), -(-base_w // strides[name]))
            if tuple(layer.shape[-2:]) != expected:
                raise InputError(
                    f"layer {name}: expected a {expected[0]}x{expected[1]} grid beside {finest} of "
                    f"{tuple(self.layers[finest].shape[-2:])}, found {tuple(layer.shape[-2:])}"
                )
        in_h, in_w = self.input_size
        if not (0 < in_h <= base_h and 0 < in_w <= base_w):
            raise InputError(
                f"input_size: expected at most ({base_h}, {base_w}), which layer {finest} covers, "
                f"found {self.input_size}: (height, width) of the network input before its padding"
            )

    @property
    def split_point(self) -> str:
        """Name of the split point, an entry of SPLIT_POINTS."""
        return split_point_of(self.layers)

    def require_finite(self) -> FeaturePyramid:
        """Return self; raise InputError where a layer holds NaN or infinity."""
        for name, layer in self.layers.items():
            if not all(map(math.isfinite, (x.item() for x in torch.aminmax(layer)))):
                raise InputError(
                    f"layer {name}: expected finite features, found NaN or infinite values; check "
                    "the picture and the detector's weights"
                )
        return self

    def statistics(self) -> dict[str, list[float]]:
        """Layer name -> [mean, standard deviation]: what two decodings are compared by."""
        found = {}
        for name, layer in self.layers.items():
            values = layer.double()
            found[name] = [values.mean().item(), values.std(correction=0).item()]
        return found
