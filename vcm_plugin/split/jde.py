# SPDX-License-Identifier: BSD-3-Clause
"""How JDE runs, split into NN-Part1 and NN-Part2, with a tracker over the frames of a sequence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.ops import nms

from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split.detections import Detections
from vcm_plugin.split.geometry import check_picture
from vcm_plugin.split.jde_checkpoint import load_jde_weights, require_input_size
from vcm_plugin.split.jde_config import JdeConfig
from vcm_plugin.split.jde_network import STRIDES, JdeNetwork, by_anchor, decode_boxes
from vcm_plugin.split.letterbox import letterbox, to_source
from vcm_plugin.split.tracker import Tracker
from vcm_plugin.split_points import SPLIT_POINTS

SPLITS = ("jde_tvd", "jde_hieve")


class JdeDetector:
    """JDE cut at a split point. Raises InputError where the checkpoint does not fit the network."""

    num_classes = 1

    def __init__(
        self, config: JdeConfig, weights: str | Path, split_point: str, device: str = "cpu"
    ):
        if split_point not in SPLITS:
            raise InputError(
                f"split_point: expected {' or '.join(SPLITS)} for a JDE network, found "
                f"{split_point}"
            )
        require_input_size(weights, config.input_size)
        self.config, self.split_point = config, split_point
        self.runtime = f"torch {torch.__version__.split('+')[0]}"
        self.model = JdeNetwork(config.sizes())
        self.weights_sha256 = load_jde_weights(self.model, weights)
        self.model.requires_grad_(False).eval().to(device)

    @property
    def device(self) -> torch.device:
        """Where the network is; a training may move it."""
        return next(self.model.parameters()).device

    def identity(self) -> dict[str, str]:
        """What decides about features, detections and tracks."""
        return {
            "config_sha256": self.config.sha256(),
            "weights_sha256": self.weights_sha256,
            "split_point": self.split_point,
            "runtime": self.runtime,
        }

    def tracker(self) -> Tracker:
        """The tracker of one sequence: it takes the detections of its frames in order."""
        return Tracker(self.config)

    @torch.inference_mode()
    def nn_part1(self, picture: np.ndarray) -> FeaturePyramid:
        """An RGB picture, uint8 (H, W, 3) -> the features of the split point, on the CPU."""
        check_picture(picture)
        size = tuple(self.config.input_size)
        canvas = letterbox(picture, size, self.config.pixel_fill)
        x = torch.from_numpy(canvas).permute(2, 0, 1)[None].to(self.device) / 255.0
        found = self.model.backbone(x)
        if self.split_point == "jde_hieve":
            found, _ = self.model.branches(found)
        names = SPLIT_POINTS[self.split_point]
        layers = {name: x[0].cpu().contiguous() for name, x in zip(names, found, strict=True)}
        return FeaturePyramid(layers, picture.shape[:2], size)

    @torch.inference_mode()
    def nn_part2(self, features: FeaturePyramid) -> Detections:
        """The features of the split point, decoded or not -> detections in the source picture."""
        self._check(features)
        layers = [x[None].to(self.device) for x in features.layers.values()]
        if self.split_point == "jde_tvd":
            trunks = self.model.branches(layers)[1]
        else:
            trunks = self.model.trunks(layers)
        boxes, scores, embeddings = self._confident(self.model.heads(trunks))
        kept = nms(boxes, scores, self.config.nms_iou)
        size = tuple(self.config.input_size)
        return Detections(
            to_source(boxes[kept].cpu().numpy(), features.source_size, size),
            scores[kept].cpu().numpy(),
            np.zeros(len(kept), np.int64),
            embeddings=embeddings[kept].cpu().numpy(),
        )

    def _confident(self, heads: list[tuple[torch.Tensor, torch.Tensor]]):
        """Boxes (n, 4) in the network input, scores (n,) and embeddings (n, E) of all anchors whose
        score is above the threshold; of the coarsest head first."""
        boxes, scores, embeddings = [], [], []
        for level in (2, 1, 0):
            out, described = heads[level]
            out = by_anchor(out)  # (1, A, h, w, 6)
            score = out[..., 4:].softmax(dim=-1)[0, ..., 1]
            which, rows, columns = (score > self.config.confidence_threshold).nonzero(as_tuple=True)
            anchors = torch.tensor(self.config.anchors_of(level), dtype=torch.float32)
            centred = decode_boxes(out[..., :4], anchors, STRIDES[level])[0, which, rows, columns]
            half = centred[:, 2:] / 2
            boxes.append(torch.cat((centred[:, :2] - half, centred[:, :2] + half), dim=1))
            scores.append(score[which, rows, columns])
            embeddings.append(F.normalize(described[0, :, rows, columns].T))
        return torch.cat(boxes), torch.cat(scores), torch.cat(embeddings)

    def _check(self, features: FeaturePyramid) -> None:
        """Raise InputError where features are not what NN-Part1 of this network makes."""
        channels = self.config.sizes().channels(self.split_point)
        height, width = self.config.input_size
        wanted = {
            name: (count, height // stride, width // stride)
            for (name, stride), count in zip(SPLIT_POINTS[self.split_point].items(), channels)
        }
        found = {name: tuple(x.shape) for name, x in features.layers.items()}
        if list(found.items()) != list(wanted.items()):
            raise InputError(
                f"features: expected the layers {wanted} of this JDE network at the split point "
                f"{self.split_point}, found {found}; were they made by another network or split?"
            )
