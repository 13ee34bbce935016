# SPDX-License-Identifier: BSD-3-Clause
"""A tiny real learned picture codec, its weights file and pictures, for tests."""

from pathlib import Path

import numpy as np
import torch

from anchors.picture_config import PictureConfig
from anchors.picture_learned import PictureLearnedCodec
from anchors.picture_networks import LEVELS, PictureNetworks, export, start_linear

CONFIG = PictureConfig(
    width4=8, width8=8, width16=8, slices=(4, 8, 12), hyper_width=8, hyper_latents=4,
    context_width=8, qps=(20, 45),
)  # fmt: skip


def tiny_model(config: PictureConfig = CONFIG, seed: int = 0) -> PictureNetworks:
    """Networks that begin as the transform of a few pictures, with branches that do something."""
    torch.manual_seed(seed)
    model = PictureNetworks(config)
    start_linear(model, [tensor(picture((192, 256), seed=k)) for k in range(2)])
    model.g_a.branch[-1].weight.data.normal_(0.0, 0.01)
    model.g_s.residual[1].weight.data.normal_(0.0, 0.003)
    for network in (model.entropy.prior, *model.entropy.contexts):  # scales of about 4 steps
        network[-1].weight.data *= 0.02
        network[-1].bias.data[len(network[-1].bias) // 2 :] = 1.1
    return model


def tiny_weights(
    path: Path, config: PictureConfig = CONFIG, seed: int = 0, detector: str | None = None
) -> Path:
    """The weights file of tiny_model."""
    return export(tiny_model(config, seed), detector, {}, path)


def tiny_codec(folder: Path, seed: int = 0) -> PictureLearnedCodec:
    """A codec with the weights of tiny_model."""
    return PictureLearnedCodec(tiny_weights(folder / f"picture{seed}.safetensors", seed=seed))


def picture(size: tuple[int, int] = (61, 90), seed: int = 1) -> np.ndarray:
    """Smooth random colours, uint8 (H, W, 3)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 3, -(-size[0] // 8) + 1, -(-size[1] // 8) + 1, generator=generator)
    smooth = torch.nn.functional.interpolate(noise, scale_factor=8, mode="bilinear")[0]
    fine = torch.rand(3, *size, generator=generator)
    colours = 255 * (0.9 * smooth[:, : size[0], : size[1]] + 0.1 * fine)
    return colours.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def tensor(colours: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) -> (3, H, W) in -1 .. 1."""
    return torch.from_numpy(colours.transpose(2, 0, 1).copy()).float() / LEVELS - 1.0
