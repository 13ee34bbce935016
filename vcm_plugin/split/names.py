# SPDX-License-Identifier: BSD-3-Clause
"""What Detectron2 calls each weight of torchvision's R-CNN.

Beside the names, one layout differs: Detectron2 puts the background class last in the class
scores and gives it no boxes and no masks; torchvision puts it first everywhere.
"""

from __future__ import annotations

import re

import torch
from torch import nn

# Patterns of torchvision names -> Detectron2 names.
_NORM = "weight|bias|running_mean|running_var"
_RENAME = [
    (r"backbone\.stem\.0\.weight", r"backbone.bottom_up.stem.conv1.weight"),
    (rf"backbone\.stem\.1\.({_NORM})", r"backbone.bottom_up.stem.conv1.norm.\1"),
    (r"backbone\.(res\d\.\d+\.conv\d)\.weight", r"backbone.bottom_up.\1.weight"),
    (rf"backbone\.(res\d\.\d+)\.bn(\d)\.({_NORM})", r"backbone.bottom_up.\1.conv\2.norm.\3"),
    (r"backbone\.(res\d\.\d+)\.downsample\.0\.weight", r"backbone.bottom_up.\1.shortcut.weight"),
    (
        rf"backbone\.(res\d\.\d+)\.downsample\.1\.({_NORM})",
        r"backbone.bottom_up.\1.shortcut.norm.\2",
    ),
    (r"rpn\.head\.conv\.0\.0\.(\w+)", r"proposal_generator.rpn_head.conv.\1"),
    (r"rpn\.head\.cls_logits\.(\w+)", r"proposal_generator.rpn_head.objectness_logits.\1"),
    (r"rpn\.head\.bbox_pred\.(\w+)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
    (r"roi_heads\.box_head\.fc6\.(\w+)", r"roi_heads.box_head.fc1.\1"),
    (r"roi_heads\.box_head\.fc7\.(\w+)", r"roi_heads.box_head.fc2.\1"),
    (r"roi_heads\.box_predictor\.(\w+)\.(\w+)", r"roi_heads.box_predictor.\1.\2"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(\w+)", r"roi_heads.mask_head.deconv.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(\w+)", r"roi_heads.mask_head.predictor.\1"),
]


def to_detectron2_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model of build_rcnn under Detectron2's names, on the CPU."""
    weights = {}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        value = value.detach().cpu()
        if ".box_predictor.cls_score." in name:
            value = value.roll(-1, dims=0)
        elif ".box_predictor.bbox_pred." in name:
            value = value[4:]
        elif ".mask_fcn_logits." in name:
            value = value[1:]
        weights[detectron2_name(name)] = value.clone()
    return weights


def from_detectron2_weight(name: str, value: torch.Tensor) -> torch.Tensor:
    """One weight, by its torchvision name, from Detectron2's class order to torchvision's."""
    if ".box_predictor.cls_score." in name:
        return value.roll(1, dims=0)
    if ".box_predictor.bbox_pred." in name:
        return torch.cat((value.new_zeros((4, *value.shape[1:])), value))
    if ".mask_fcn_logits." in name:
        return torch.cat((value.new_zeros((1, *value.shape[1:])), value))
    return value


def detectron2_name(name: str) -> str:
    """Detectron2's name of a weight of build_rcnn's model."""
    fpn = re.fullmatch(r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.0\.(\w+)", name)
    if fpn:
        kind = "lateral" if fpn[1] == "inner" else "output"
        return f"backbone.fpn_{kind}{int(fpn[2]) + 2}.{fpn[3]}"
    mask = re.fullmatch(r"roi_heads\.mask_head\.(\d+)\.0\.(\w+)", name)
    if mask:
        return f"roi_heads.mask_head.mask_fcn{int(mask[1]) + 1}.{mask[2]}"
    for pattern, replacement in _RENAME:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise AssertionError(f"{name} is no weight of build_rcnn")
