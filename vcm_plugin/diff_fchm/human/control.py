# SPDX-License-Identifier: BSD-3-Clause
"""How z_t, c and F reach the denoising network: a control whose last layers are zero convolutions.

What it adds is zero before training, so training starts from the prior as it is. It adds to the
encoder (after the residual blocks of each level), to the middle and to the decoder (through the
skip connections). Ours, `ControlEncoder`, has the kinds of blocks of the prior's encoder at a share
of their width; the paper's, `PriorControl`, the layers of the prior itself, begun with its weights.
"""

from __future__ import annotations

import inspect

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
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

    def forward(
        self, z_t, c, control, t: torch.Tensor, text: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | list]:
        """Keyword arguments of UNet2DConditionModel.forward. text: not looked at."""
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


class PriorControl(nn.Module):
    """The control of the prior's own layers: diffusers' ControlNetModel, which adds to the middle
    and the decoder, and zero convolutions on what it says, which add to the encoder.

    What it is told beside z_t is the fused features, and c where FCN has not joined it to them.
    It is on the grid of z_t, so the embedding of the condition has no strides.
    """

    def __init__(self, config: HvcnConfig, prior: PriorFit, layout: dict):
        super().__init__()
        self.joined = config.published("fusion")
        self.network = ControlNetModel(
            conditioning_channels=config.width + (0 if self.joined else prior.latent_channels),
            conditioning_embedding_out_channels=(config.width,),
            **layout,
        )
        self.attends, self.layers = prior.attends, prior.layers
        self.encoder = nn.ModuleList(_zero(n, n) for n in prior.blocks)

    def begin(self, unet: UNet2DConditionModel) -> None:
        """Take the prior's weights wherever the layers are the same."""
        own = self.network.state_dict()
        shared = {name: x for name, x in unet.state_dict().items() if name in own}
        self.network.load_state_dict(own | shared)

    def forward(
        self, z_t, c, control, t: torch.Tensor, text: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor | list]:
        """Keyword arguments of UNet2DConditionModel.forward; text: of the empty prompt."""
        seen = control if self.joined else torch.cat((c, control), dim=1)
        decoder, middle = self.network(z_t, t, text, seen, return_dict=False)
        inner, at = [], 0
        for level, conv in enumerate(self.encoder):
            at += self.layers  # the first one stands before the blocks
            down = level < len(self.encoder) - 1
            # diffusers adds inside a block with attention, and after one without
            inner.append(conv(decoder[at + 1 if down and not self.attends[level] else at]))
            at += down
        return {
            "down_block_additional_residuals": decoder,
            "mid_block_additional_residual": middle,
            "down_intrablock_additional_residuals": inner,
        }


def layout_of(unet: UNet2DConditionModel) -> dict:
    """What ControlNetModel takes of the configuration of a denoising network."""
    wanted = set(inspect.signature(ControlNetModel.__init__).parameters) & set(unet.config)
    return {name: unet.config[name] for name in sorted(wanted)}


def _residual(inputs: int, outputs: int) -> ResnetBlock2D:
    return ResnetBlock2D(
        in_channels=inputs, out_channels=outputs, temb_channels=TIME_WIDTH, groups=GROUPS
    )


def _zero(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv
