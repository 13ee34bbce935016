# SPDX-License-Identifier: BSD-3-Clause
"""Is the class of every object told right, where its box is given? Top-1 accuracy, in percent.

The survey's classification accuracy, with a detector: every box of the ground truth (crowds left
out) is handed to the box head of NN-Part2 as its one proposal, and the class with the highest
score, background left out, is compared with the object's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from vcm_plugin.testsets.coco import CocoDataset


class Objects:
    """Boxes and classes of the ground truth by picture."""

    def __init__(self, dataset: CocoDataset):
        self._of: dict[int, list[dict]] = {}
        for annotation in dataset.coco["annotations"]:
            if not annotation.get("iscrowd"):
                self._of.setdefault(annotation["image_id"], []).append(annotation)

    def boxes(self, image_id: int) -> np.ndarray:
        """x0, y0, x1, y1 of the objects of a picture, float32 (n, 4), in pixels of the source."""
        boxes = np.array([a["bbox"] for a in self._of.get(image_id, ())], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return boxes

    def classes(self, image_id: int) -> list[int]:
        """Category ids of the objects of a picture, in the order of `boxes`."""
        return [a["category_id"] for a in self._of.get(image_id, ())]


def top1(dataset: CocoDataset, told: Mapping[int, Sequence[int | None]]) -> float | None:
    """Share of the objects whose class was told, in percent; None where some were not asked for.

    told: picture -> category id of each of its objects, in the order of Objects.classes.
    """
    objects = Objects(dataset)
    right = total = 0
    for entry in dataset.pictures:
        wanted = objects.classes(entry.image_id)
        found = told.get(entry.image_id)
        if found is None or len(found) != len(wanted):
            return None
        right += sum(a == b for a, b in zip(found, wanted, strict=True))
        total += len(wanted)
    return 100 * right / total if total else None


def of_records(dataset: CocoDataset, records: Iterable) -> dict[str, float]:
    """{"box_classification": percent} of records of pictures; empty where they do not say it."""
    told = {r.image_id: r.classes for r in records if r.classes is not None}
    value = top1(dataset, told) if told else None
    return {} if value is None else {"box_classification": value}
