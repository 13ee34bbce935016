# SPDX-License-Identifier: BSD-3-Clause
"""How a Detectron2 detector runs on torchvision, split into NN-Part1 and NN-Part2."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torchvision
from PIL import Image
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split.backbone import with_p6
from vcm_plugin.split.checkpoint import Checkpoint, fit_weights
from vcm_plugin.split.config import DetectorConfig
from vcm_plugin.split.detections import Detections
from vcm_plugin.split.geometry import (
    check_features,
    check_picture,
    check_split_point,
    network_input_size,
    to_input,
)
from vcm_plugin.split.names import (
    detectron2_name,
    from_detectron2_weight,
    to_detectron2_state_dict,
)
from vcm_plugin.split.rcnn import build_rcnn

__all__ = ["TorchvisionDetector", "build_rcnn", "network_input", "to_detectron2_state_dict"]


class TorchvisionDetector:
    """A detector cut at a split point, on torchvision's modules.

    Raises InputError where the checkpoint does not fit the configuration.
    """

    def __init__(
        self,
        config: DetectorConfig,
        checkpoint: Checkpoint,
        split_point: str = "fpn",
        device: str = "cpu",
    ):
        self.config = config
        self.split_point = check_split_point(split_point)
        self.runtime = f"torchvision {torchvision.__version__.split('+')[0]}"
        self.num_classes = config.num_classes
        self.weights_sha256 = checkpoint.sha256
        self.model = build_rcnn(replace(config, norm="FrozenBN"))
        load_weights(self.model, checkpoint)
        self.model.requires_grad_(False).eval().to(device)

    @property
    def device(self) -> torch.device:
        """Where the networks are; a training may move them."""
        return next(self.model.parameters()).device

    def identity(self) -> dict[str, str]:
        """What decides about features and detections."""
        return {
            "config_sha256": self.config.sha256(),
            "weights_sha256": self.weights_sha256,
            "split_point": self.split_point,
            "runtime": self.runtime,
        }

    @torch.no_grad()
    def nn_part1(self, picture: np.ndarray) -> FeaturePyramid:
        """An RGB picture, uint8 (H, W, 3) -> the features of the split point, on the CPU."""
        x = network_input(picture, self.config).to(self.device)
        images, _ = self.model.transform([x])
        backbone = self.model.backbone
        layers = {"r2": backbone.res2(backbone.stem(images.tensors))}
        if self.split_point != "r2":
            layers = backbone.laterals(backbone.stages_above_r2(layers["r2"]))
        if self.split_point == "fpn":
            layers = backbone.top_down(layers)
        layers = {name: layer[0].cpu() for name, layer in layers.items()}
        return FeaturePyramid(layers, picture.shape[:2], images.image_sizes[0])

    @torch.no_grad()
    def nn_part2(self, features: FeaturePyramid) -> Detections:
        """The features of the split point, decoded or not -> detections in the source picture."""
        layers, sizes = self._pyramid(features), [features.input_size]
        proposals, _ = self.model.rpn(ImageList(layers["p2"], sizes), with_p6(layers))
        (found,), _ = self.model.roi_heads(layers, proposals, sizes)
        return _to_source(found, features)

    @torch.no_grad()
    def classify(self, features: FeaturePyramid, boxes: np.ndarray) -> list[int]:
        """Boxes (n, 4), x0 y0 x1 y1 in the source, as proposals -> the class of each, which the box
        head finds the most likely; background is none."""
        if not len(boxes):
            return []
        layers, heads = self._pyramid(features), self.model.roi_heads
        given = torch.from_numpy(to_input(boxes, features)).to(self.device)
        pooled = heads.box_roi_pool(layers, [given], [features.input_size])
        logits, _ = heads.box_predictor(heads.box_head(pooled))
        return logits[:, 1:].argmax(dim=1).tolist()

    def _pyramid(self, features: FeaturePyramid) -> dict[str, torch.Tensor]:
        """The features of the split point -> p2..p5 as a batch of one, on the device."""
        channels = self.config.fpn_channels
        if self.split_point == "r2":
            channels = self.config.res2_out_channels
        check_features(features, self.split_point, channels)
        backbone = self.model.backbone
        layers = {name: layer[None].to(self.device) for name, layer in features.layers.items()}
        if self.split_point == "r2":
            layers = backbone.laterals(backbone.stages_above_r2(layers["r2"]))
        return layers if self.split_point == "fpn" else backbone.top_down(layers)


def network_input(picture: np.ndarray, config: DetectorConfig) -> torch.Tensor:
    """An RGB picture, uint8 (H, W, 3) -> float32 (3, h, w), 0..255, as Detectron2 resizes it."""
    check_picture(picture)
    height, width = network_input_size(
        picture.shape[:2], config.min_size_test, config.max_size_test
    )
    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    samples = torch.from_numpy(np.array(resized)).permute(2, 0, 1).to(torch.float32)
    return samples.flip(0) if config.input_format == "BGR" else samples


def load_weights(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Load a Detectron2 checkpoint into a model of build_rcnn with frozen normalisation."""
    weights = fit_weights(to_detectron2_state_dict(model), checkpoint)
    model.load_state_dict(
        {
            name: from_detectron2_weight(name, weights[detectron2_name(name)])
            for name in model.state_dict()
        }
    )


def _to_source(found: dict[str, torch.Tensor], features: FeaturePyramid) -> Detections:
    """Detections in the network input -> in the source picture, empty boxes dropped."""
    (height, width), (in_height, in_width) = features.source_size, features.input_size
    scale = torch.tensor([width / in_width, height / in_height] * 2, device=found["boxes"].device)
    limit = torch.tensor([width, height] * 2, device=scale.device)
    boxes = (found["boxes"] * scale).clamp(min=0).minimum(limit)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    boxes, masks = boxes[keep], None
    if "masks" in found:
        masks = paste_masks(found["masks"][keep], boxes, features.source_size).cpu().numpy()
    return Detections(
        boxes.cpu().numpy(),
        found["scores"][keep].cpu().numpy(),
        (found["labels"][keep] - 1).cpu().numpy(),
        masks,
    )


def paste_masks(
    masks: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], threshold: float = 0.5
) -> torch.Tensor:
    """Mask probabilities (n, 1, m, m) in boxes (n, 4) -> bool (n, H, W) in a picture of `size`.

    Sampled bilinearly at pixel centres, one box at a time and no farther than one pixel around it.
    """
    height, width = size
    pasted = torch.zeros((len(masks), height, width), dtype=torch.bool, device=masks.device)
    for mask, box, canvas in zip(masks, boxes, pasted, strict=True):
        x0, y0 = (max(0, int(v) - 1) for v in box[:2].floor())
        x1, y1 = (min(s, int(v) + 1) for s, v in zip((width, height), box[2:].ceil(), strict=True))
        xs = torch.arange(x0, x1, device=box.device, dtype=torch.float32) + 0.5
        ys = torch.arange(y0, y1, device=box.device, dtype=torch.float32) + 0.5
        xs = (xs - box[0]) / (box[2] - box[0]) * 2 - 1
        ys = (ys - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)[None]  # (1, h, w, 2)
        samples = F.grid_sample(mask[None], grid, align_corners=False)[0, 0]
        canvas[y0:y1, x0:x1] = samples >= threshold
    return pasted
