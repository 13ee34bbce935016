# SPDX-License-Identifier: BSD-3-Clause
"""Small features of every split point, and sizes of a VFCN for them."""

from dataclasses import replace

import torch
from vfcn_tiny import CONFIG

from vcm_plugin.diff_fchm.machine.config import VfcnConfig
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split_points import SPLIT_POINTS

CHANNELS = {"fpn": (8, 8, 8, 8), "c2": (4, 8, 16, 32), "r2": (8,), "jde_tvd": (6, 12, 24),
            "jde_hieve": (3, 6, 12), "yolox_l13": (8,), "yolox_l37": (8,), "sam": (8,)}  # fmt: skip


def pyramid(split_point: str, input_size=(96, 160), seed=0) -> FeaturePyramid:
    """Smooth random features of a split point; input_size: in multiples of 32."""
    generator, layers = torch.Generator().manual_seed(seed), {}
    for (name, stride), count in zip(SPLIT_POINTS[split_point].items(), CHANNELS[split_point]):
        size = (count, input_size[0] // stride, input_size[1] // stride)
        noise = torch.randn(size, generator=generator)
        layers[name] = torch.nn.functional.avg_pool2d(noise, 3, 1, 1) * 3.0
    return FeaturePyramid(layers, (180, 300), input_size)


def config(split_point: str) -> VfcnConfig:
    return replace(CONFIG, split_point=split_point, layer_channels=CHANNELS[split_point])
