# SPDX-License-Identifier: BSD-3-Clause
"""What turns a network input into features: Detectron2's ResNet FPN of torchvision's modules."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d

from vcm_plugin.split.config import DetectorConfig


class ResNetFpn(nn.Module):
    """ResNet res2..res5 under a feature pyramid p2..p6, cut where the split points are."""

    def __init__(self, config: DetectorConfig):
        super().__init__()
        norm = DetectronFrozenNorm if config.norm == "FrozenBN" else nn.BatchNorm2d
        self.stem = nn.Sequential(
            nn.Conv2d(3, config.stem_out_channels, 7, stride=2, padding=3, bias=False),
            norm(config.stem_out_channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels = config.stem_out_channels
        widths = [config.res2_out_channels * 2**i for i in range(4)]
        for i, (width, blocks) in enumerate(zip(widths, config.num_blocks, strict=True)):
            stage = _stage(config, norm, channels, width, blocks, stride=1 if i == 0 else 2)
            self.add_module(f"res{i + 2}", stage)
            channels = width
        self.fpn = FeaturePyramidNetwork(widths, config.fpn_channels)

    def bottom_up(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Padded network input (N, 3, h, w) -> r2..r5, the outputs of the residual stages."""
        return self.stages_above_r2(self.res2(self.stem(x)))

    def stages_above_r2(self, r2: torch.Tensor) -> dict[str, torch.Tensor]:
        """r2 -> r2..r5."""
        r3 = self.res3(r2)
        r4 = self.res4(r3)
        return {"r2": r2, "r3": r3, "r4": r4, "r5": self.res5(r4)}

    def laterals(self, stages: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """r2..r5 -> c2..c5, the lateral 1x1 convolutions of the feature pyramid."""
        convs = zip(stages, self.fpn.inner_blocks, strict=True)
        return {"c" + name[1:]: conv(stages[name]) for name, conv in convs}

    def top_down(self, laterals: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """c2..c5 -> p2..p5."""
        pyramid, coarser = {}, None
        for name, conv in reversed(list(zip(laterals, self.fpn.layer_blocks, strict=True))):
            merged = laterals[name]
            if coarser is not None:
                merged = merged + F.interpolate(coarser, scale_factor=2.0, mode="nearest")
            pyramid["p" + name[1:]] = conv(merged)
            coarser = merged
        return dict(reversed(pyramid.items()))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return with_p6(self.top_down(self.laterals(self.bottom_up(x))))


def with_p6(pyramid: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """p2..p5 -> p2..p6: every second sample of p5, from the first on."""
    return {**pyramid, "p6": F.max_pool2d(pyramid["p5"], kernel_size=1, stride=2)}


class DetectronFrozenNorm(FrozenBatchNorm2d):
    """Fixed batch normalisation in the operation that Detectron2 uses, so that rounding agrees."""

    def forward(self, x):
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


def _stage(config, norm, in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """Residual blocks of one resolution; the first one changes the stride and the channels."""
    basic = config.depth < 50
    planes = width if basic else width // Bottleneck.expansion
    # torchvision counts the width of a group relative to a res2 of 256 channels.
    base_width = 64 if basic else config.width_per_group * 256 / config.res2_out_channels
    layers = []
    for i in range(blocks):
        first = stride if i == 0 else 1
        shortcut = None
        if in_channels != width:
            shortcut = nn.Sequential(
                nn.Conv2d(in_channels, width, 1, stride=first, bias=False), norm(width)
            )
        kind, groups = (BasicBlock, 1) if basic else (Bottleneck, config.num_groups)
        block = kind(in_channels, planes, first, shortcut, groups, base_width, 1, norm)
        if config.stride_in_1x1 and not basic:
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
        layers.append(block)
        in_channels = width
    return nn.Sequential(*layers)
