# SPDX-License-Identifier: BSD-3-Clause
"""A tiny real VFCN, its weights file and features, for the tests of the machine layer."""

from pathlib import Path

import torch

from vcm_plugin.diff_fchm.machine.codec import export
from vcm_plugin.diff_fchm.machine.config import VfcnConfig
from vcm_plugin.diff_fchm.machine.vfcn import Vfcn
from vcm_plugin.features import FeaturePyramid

CONFIG = VfcnConfig(
    channels=8,
    width8=8,
    width16=8,
    latents=8,
    slices=(2, 6),
    hyper_width=8,
    hyper_latents=4,
    context_width=8,
)


def tiny_model(config: VfcnConfig = CONFIG, seed: int = 0) -> Vfcn:
    """A VFCN with random weights that are large enough for latents of several steps."""
    torch.manual_seed(seed)
    model = Vfcn(config)
    for network in (model.g_a, model.h_a, model.g_s):
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.data *= 1.7
    for network in (model.entropy.prior, *model.entropy.contexts):  # scales of about 4 steps
        network[-1].weight.data *= 0.2
        network[-1].bias.data[len(network[-1].bias) // 2 :] = 1.1
    model.mean.copy_(torch.randn(model.mean.shape))
    model.std.copy_(torch.rand(model.std.shape) + 0.5)
    model.typical_width.fill_(8.0)
    return model


def tiny_weights(
    folder: Path, config: VfcnConfig = CONFIG, seed: int = 0, detector: str = "0" * 64
) -> Path:
    """The weights file of tiny_model."""
    path = folder / "tiny.safetensors"
    return export(tiny_model(config, seed), detector, ["0.5", "1", "2"], {}, path)


def pyramid(
    input_size: tuple[int, int] = (61, 90), channels: int = 8, seed: int = 1
) -> FeaturePyramid:
    """Smooth random features of a network input, padded to multiples of 32."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (-(-n // 32) * 32 for n in input_size)
    layers = {}
    for name, stride in {"p2": 4, "p3": 8, "p4": 16, "p5": 32}.items():
        noise = torch.randn(channels, height // stride, width // stride, generator=generator)
        layers[name] = torch.nn.functional.avg_pool2d(noise, 3, 1, 1) * 3.0
    return FeaturePyramid(layers, (122, 180), input_size)
