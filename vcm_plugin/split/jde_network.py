# SPDX-License-Identifier: BSD-3-Clause
"""The network of JDE: Darknet-53 with three heads, each with boxes, confidences and embeddings.

Z. Wang, L. Zheng, Y. Liu, S. Wang, "Towards Real-Time Multi-Object Tracking", ECCV 2020; the
backbone is that of J. Redmon, A. Farhadi, "YOLOv3: An Incremental Improvement", 2018. Layers have
the numbers of the network's cfg file, which name the split points of the test conditions:

    picture -> 0..36 -> sum 36 (stride 8) -> 37..61 -> sum 61 (16) -> 62..74 -> sum 74 (32)
                          |                              |                         |
               102 ------(+)--> 105..110      87 -------(+)--> 90..95              75..80
                ^               |    |         ^               |    |              |    |
                '---- 94 -------(----)---------'- 79 ----------(----)--------------'    |
                               111, 113                       96, 98                   81, 83

(+) is a concatenation after an upsampling by 2. Of each triple of a head, the last but one layer
leads to the next finer head and to the embedding; boxes and confidences come from the last one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)
BLOCKS = (1, 2, 8, 8, 4)  # of Darknet-53, in its five stages
BRANCHES = (105, 90, 75)  # the first layer of each head, finest first
PER_ANCHOR = 6  # four numbers of a box, two of its confidence


@dataclass(frozen=True)
class JdeSizes:
    """What decides about the shapes of the weights.

    stem, stages: channels of the first layer and of the five stages. embedding: channels of an
    embedding. anchors: of each head, finest first.
    """

    stem: int = 32
    stages: tuple[int, ...] = (64, 128, 256, 512, 1024)
    embedding: int = 512
    anchors: int = 4

    def channels(self, split_point: str) -> tuple[int, int, int]:
        """Channels of the three layers of a split point, finest first."""
        halve = 2 if split_point == "jde_hieve" else 1
        return tuple(count // halve for count in self.stages[2:])


class JdeNetwork(nn.Module):
    """The network in three parts, cut where the test conditions cut it: 36, 61, 74 or 105, 90, 75.

    layers: the convolutions by their numbers, each with batch normalisation and leaky ReLU (0.1)
    but for the last ones of the heads. Features are lists of three layers, finest first.
    """

    def __init__(self, sizes: JdeSizes):
        super().__init__()
        self.sizes = sizes
        self.layers = nn.ModuleDict()
        number = self._add(0, 3, sizes.stem, 3)
        entering = sizes.stem
        for channels, blocks in zip(sizes.stages, BLOCKS, strict=True):
            number = self._add(number, entering, channels, 3, stride=2)
            for _ in range(blocks):
                self._add(number, channels, channels // 2, 1)
                self._add(number + 1, channels // 2, channels, 3)
                number += 3
            entering = channels
        for start, channels, beside in zip(
            BRANCHES[::-1], sizes.stages[:1:-1], (0, *sizes.stages[:2:-1])
        ):
            self._add_head(start, channels, beside)

    def backbone(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Pictures (N, 3, H, W) of 0..1 -> layers 36, 61 and 74."""
        x, number, sums = self.layers["0"](x), 1, []
        for blocks in BLOCKS:
            x = self.layers[str(number)](x)
            number += 1
            for _ in range(blocks):
                x = x + self.layers[str(number + 1)](self.layers[str(number)](x))
                number += 3
            sums.append(x)
        return sums[2:]

    def branches(self, sums: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Layers 36, 61, 74 -> (layers 105, 90, 75, their trunks: layers 109, 94, 79)."""
        branches, trunks, above = [], [], None
        for start, beside in zip(BRANCHES[::-1], sums[::-1]):
            if above is not None:
                reduced = self.layers[str(start - 3)](above)
                beside = torch.cat((F.interpolate(reduced, scale_factor=2.0), beside), dim=1)
            branches.append(self.layers[str(start)](beside))
            above = self._trunk(start, branches[-1])
            trunks.append(above)
        return branches[::-1], trunks[::-1]

    def trunks(self, branches: list[torch.Tensor]) -> list[torch.Tensor]:
        """Layers 105, 90, 75 -> layers 109, 94, 79."""
        return [self._trunk(start, x) for start, x in zip(BRANCHES, branches)]

    def heads(self, trunks: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Layers 109, 94, 79 -> of each head (N, anchors * 6, h, w) and embeddings (N, E, h, w)."""
        found = []
        for start, x in zip(BRANCHES, trunks):
            boxes = self.layers[str(start + 6)](self.layers[str(start + 5)](x))
            found.append((boxes, self.layers[str(start + 8)](x)))
        return found

    def forward(self, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Pictures -> what `heads` gives."""
        return self.heads(self.branches(self.backbone(x))[1])

    def _trunk(self, start: int, x: torch.Tensor) -> torch.Tensor:
        for number in range(start + 1, start + 5):
            x = self.layers[str(number)](x)
        return x

    def _add_head(self, start: int, channels: int, above: int) -> None:
        """The layers of a head; above: channels of the next coarser stage, 0 for the coarsest."""
        half, entering = channels // 2, channels
        if above:
            self._add(start - 3, above // 2, half, 1)
            entering += half
        for number in range(start, start + 6, 2):
            self._add(number, entering, half, 1)
            self._add(number + 1, half, channels, 3)
            entering = channels
        self.layers[str(start + 6)] = nn.Conv2d(channels, self.sizes.anchors * PER_ANCHOR, 1)
        self.layers[str(start + 8)] = nn.Conv2d(half, self.sizes.embedding, 3, padding=1)

    def _add(self, number: int, entering: int, leaving: int, kernel: int, stride: int = 1) -> int:
        """A convolution with batch normalisation; returns the next number."""
        self.layers[str(number)] = nn.Sequential(
            nn.Conv2d(entering, leaving, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(leaving),
            nn.LeakyReLU(0.1),
        )
        return number + 1


def decode_boxes(deltas: torch.Tensor, anchors: torch.Tensor, stride: int) -> torch.Tensor:
    """Offsets (N, A, h, w, 4) -> boxes (centre x, centre y, width, height) in pixels of the input.

    anchors: (A, 2), width and height in pixels. An offset of the centre counts in anchor sizes from
    the cell's corner, one of the size is a logarithm.
    """
    height, width = deltas.shape[2:4]
    cells = torch.stack(
        torch.meshgrid(
            torch.arange(width, device=deltas.device),
            torch.arange(height, device=deltas.device),
            indexing="xy",
        ),
        dim=-1,
    )  # (h, w, 2)
    shapes = anchors.to(deltas).view(1, -1, 1, 1, 2) / stride
    centres = shapes * deltas[..., :2] + cells.to(deltas)
    return torch.cat((centres, shapes * deltas[..., 2:].exp()), dim=-1) * stride


def by_anchor(boxes: torch.Tensor) -> torch.Tensor:
    """A head's boxes (N, A * 6, h, w) -> (N, A, h, w, 6)."""
    count, channels, height, width = boxes.shape
    split = boxes.view(count, channels // PER_ANCHOR, PER_ANCHOR, height, width)
    return split.permute(0, 1, 3, 4, 2)
