# SPDX-License-Identifier: BSD-3-Clause
"""Which features and which boxes does a batch have for a codec of the layers of JDE?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vcm_plugin.split.jde import JdeDetector
from vcm_plugin.split.letterbox import placed
from vcm_plugin.split_points import SPLIT_POINTS
from vcm_plugin.testsets.coco import CocoDataset
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.training.feature_store import KeptLayers, Size, claim_features, digest_of_pictures
from vcm_plugin.training.tracker import TrackingStore


@dataclass(frozen=True)
class Frame:
    """One frame of a training set; boxes (n, 4), x0 y0 x1 y1 in its pixels."""

    read: Callable[[], np.ndarray]
    boxes: np.ndarray
    size: Size


class FrameFeatures:
    """Features of frames by NN-Part1 of JDE, made when they are first asked for.

    With a folder they are kept there as 16-bit floats; it belongs to one detector and one set of
    frames. digest: of the frames.
    """

    def __init__(
        self, detector: JdeDetector, frames: Sequence[Frame], digest: str, folder: Path | None
    ):
        self.detector, self.frames, self.digest = detector, frames, digest
        self.split_point = detector.split_point
        self.layer_channels = detector.config.sizes().channels(self.split_point)
        self.size: Size = tuple(detector.config.input_size)
        if folder is not None:
            claim_features(folder, detector.weights_sha256, digest, self.split_point)
        strides = SPLIT_POINTS[self.split_point]
        shapes = {
            name: (count, self.size[0] // stride, self.size[1] // stride)
            for (name, stride), count in zip(strides.items(), self.layer_channels, strict=True)
        }
        self.kept = KeptLayers(folder, "frames", len(frames), shapes)

    def draw(self, count: int, rng: np.random.Generator) -> tuple[Size, list[int]]:
        """The network input size, and `count` frames."""
        return self.size, rng.choice(len(self.frames), count, replace=True).tolist()

    def features(self, size: Size, pictures: list[int]) -> dict[str, torch.Tensor]:
        """The layers of frames, (N, C, h, w)."""
        return self.kept.batch(
            pictures, lambda number: self.detector.nn_part1(self.frames[number].read()).layers
        )

    def boxes(self, size: Size, pictures: list[int]) -> list[np.ndarray]:
        """Boxes (n, 4), x0 y0 x1 y1, of each frame in the network input."""
        return [_in_input(self.frames[number], size) for number in pictures]


def drawn_frames(store: TrackingStore) -> list[Frame]:
    """The frames of drawn sequences."""
    return [
        Frame(lambda picture=picture: picture, boxes.numpy(), picture.shape[:2])
        for picture, boxes in zip(store.pictures, store.boxes, strict=True)
    ]


def pictures_of(dataset: CocoDataset) -> tuple[list[Frame], str]:
    """The pictures of a COCO data set as frames, and their digest."""
    boxes: dict[int, list] = {entry.image_id: [] for entry in dataset.pictures}
    for item in dataset.coco["annotations"]:
        left, top, width, height = item["bbox"]
        boxes[item["image_id"]].append((left, top, left + width, top + height))
    frames = [
        Frame(
            lambda path=entry.path: read_picture(path),
            np.array(boxes[entry.image_id], dtype=np.float64).reshape(-1, 4),
            (entry.height, entry.width),
        )
        for entry in dataset.pictures
    ]
    return frames, digest_of_pictures(dataset.pictures)


def _in_input(frame: Frame, size: Size) -> np.ndarray:
    """Boxes of a frame where letterbox puts them."""
    height, width, top, left = placed(frame.size, size)
    scale = np.array([width / frame.size[1], height / frame.size[0]] * 2)
    return frame.boxes * scale + np.array([left, top] * 2)
