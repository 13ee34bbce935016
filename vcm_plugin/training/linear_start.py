# SPDX-License-Identifier: BSD-3-Clause
"""An untrained AutoencoderDC made the best linear transform of 8 x 8 blocks, where training begins.

A short training from random weights stays far below what the Karhunen-Loeve transform of a block
does with as many coefficients (mini-CTC, 16 of 192: 28.7 dB); from there it can only gain. All
residual branches start at zero. The coefficients are those of an orthonormal transform, so an
error of the latents weighs as much as it does in the picture.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderDC
from torch import nn
from torch.nn import functional as F

LEVEL = 8.0  # of the constant channels that make the last normalisation a constant factor
OFFSET = 3.0  # lifts every value over the last rectifier
RIDGE = 1e-6


@torch.no_grad()
def start_linear(vae: AutoencoderDC, pictures: torch.Tensor) -> None:
    """Set the weights of a stride-8 autoencoder as small_prior makes it, from pictures
    (N, 3, h, w) in -1 .. 1 whose sides are multiples of 8."""
    for name, module in vae.named_modules():
        if name.endswith(".norm") and hasattr(module, "weight"):  # of the residual blocks
            module.weight.zero_()
            module.bias.zero_()
    blocks = _blocks(pictures)
    mean = blocks.mean(dim=0)
    basis = torch.linalg.eigh(torch.cov(blocks.T))[1].flip(1)[:, : vae.config.latent_channels]
    _start_encoder(vae.encoder, pictures, (blocks - mean) @ basis)
    _start_decoder(vae.decoder, basis, mean)


def _blocks(pictures: torch.Tensor) -> torch.Tensor:
    """(blocks, 192), the samples of a block in the order of three pixel unshuffles by two."""
    for _ in range(3):
        pictures = F.pixel_unshuffle(pictures, 2)
    return pictures.permute(0, 2, 3, 1).reshape(-1, pictures.shape[1])


def _start_encoder(encoder: nn.Module, pictures: torch.Tensor, wanted: torch.Tensor) -> None:
    """Downsampling passes all samples on; the last layer solves for the coefficients."""
    for level, stage in enumerate((encoder.conv_in, *_named(encoder, "DCDownBlock2d"))):
        _clear(stage.conv)
        _identity(stage.conv, 3 * 4**level)
    features = encoder.conv_in(pictures)
    for stage in encoder.down_blocks:
        features = stage(features)
    features = features.permute(0, 2, 3, 1).flatten(0, 2)
    ones = torch.ones_like(features[:, :1])
    known = torch.cat((features, ones), dim=1).double()
    gram = known.T @ known
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solved = torch.linalg.solve(gram, known.T @ wanted.double()).float()
    _clear(encoder.conv_out)
    encoder.conv_out.weight[:, :, 1, 1] = solved[:-1].T
    size = encoder.out_shortcut_average_group_size
    for k in range(encoder.conv_out.out_channels):  # what the shortcut adds
        encoder.conv_out.weight[k, k * size : (k + 1) * size, 1, 1] -= 1.0 / size
    encoder.conv_out.bias.copy_(solved[-1])


def _start_decoder(decoder: nn.Module, basis: torch.Tensor, mean: torch.Tensor) -> None:
    """The first layer restores all samples of a block; upsampling puts them where they belong."""
    first = decoder.conv_in
    _clear(first)
    first.weight[: len(basis), :, 1, 1] = basis
    first.bias[: len(basis)] = mean
    for k in range(first.in_channels):
        size = decoder.in_shortcut_repeats
        first.weight[k * size : (k + 1) * size, k, 1, 1] -= 1.0
    for level, stage in enumerate(_named(decoder, "DCUpBlock2d")[:2]):
        kept = 3 * 4 ** (3 - level)
        _clear(stage.conv)
        _identity(stage.conv, kept)
        for k in range(stage.conv.out_channels):
            stage.conv.weight[k, k // stage.repeats, 1, 1] -= 1.0
        if level == 1:
            stage.conv.bias[kept:] = LEVEL
    channels = decoder.norm_out.weight.numel()
    decoder.norm_out.weight.fill_(LEVEL * ((channels - 12) / channels) ** 0.5)
    decoder.norm_out.bias.fill_(OFFSET)
    _clear(decoder.conv_out.conv)
    _identity(decoder.conv_out.conv, 12)
    decoder.conv_out.conv.bias.fill_(-OFFSET)


def _named(network: nn.Module, kind: str) -> list[nn.Module]:
    """The down- or upsampling blocks between the levels, in the order of the computation."""
    stages = network.down_blocks if kind == "DCDownBlock2d" else reversed(network.up_blocks)
    return [m for stage in stages for m in stage if type(m).__name__ == kind]


def _clear(conv: nn.Conv2d) -> None:
    conv.weight.zero_()
    conv.bias.zero_()


def _identity(conv: nn.Conv2d, count: int) -> None:
    """Channel k -> channel k, for the first `count` channels."""
    for k in range(count):
        conv.weight[k, k, 1, 1] = 1.0
