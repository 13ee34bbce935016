# SPDX-License-Identifier: BSD-3-Clause
"""Which range features are normalised to: implicit variable normalisation (IVN).

One number s moves one model along its whole rate-distortion curve: the range (m, M) of the features
is scaled about zero to (s*m, s*M), so the network sees its input divided by s. s > 1 narrows the
input and lowers the rate, s < 1 widens it. Nothing is clamped. The scaled range is rounded to the
16-bit floats of the bitstream before anybody uses it; the decoder inverts with the same two floats.

That inverse is IVDN: `invert` on features; VFCN's synthesis does the same on its latents (vfcn.py).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

import torch

from vcm_plugin.bitstream import round_float
from vcm_plugin.errors import BitstreamError, InputError
from vcm_plugin.split_points import SPLIT_POINTS, split_point_of


def feature_range(
    layers: Mapping[str, torch.Tensor], input_size: tuple[int, int]
) -> tuple[float, float]:
    """(minimum, maximum) over all layers (..., h, w) without the cells that hold only padding.

    layers: of any split point, by their names there.
    """
    strides = SPLIT_POINTS[split_point_of(layers)]
    with torch.no_grad():
        kept = [
            layer[..., : -(-input_size[0] // strides[name]), : -(-input_size[1] // strides[name])]
            for name, layer in layers.items()
        ]
        lows, highs = ([f(layer).item() for layer in kept] for f in (torch.amin, torch.amax))
    low, high = min(lows), max(highs)
    if not all(map(math.isfinite, lows + highs)):
        raise InputError(
            "expected finite features, found NaN or infinite values; check the picture and the "
            "detector's weights"
        )
    if low == high:
        raise InputError(
            f"expected features that differ, found {low:g} everywhere: they have no range to "
            "normalise; check the picture and the detector's weights"
        )
    return low, high


def scaled_range(value_range: tuple[float, float], s: float) -> tuple[float, float]:
    """The range of the features scaled about zero by s, as the bitstream's 16-bit floats.

    >>> scaled_range((-4.0, 8.0), 0.5)
    (-2.0, 4.0)
    """
    low, high = value_range
    scaled = round_float(s * low), round_float(s * high)
    if not scaled[0] < scaled[1]:
        raise InputError(
            f"features between {low:g} and {high:g}, scaled by {s:g}, have no range in 16-bit "
            "floats; choose another rate point, or check the detector's weights"
        )
    return scaled


def log2_code(value_range: tuple[float, float]) -> int:
    """log2 of the width of a range in steps of 1/256, piecewise linear between powers of two.

    Read off the bits of the 32-bit float, so that every machine finds the same integer.

    >>> log2_code((0.0, 2.0)) - log2_code((0.0, 1.0)), log2_code((-0.5, 1.0)) - log2_code((0, 1))
    (256, 128)
    """
    width = value_range[1] - value_range[0]
    if not 0.0 < width < 2.0**24:
        raise BitstreamError(f"expected a range low < high, found {value_range}")
    return struct.unpack(">I", struct.pack(">f", width))[0] >> 15


def normalise(
    layers: Mapping[str, torch.Tensor], value_range: tuple[float, float]
) -> dict[str, torch.Tensor]:
    """Features -> (P - m') / (M' - m')."""
    low, high = value_range
    return {name: (layer - low) / (high - low) for name, layer in layers.items()}


def invert(
    layers: Mapping[str, torch.Tensor], value_range: tuple[float, float]
) -> dict[str, torch.Tensor]:
    """IVDN: normalised features -> features."""
    low, high = value_range
    return {name: layer * (high - low) + low for name, layer in layers.items()}
