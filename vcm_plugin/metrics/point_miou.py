# SPDX-License-Identifier: BSD-3-Clause
"""How accurate is a panoptic segmentation against labelled points? mIoU of PandaSet, in percent.

The ground truth of a frame is a list of points (x, y, label): LiDAR points, projected into the
picture. The class of the segment at each point is compared with the label, both mapped to the
classes of the test conditions. The IoU of a class is over all points of a sequence; the mean is
over the classes that are judged and occur in it. Only counts are kept: a matrix per frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vcm_plugin.errors import InputError


def confusion(
    segments: np.ndarray,
    points: np.ndarray,
    class_of_segment: Sequence[int],
    class_of_label: Sequence[int],
) -> list[list[int]]:
    """Counts of points: one row per true class, one column per class that was found.

    segments: int (H, W), index into class_of_segment, -1 where there is no segment (class 0).
    points: int (P, 3), columns x, y, label. Raises InputError for points that cannot be.
    """
    height, width = segments.shape
    x, y, labels = np.asarray(points).reshape(-1, 3).T
    limits = ((x, width, "x"), (y, height, "y"), (labels, len(class_of_label), "a label"))
    for values, limit, name in limits:
        if len(values) and not 0 <= values.min() <= values.max() < limit:
            raise InputError(
                f"ground truth: expected {name} from 0 to {limit - 1}, found {values.min()} to "
                f"{values.max()}; are these the annotations of another data set?"
            )
    count = max(*class_of_segment, *class_of_label) + 1
    found = np.array([*class_of_segment, 0])[segments[y, x]]  # -1 is the last entry
    pairs = np.array(class_of_label)[labels] * count + found
    return np.bincount(pairs, minlength=count * count).reshape(count, count).tolist()


def mean_iou(matrix: np.ndarray, judged: Sequence[int]) -> float:
    """Mean IoU in percent over the judged classes that occur in the ground truth.

    >>> mean_iou(np.array([[5, 0], [1, 4]]), [1])
    80.0
    """
    ious = class_ious(matrix, judged)
    if not ious:
        raise InputError("the ground truth holds no point of a judged class")
    return float(np.mean(list(ious.values())))


def class_ious(matrix: np.ndarray, judged: Sequence[int]) -> dict[int, float]:
    """IoU in percent of each judged class that occurs in the ground truth."""
    matrix = np.asarray(matrix, dtype=np.int64)
    true, found, both = matrix.sum(axis=1), matrix.sum(axis=0), np.diag(matrix)
    return {k: float(100 * both[k] / (true[k] + found[k] - both[k])) for k in judged if true[k]}
