# SPDX-License-Identifier: BSD-3-Clause
"""How well do instance masks, taken together, show which class every pixel has? In percent.

Predictions of at least `score`, against the ground truth of the same pictures:

    union IoU, Dice     of a class: the union of all its masks in a picture against that of the
                        ground truth, pixels counted over all pictures; the mean over the classes
                        that the ground truth holds
    pixel accuracy      class maps, painted by falling score, so that where masks overlap the
                        highest score shows; the ground truth is painted in the order of its
                        annotations, the first shows. Pixels without a mask are background.
                        Of all pixels, or of those whose true class is an object's

Pixels of crowds count nowhere, unless an object of the ground truth lies over them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as rle


def pixel_measures(
    coco: Mapping, predictions: Sequence[dict], score: float = 0.5
) -> dict[str, float]:
    """union_iou, union_dice, pixel_accuracy, object_pixel_accuracy of COCO results with masks.

    0 where the ground truth holds no pixel of an object.
    """
    number = {c["id"]: k for k, c in enumerate(coco["categories"], start=1)}
    truth, found = _by_picture(coco["annotations"]), _by_picture(predictions)
    unions = np.zeros((3, len(number) + 1), np.int64)  # true, found, both
    counts = np.zeros((len(number) + 1,) * 2, np.int64)  # [true class, found class]
    for image in coco["images"]:
        size = (image["height"], image["width"])
        objects, crowds = [], np.zeros(size, bool)
        for item in truth[image["id"]]:
            mask = decoded(item["segmentation"], *size)
            if item.get("iscrowd"):
                crowds |= mask
            else:
                objects.append((number[item["category_id"]], mask))
        kept = [p for p in found[image["id"]] if p["score"] >= score]
        kept.sort(key=lambda p: -p["score"])
        shown = [(number[p["category_id"]], decoded(p["segmentation"], *size)) for p in kept]
        true_map, found_map = (_painted(masks, size) for masks in (objects, shown))
        judged = ~crowds | (true_map > 0)
        counts += _pairs(true_map[judged], found_map[judged], len(counts))
        unions += _unions(objects, shown, judged, len(counts))
    return _measures(counts, unions)


def decoded(segmentation: Any, height: int, width: int) -> np.ndarray:
    """bool (H, W) of a mask as COCO writes it: polygons, RLE, compressed or not. One that was made
    for another size, as where two bitstreams are swapped, counts where it lies on the picture."""
    if isinstance(segmentation, list):
        code = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        code = rle.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    mask, canvas = rle.decode(code).astype(bool), np.zeros((height, width), bool)
    canvas[: len(mask), : mask.shape[1]] = mask[:height, :width]
    return canvas


def _measures(counts: np.ndarray, unions: np.ndarray) -> dict[str, float]:
    true, found, both = unions[:, 1:]
    held = true > 0
    right, objects = int(np.trace(counts)), int(counts[1:].sum())
    iou = both[held] / (true + found - both)[held]
    dice = 2 * both[held] / (true + found)[held]
    of_objects = int(np.trace(counts[1:, 1:]))
    return {
        "union_iou": 100 * float(iou.mean()) if held.any() else 0.0,
        "union_dice": 100 * float(dice.mean()) if held.any() else 0.0,
        "pixel_accuracy": 100 * right / max(int(counts.sum()), 1),
        "object_pixel_accuracy": 100 * of_objects / max(objects, 1),
    }


def _painted(masks: Sequence[tuple[int, np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """Class map (H, W), 0 where no mask is; the first mask shows."""
    canvas = np.zeros(size, np.int64)
    for category, mask in reversed(masks):
        canvas[mask] = category
    return canvas


def _pairs(true: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Pixels by true and found class, (classes, classes)."""
    return np.bincount(true * classes + found, minlength=classes**2).reshape(classes, classes)


def _unions(objects, shown, judged: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of each class in the true union, in the found one and in both, (3, classes)."""
    counts = np.zeros((3, classes), np.int64)
    for category in {category for category, _ in (*objects, *shown)}:
        true, found = (
            np.logical_or.reduce([m for c, m in masks if c == category] or [False & judged])
            & judged
            for masks in (objects, shown)
        )
        counts[:, category] = true.sum(), found.sum(), (true & found).sum()
    return counts


def _by_picture(items: Iterable[Mapping]) -> Mapping[int, list]:
    by_picture = defaultdict(list)
    for item in items:
        by_picture[item["image_id"]].append(item)
    return by_picture
