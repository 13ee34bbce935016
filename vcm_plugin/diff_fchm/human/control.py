# SPDX-License-Identifier: BSD-3-Clause
"""How z_t, c and F reach the denoising network: a side encoder that ends in zero convolutions.

The side encoder has the blocks of the prior's encoder at a share of their width. What it adds is
zero before training, so training starts from the prior as it is. It adds to the encoder (after the
residual blocks of each level), to the middle and to the decoder (through the skip connections).
"""

from __future__ import annotations

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from vcm_plugin.diff_fchm.human.config import HvcnConfig, PriorFit

GROUPS = 4
MULTIPLE = 8  # of the widths, so that a group has several channels
TIME_FEATURES = 64
TIME_WIDTH = 128


class ControlEncoder(nn.Module):
    """cat(z_t, c, F) (N, 2 L + width, h8, w8), t (N,) -> what a UNet2DConditionModel adds."""

    def __init__(self, config: HvcnConfig, prior: PriorFit):
        super().__init__()
        widths = [
            max(MULTIPLE, round(config.control_share * n / MULTIPLE) * MULTIPLE)
            for n in prior.blocks
        ]
        inputs = 2 * prior.latent_channels + config.width
        self.features = Timesteps(TIME_FEATURES, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time = TimestepEmbedding(TIME_FEATURES, TIME_WIDTH)
        self.first = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.blocks, self.downs = nn.ModuleList(), nn.ModuleList()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        self.decoder.append(_zero(widths[0], prior.blocks[0]))
        self.attends = prior.attends
        last, before = len(widths) - 1, widths[0]
        for level, (own, outer) in enumerate(zip(widths, prior.blocks)):
            block = nn.ModuleList()
            for _ in range(prior.layers):
                block.append(_residual(before, own))
                self.decoder.append(_zero(own, outer))
                before = own
            self.blocks.append(block)
            self.encoder.append(_zero(own, outer))
            if level < last:
                self.downs.append(nn.Conv2d(own, own, 3, stride=2, padding=1))
                self.decoder.append(_zero(own, outer))
        self.middle = _residual(before, before)
        self.centre = _zero(before, prior.blocks[-1])

    def forward(self, z_t, c, control, t: torch.Tensor) -> dict[str, torch.Tensor | list]:
        """Keyword arguments of UNet2DConditionModel.forward."""
        time = self.time(self.features(t).to(z_t))
        x = self.first(torch.cat((z_t, c, control), dim=1))
        states, inner = [x], []
        for level, block in enumerate(self.blocks):
            for residual in block:
                x = residual(x, time)
                states.append(x)
            before_down = x
            if level < len(self.downs):
                x = self.downs[level](x)
                states.append(x)
            # diffusers adds inside a block with attention, and after one without
            inner.append(self.encoder[level](before_down if self.attends[level] else x))
        return {
            "down_block_additional_residuals": [f(x) for f, x in zip(self.decoder, states)],
            "mid_block_additional_residual": self.centre(self.middle(x, time)),
            "down_intrablock_additional_residuals": inner,
        }


def _residual(inputs: int, outputs: int) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=inputs, out_channels=outputs, temb_channels=TIME_WIDTH, groups=GROUPS
    )


def _zero(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv
