# SPDX-License-Identifier: BSD-3-Clause
"""What NN-Part2 hands to the tasks: boxes, scores, classes and masks of one picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detections:
    """The detections of one picture, best score first, in pixels of the source picture.

    boxes: float32 (n, 4), x0 y0 x1 y1. scores: float32 (n,), 0..1. classes: int64 (n,), from 0.
    masks: bool (n, H, W), or None where the detector has no masks.
    segments: int64 (H, W), the class of the panoptic segment at each pixel, things before stuff and
    -1 where there is none; None where the detector is no panoptic one.
    embeddings: float32 (n, E), of length one, what an object looks like to a tracker; else None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None = None
    segments: np.ndarray | None = None
    embeddings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)
