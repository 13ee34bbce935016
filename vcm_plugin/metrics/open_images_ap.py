# SPDX-License-Identifier: BSD-3-Clause
"""How accurate are predictions by the Open Images challenge's protocol? mAP at IoU 0.5, in percent.

In it, as in the challenge's description (storage.googleapis.com/openimages/web/evaluation.html):
- a class is judged in a picture only where it is annotated there or its absence was verified;
- a group-of box is one object, found by any detection of which half lies in it; further ones there
  count neither as hit nor as miss;
- an object that has a box but no mask makes the detections on it count neither way (masks only);
- the precision of a class is integrated over its recall (as PASCAL VOC), not sampled at 101 points.

The ground truth is what the annotation files of MPEG-OIV6 say under `oic_labelmap` (id and name of
each label) and `oic_annotations` (per picture: bbox as shares [y0, x0, y1, x1] of its size, cls,
group_of, img_cls, and mask with img_size). No library: the challenge's own evaluation is a part of
TensorFlow's object detection API.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from pycocotools import mask as rle

from vcm_plugin.errors import InputError
from vcm_plugin.testsets.open_images import Truth, read_truth

IOU = 0.5


def evaluate(coco: Mapping, predictions: Sequence[dict], task: str) -> dict[str, float]:
    """{"box_ap50": percent} or {"mask_ap50": percent} of COCO results.

    coco: ground truth as in the module's docstring. Categories and labels are matched by name; a
    prediction of a category that is no label counts nothing. Raises InputError.
    """
    aps = label_precisions(coco, predictions, task)
    return {f"{task}_ap50": float(np.mean(list(aps.values())))}


def label_precisions(coco: Mapping, predictions: Sequence[dict], task: str) -> dict[int, float]:
    """AP at IoU 0.5 in percent of each label of `oic_labelmap` that is annotated, by its id."""
    truths, labels = read_truth(coco, task)
    found = _by_picture(coco, predictions, labels)
    sizes = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
    scores: dict[int, list] = defaultdict(list)
    hits: dict[int, list] = defaultdict(list)
    wanted: dict[int, int] = defaultdict(int)
    for image_id, truth in truths.items():
        there = np.array([task == "box" or mask is not None for mask in truth.masks], dtype=bool)
        for label in truth.labels[there].tolist():
            wanted[label] += 1
        for label in truth.verified:
            chosen = [p for p in found.get(image_id, ()) if labels[p["category_id"]] == label]
            if chosen:
                judged = _judge(truth, label, chosen, sizes[image_id], task == "mask")
                scores[label].append(judged[0])
                hits[label].append(judged[1])
    if not wanted:
        raise InputError("the ground truth holds no object: accuracy needs at least one")
    return {
        k: 100 * average_precision(np.concatenate(scores[k]), np.concatenate(hits[k]), count)
        if scores[k] else 0.0
        for k, count in wanted.items()
    }  # fmt: skip


def average_precision(scores: np.ndarray, hits: np.ndarray, wanted: int) -> float:
    """Area under the precision over the recall, the precision made falling.

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([1, 0, 1]), 2)
    0.8333333333333333
    """
    hits = hits[np.argsort(-scores, kind="stable")]
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(best * hits) / wanted)


def _by_picture(coco: Mapping, predictions: Sequence[dict], labels: Mapping) -> dict[int, list]:
    known = {image["id"] for image in coco["images"]}
    found: dict[int, list] = defaultdict(list)
    for number, prediction in enumerate(predictions):
        if prediction["image_id"] not in known:
            raise InputError(
                f"prediction {number} names picture {prediction['image_id']}, which is not in the "
                "ground truth: evaluate against the data set the predictions were made on"
            )
        if prediction["category_id"] in labels:
            found[prediction["image_id"]].append(prediction)
    return found


def _judge(
    truth: Truth, label: int, found: list[dict], size: tuple[int, int], masks: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and hits (0 or 1) of what counts among the detections of a label in a picture."""
    found = sorted(filter(_has_area, found), key=lambda prediction: -prediction["score"])
    scores = np.array([prediction["score"] for prediction in found])
    hit, in_group = np.zeros((2, len(found)), dtype=bool)
    here = truth.labels == label
    if masks:
        shapes = [prediction["segmentation"] for prediction in found]
        has_mask = np.array([mask is not None for mask in truth.masks], dtype=bool)
        chosen, boxed = here & has_mask, here & ~has_mask
        targets = [truth.masks[i] for i in np.flatnonzero(chosen)]
        groups = _match(shapes, targets, truth.group_of[chosen], scores, hit, in_group)
        hits = hit.copy()  # those on objects that have only a box count neither way
        boxes = np.asarray(rle.toBbox(shapes)).reshape(-1, 4) / [*size[::-1], *size[::-1]]
        _match(boxes, truth.boxes[boxed], truth.group_of[boxed], scores, hit, in_group)
        counted = ~in_group & (hits | ~hit)
    else:
        boxes = np.array([p["bbox"] for p in found]).reshape(-1, 4) / [*size[::-1], *size[::-1]]
        groups = _match(boxes, truth.boxes[here], truth.group_of[here], scores, hit, in_group)
        hits, counted = hit, ~in_group
    return (
        np.concatenate([scores[counted], groups]),
        np.concatenate([hits[counted], np.ones(len(groups))]).astype(np.float64),
    )


def _has_area(prediction: dict) -> bool:
    if "segmentation" in prediction:
        return rle.area(prediction["segmentation"]) > 0
    return min(prediction["bbox"][2:]) > 0


def _match(
    shapes, targets, group_of: np.ndarray, scores: np.ndarray, hit: np.ndarray, in_group: np.ndarray
) -> list[float]:
    """Match detections, best first, with objects, and what is left over with groups.

    Marks in hit and in_group (D,) what became of each, among those that are not marked yet; returns
    the best score in each group that was found.
    """
    taken = set()
    for d, (overlap, best) in enumerate(_overlaps(shapes, targets, ~group_of, crowd=False)):
        if not (hit[d] or in_group[d] or best in taken) and overlap >= IOU:
            hit[d] = True
            taken.add(best)
    groups: dict[int, float] = {}
    for d, (share, best) in enumerate(_overlaps(shapes, targets, group_of, crowd=True)):
        if not (hit[d] or in_group[d]) and share >= IOU:
            in_group[d] = True
            groups.setdefault(best, float(scores[d]))
    return list(groups.values())


def _overlaps(shapes, targets, wanted: np.ndarray, crowd: bool) -> Iterator[tuple[float, int]]:
    """For each detection its largest overlap with the wanted targets, and with which of them.

    Shapes and targets are RLE masks or boxes. crowd: the share of the detection that lies in the
    target, in place of the IoU.
    """
    chosen = np.flatnonzero(wanted)
    if len(chosen) and len(shapes):
        targets = [targets[i] for i in chosen]
        if isinstance(shapes, np.ndarray):
            targets = np.array(targets)
        for row in np.asarray(rle.iou(shapes, targets, [int(crowd)] * len(chosen))):
            best = int(np.argmax(row))
            yield float(row[best]), best
