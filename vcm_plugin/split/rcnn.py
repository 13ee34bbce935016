# SPDX-License-Identifier: BSD-3-Clause
"""How Detectron2's FPN R-CNN is put together from torchvision's modules, number for number.

torchvision's R-CNN and Detectron2's are siblings that differ in details: anchors (rounded there,
not here; strides guessed from sizes there, fixed here), RoI pooling (half-pixel aligned here), the
level a box is pooled from, the scores that order proposals, and what is filtered before the
non-maximum suppression. Each class below overrides exactly one such detail, so that training is
torchvision's own and inference is Detectron2's.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image, roi_align

from vcm_plugin.split.backbone import ResNetFpn
from vcm_plugin.split.config import DetectorConfig
from vcm_plugin.split.geometry import SIZE_DIVISIBILITY
from vcm_plugin.split_points import SPLIT_POINTS

LEVELS = ("p2", "p3", "p4", "p5")
STRIDES = (*SPLIT_POINTS["fpn"].values(), 64)  # p2..p6


def build_rcnn(config: DetectorConfig) -> GeneralizedRCNN:
    """The detector of `config` with fresh weights, in training mode.

    Input: a list of float32 pictures (3, h, w), 0..255, channels in config.input_format order,
    already at the network's size; the model normalises and pads them, and never resizes.
    In training mode it takes torchvision's targets (boxes, labels with 0 = background, masks) and
    returns torchvision's dict of losses. `dataclasses.replace(config, norm="BN")` trains the batch
    normalisation; "FrozenBN" applies it.
    """
    rpn = DetectronRpn(
        DetectronAnchors(config),
        RPNHead(config.fpn_channels, len(config.anchor_sizes[0]) * len(config.anchor_ratios[0])),
        fg_iou_thresh=config.rpn_iou_thresholds[1],
        bg_iou_thresh=config.rpn_iou_thresholds[0],
        batch_size_per_image=config.rpn_batch_size,
        positive_fraction=config.rpn_positive_fraction,
        pre_nms_top_n={
            "training": config.rpn_pre_nms_topk_train,
            "testing": config.rpn_pre_nms_topk_test,
        },
        post_nms_top_n={
            "training": config.rpn_post_nms_topk_train,
            "testing": config.rpn_post_nms_topk_test,
        },
        nms_thresh=config.rpn_nms_thresh,
    )
    rpn.min_size = config.rpn_min_size
    rpn.box_coder.weights = config.rpn_box_weights
    model = GeneralizedRCNN(ResNetFpn(config), rpn, _roi_heads(config), NormaliseAndPad(config))
    _initialise(model)
    return model


class NormaliseAndPad(GeneralizedRCNNTransform):
    """(picture - mean) / std, then zeros to the right and below; never a resize."""

    def __init__(self, config: DetectorConfig):
        super().__init__(
            config.min_size_test,
            config.max_size_test,
            list(config.pixel_mean),
            list(config.pixel_std),
            size_divisible=SIZE_DIVISIBILITY,
        )

    def resize(self, image, target=None):
        return image, target


class DetectronAnchors(AnchorGenerator):
    """Unrounded anchors on grids of fixed strides."""

    def __init__(self, config: DetectorConfig):
        super().__init__(config.anchor_sizes, config.anchor_ratios)
        self.offset = config.anchor_offset
        self.cell_anchors = [
            torch.tensor([_centred_box(s, r) for s in sizes for r in ratios])
            for sizes, ratios in zip(config.anchor_sizes, config.anchor_ratios, strict=True)
        ]

    def forward(self, image_list, feature_maps):
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        anchors = []
        for cell, stride, layer in zip(self.cell_anchors, STRIDES, feature_maps, strict=True):
            rows, columns = (
                (torch.arange(n, device=layer.device, dtype=torch.float32) + self.offset) * stride
                for n in layer.shape[-2:]
            )
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            shifts = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
            anchors.append((shifts + cell).reshape(-1, 4))
        return [torch.cat(anchors) for _ in image_list.image_sizes]


class DetectronRpn(RegionProposalNetwork):
    """Proposals are ordered by their logits, and only empty ones are dropped."""

    def filter_proposals(self, proposals, objectness, image_shapes, num_anchors_per_level):
        objectness = objectness.detach().reshape(proposals.shape[0], -1)
        top = self._get_top_n_idx(objectness, num_anchors_per_level)
        counts = torch.tensor(num_anchors_per_level, device=proposals.device)
        levels = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        results = []
        for i, shape in enumerate(image_shapes):
            boxes, logits, level = proposals[i][top[i]], objectness[i][top[i]], levels[top[i]]
            finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(logits)
            boxes = clip_boxes_to_image(boxes, shape)
            sides = boxes[:, 2:] - boxes[:, :2]
            keep = finite & (sides > self.min_size).all(dim=1)
            boxes, logits, level = boxes[keep], logits[keep], level[keep]
            keep = batched_nms(boxes, logits, level, self.nms_thresh)[: self.post_nms_top_n()]
            results.append((boxes[keep], logits[keep]))
        return [boxes for boxes, _ in results], [logits for _, logits in results]


class DetectronRoiAlign(MultiScaleRoIAlign):
    """Half-pixel aligned pooling; the level rule of Detectron2; fixed strides."""

    def __init__(self, resolution: int, sampling_ratio: int):
        super().__init__(list(LEVELS), resolution, sampling_ratio)

    def forward(self, x, boxes, image_shapes):
        batch = torch.cat([torch.full_like(b[:, :1], i) for i, b in enumerate(boxes)])
        rois = torch.cat((batch, torch.cat(boxes)), dim=1)  # (n, 5)
        sides = rois[:, 3:] - rois[:, 1:3]
        size = torch.sqrt(sides[:, 0] * sides[:, 1])
        level = torch.floor(self.canonical_level + torch.log2(size / self.canonical_scale + 1e-8))
        level = level.clamp(min=2, max=5)
        pooled = x["p2"].new_zeros((len(rois), x["p2"].shape[1], *self.output_size))
        for number, name in enumerate(LEVELS, start=2):
            here = torch.where(level == number)[0]
            part = roi_align(
                x[name], rois[here], self.output_size, 2.0**-number, self.sampling_ratio, True
            )
            pooled = pooled.index_put((here,), part.to(pooled.dtype))
        return pooled


class DetectronRoiHeads(RoIHeads):
    """Filter by score, then suppress per class; class 0 is background here, as in torchvision."""

    def postprocess_detections(self, class_logits, box_regression, proposals, image_shapes):
        counts = [len(p) for p in proposals]
        boxes = self.box_coder.decode(box_regression, proposals)
        boxes = boxes.reshape(*class_logits.shape, 4).split(counts)  # (n, classes, 4)
        scores = F.softmax(class_logits, dim=-1).split(counts)
        results = [
            self._one_picture(*each) for each in zip(boxes, scores, image_shapes, strict=True)
        ]
        return tuple(list(column) for column in zip(*results, strict=True))

    def _one_picture(self, boxes, scores, shape):
        finite = torch.isfinite(boxes).flatten(1).all(dim=1) & torch.isfinite(scores).all(dim=1)
        boxes, scores = clip_boxes_to_image(boxes[finite], shape)[:, 1:], scores[finite][:, 1:]
        candidate, label = torch.where(scores > self.score_thresh)
        boxes, scores = boxes[candidate, label], scores[candidate, label]
        keep = batched_nms(boxes, scores, label, self.nms_thresh)[: self.detections_per_img]
        return boxes[keep], scores[keep], label[keep] + 1


def _roi_heads(config: DetectorConfig) -> DetectronRoiHeads:
    pool = DetectronRoiAlign(config.box_pool_resolution, config.box_pool_sampling)
    heads = DetectronRoiHeads(
        pool,
        TwoMLPHead(config.fpn_channels * config.box_pool_resolution**2, config.box_fc_dim),
        FastRCNNPredictor(config.box_fc_dim, config.num_classes + 1),
        fg_iou_thresh=config.roi_iou_thresholds[0],
        bg_iou_thresh=config.roi_iou_thresholds[0],
        batch_size_per_image=config.roi_batch_size,
        positive_fraction=config.roi_positive_fraction,
        bbox_reg_weights=config.box_weights,
        score_thresh=config.score_thresh,
        nms_thresh=config.nms_thresh,
        detections_per_img=config.detections_per_image,
    )
    if config.mask_on:
        dim = config.mask_conv_dim
        heads.mask_roi_pool = DetectronRoiAlign(
            config.mask_pool_resolution, config.mask_pool_sampling
        )
        heads.mask_head = MaskRCNNHeads(config.fpn_channels, [dim] * config.mask_num_conv, 1)
        in_channels = dim if config.mask_num_conv else config.fpn_channels
        heads.mask_predictor = MaskRCNNPredictor(in_channels, dim, config.num_classes + 1)
    return heads


def _centred_box(size: float, ratio: float) -> list[float]:
    """An anchor of area size^2 and height/width = ratio around the origin."""
    width = math.sqrt(size**2 / ratio)
    height = ratio * width
    return [-width / 2, -height / 2, width / 2, height / 2]


def _initialise(model: GeneralizedRCNN) -> None:
    """Detectron2's initial weights; the feature pyramid and the RPN have theirs already."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and "backbone." in name and ".fpn." not in name:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    heads = model.roi_heads
    for layer in (heads.box_head.fc6, heads.box_head.fc7):
        nn.init.kaiming_uniform_(layer.weight, a=1)
        nn.init.zeros_(layer.bias)
    predictions = [(heads.box_predictor.cls_score, 0.01), (heads.box_predictor.bbox_pred, 0.001)]
    if heads.has_mask():
        predictions.append((heads.mask_predictor.mask_fcn_logits, 0.001))
    for layer, std in predictions:
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
