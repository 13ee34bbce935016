# SPDX-License-Identifier: BSD-3-Clause
"""What the split tests share: a picture, random weights with features near 1, a comparison."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from vcm_plugin.split.checkpoint import Checkpoint
from vcm_plugin.split.config import DetectorConfig, load_config
from vcm_plugin.split.detections import Detections
from vcm_plugin.split.names import to_detectron2_state_dict
from vcm_plugin.split.rcnn import build_rcnn
from vcm_plugin.split.torchvision import network_input

MODELS = Path(__file__).parents[1] / "cfg" / "models"


def tiny_config() -> DetectorConfig:
    """The built-in detector's architecture at a fraction of its width and input size."""
    return replace(
        load_config(MODELS / "minictc_mask_rcnn.yaml"),
        stem_out_channels=8,
        res2_out_channels=8,
        fpn_channels=16,
        box_fc_dim=32,
        mask_conv_dim=8,
        min_size_test=96,
        max_size_test=160,
        rpn_pre_nms_topk_test=100,
        rpn_post_nms_topk_test=30,
    )


def drawn_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth noise with a few hard-edged boxes: uint8 RGB (height, width, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), np.uint8)
    picture = np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(8):
        y, x = rng.integers(0, height), rng.integers(0, width)
        h, w = rng.integers(4, max(5, height // 3)), rng.integers(4, max(5, width // 3))
        picture[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    return picture


def random_checkpoint(config: DetectorConfig, picture: np.ndarray | None = None) -> Checkpoint:
    """Random weights of a detector whose layers answer a picture with a standard deviation near 1.

    The picture runs through the fresh model. On its way every normalisation takes the statistics
    of what it sees, and every other layer is scaled to a chosen standard deviation.
    """
    torch.manual_seed(0)
    picture = drawn_picture(120, 160) if picture is None else picture
    model = build_rcnn(replace(config, norm="FrozenBN")).eval()
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            hooks.append(module.register_forward_pre_hook(_normalise))
        elif isinstance(module, nn.Linear | nn.ConvTranspose2d) or (
            isinstance(module, nn.Conv2d) and module.bias is not None
        ):
            std = {"bbox_pred": 0.5, "cls_score": 3.0, "mask_fcn_logits": 3.0, "cls_logits": 3.0}
            hooks.append(module.register_forward_hook(_scale(std.get(name.split(".")[-1], 1.0))))
    with torch.no_grad():
        model([network_input(picture, config)])
    for hook in hooks:
        hook.remove()
    return Checkpoint(to_detectron2_state_dict(model), "random", "random weights")


def _normalise(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    x = inputs[0].transpose(0, 1).flatten(1)
    module.running_mean.copy_(x.mean(dim=1))
    module.running_var.copy_(x.var(dim=1) + 1e-3)
    module.weight.uniform_(0.5, 1.0)
    module.bias.normal_(std=0.1)


def _scale(std: float):
    seen = []

    def hook(module: nn.Module, _, output: torch.Tensor) -> torch.Tensor:
        if seen:
            return output
        seen.append(True)
        module.weight.mul_(std / output.std())
        module.bias.normal_(std=0.1)
        shape = (1, -1) if output.ndim == 2 else (1, -1, 1, 1)
        return output * (std / output.std()) + module.bias.reshape(shape)

    return hook


@dataclass(frozen=True)
class Difference:
    """The largest differences between the detections of two runtimes."""

    detections: int
    boxes: float  # pixels
    scores: float
    mask_pixels: int  # that differ
    mask_area: int  # that are set


def compare(ours: Detections, theirs: Detections) -> Difference:
    """Pair detections of the same class by their boxes; both sides must have the same number."""
    assert len(ours) == len(theirs)
    boxes = scores = 0.0
    mask_pixels = mask_area = 0
    free = set(range(len(theirs)))
    for i in range(len(ours)):
        distance = {
            j: float(np.abs(ours.boxes[i] - theirs.boxes[j]).max())
            for j in free
            if ours.classes[i] == theirs.classes[j]
        }
        assert distance, f"detection {i} of class {ours.classes[i]} has no counterpart"
        j = min(distance, key=distance.__getitem__)
        free.remove(j)
        boxes = max(boxes, distance[j])
        scores = max(scores, abs(float(ours.scores[i] - theirs.scores[j])))
        if ours.masks is not None:
            mask_pixels += int((ours.masks[i] != theirs.masks[j]).sum())
            mask_area += int(theirs.masks[j].sum())
    return Difference(len(ours), boxes, scores, mask_pixels, mask_area)
