# SPDX-License-Identifier: BSD-3-Clause
"""Which sizes belong together: picture, network input, layers of a split point."""

from __future__ import annotations

import numpy as np

from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split_points import SPLIT_POINTS

SIZE_DIVISIBILITY = 32


def network_input_size(
    source_size: tuple[int, int], shortest: int, longest: int
) -> tuple[int, int]:
    """(height, width) after Detectron2's resize: `shortest` pixels, but at most `longest`.

    0 for `shortest` means no resize. Raises InputError where a side would shrink to nothing.

    >>> network_input_size((427, 640), 800, 1333)
    (800, 1199)
    """
    height, width = source_size
    if shortest == 0:
        return height, width
    scale = shortest / min(height, width)
    new_h, new_w = (shortest, scale * width) if height < width else (scale * height, shortest)
    if max(new_h, new_w) > longest:
        scale = longest / max(new_h, new_w)
        new_h, new_w = new_h * scale, new_w * scale
    new_h, new_w = int(new_h + 0.5), int(new_w + 0.5)
    if not (new_h and new_w):
        raise InputError(
            f"a picture of {height}x{width} (height x width) shrinks to {new_h}x{new_w} before the "
            "detector; crop it, or raise INPUT.MAX_SIZE_TEST of the detector"
        )
    return new_h, new_w


def padded_size(input_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the network input after padding to whole p5 cells."""
    height, width = (-(-side // SIZE_DIVISIBILITY) * SIZE_DIVISIBILITY for side in input_size)
    return height, width


def check_split_point(split_point: str) -> str:
    """Return the name of a split point; raise InputError where there is none of that name."""
    if split_point not in SPLIT_POINTS:
        raise InputError(
            f"split point: expected one of {', '.join(SPLIT_POINTS)}, found {split_point!r}"
        )
    return split_point


def check_picture(picture: np.ndarray) -> None:
    """Raise InputError where a picture is not uint8 RGB of (H, W, 3)."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise InputError(
            f"picture: expected uint8 RGB samples of shape (H, W, 3), found {picture.dtype} "
            f"{picture.shape}; convert it with vcm_plugin.testsets.pictures.read_picture"
        )


def check_features(features: FeaturePyramid, split_point: str, channels: int) -> None:
    """Raise InputError where features are not what NN-Part1 of this detector makes."""
    if features.split_point != split_point:
        raise InputError(
            f"features: expected split point {split_point}, found {features.split_point}; "
            "use the split point that the features were coded at"
        )
    height, width = padded_size(features.input_size)
    for name, stride in SPLIT_POINTS[split_point].items():
        expected = (channels, height // stride, width // stride)
        found = tuple(features.layers[name].shape)
        if found != expected:
            raise InputError(
                f"layer {name}: this detector makes {expected} of a network input of "
                f"{features.input_size}, found {found}; were the features made by another detector?"
            )


def to_input(boxes: np.ndarray, features: FeaturePyramid) -> np.ndarray:
    """Boxes (n, 4), x0 y0 x1 y1 in the source picture -> in the network input, float32."""
    (height, width), (in_height, in_width) = features.source_size, features.input_size
    return (boxes * np.array([in_width / width, in_height / height] * 2)).astype(np.float32)
