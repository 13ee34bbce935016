# SPDX-License-Identifier: BSD-3-Clause
"""How accurate, by which protocol: the accuracy that a test condition asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vcm_plugin.conditions import TestCondition
from vcm_plugin.errors import InputError
from vcm_plugin.metrics import coco_ap, point_miou
from vcm_plugin.metrics.class_maps import pixel_measures
from vcm_plugin.metrics.coco_ap import Matches
from vcm_plugin.metrics.open_images_ap import evaluate, label_precisions
from vcm_plugin.metrics.tracking import tracking_accuracy
from vcm_plugin.testsets.coco import CocoDataset, SequenceEntry

# Measures that results of earlier versions do not state; a report of both kinds leaves them out.
LATER = (
    "box_classification", "mask_union_iou", "mask_union_dice", "mask_pixel_accuracy",
    "mask_object_pixel_accuracy",
    *(f"{task}_{name}" for task in coco_ap.TASKS
      for name in ("ar", *(f"ap_{size}" for size in coco_ap.SIZES))),
)  # fmt: skip
Judgement = tuple[dict[str, float], dict[str, Matches]]


def judge(condition: TestCondition, dataset: CocoDataset, predictions: Sequence[dict]) -> Judgement:
    """Accuracy in percent, and the matches that it was computed from where COCO's protocol is used.

    Raises InputError for an unknown protocol.
    """
    if condition.protocol not in PROTOCOLS:
        raise InputError(
            f"test condition {condition.name}: protocol: expected one of {', '.join(PROTOCOLS)}, "
            f"found {condition.protocol}"
        )
    return PROTOCOLS[condition.protocol](condition, dataset, predictions)


def judge_parts(
    condition: TestCondition, dataset: CocoDataset, predictions: Sequence[dict]
) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracy of the frames of each of the "sequences" and of the "classes" alone, by its name.

    It is empty where they hold no object at all. Pictures that are no frames have no parts.
    """

    def accuracy(entries: list[SequenceEntry]) -> dict[str, float]:
        part = dataset.of(entries)
        if condition.protocol in ("coco", "tracking") and not part.coco["annotations"]:
            return {}
        kept = {image_id for entry in entries for image_id in entry.image_ids}
        return judge(condition, part, [p for p in predictions if p["image_id"] in kept])[0]

    sequences = dataset.sequences
    if not sequences:
        return {}
    groups = dict.fromkeys(entry.group for entry in sequences)
    return {
        "sequences": {entry.name: accuracy([entry]) for entry in sequences},
        "classes": {
            group: accuracy([e for e in sequences if e.group == group]) for group in groups
        },
    }


def judge_categories(
    condition: TestCondition,
    dataset: CocoDataset,
    predictions: Sequence[dict],
    matches: Mapping[str, Matches],
) -> dict[str, dict[str, float]]:
    """Accuracy in percent of each category of objects alone, by its name; of those that occur.

    matches: what `judge` returned beside the accuracy. Of labelled points, whose classes have no
    names in a test condition: "class 3" and so on, over the points of all sequences together.
    """
    found: dict[str, dict[str, float]] = {}
    if condition.protocol == "semantic":
        total = sum(np.array(p["confusion"]) for p in predictions)
        ious = point_miou.class_ious(total, condition.require("semantic_judged"))
        return {f"class {k}": {"miou": value} for k, value in ious.items()}
    if condition.protocol == "open_images":
        names = {int(item["id"]): item["name"] for item in dataset.coco["oic_labelmap"]}
        for task in condition.tasks:
            for label, value in label_precisions(dataset.coco, predictions, task).items():
                found.setdefault(names[label], {})[f"{task}_ap50"] = value
        return found
    categories = sorted(dataset.categories, key=lambda category: category["id"])
    for of_task in matches.values():
        for category, values in zip(categories, coco_ap.category_accuracy(of_task), strict=True):
            if values:
                found.setdefault(category["name"], {}).update(values)
    return found


def _coco(condition: TestCondition, dataset: CocoDataset, predictions: Sequence[dict]) -> Judgement:
    matches = {
        task: coco_ap.match_pictures(dataset.coco, predictions, task, condition.iou_threshold)
        for task in condition.tasks
    }
    accuracy: dict[str, float] = {}
    for task, found in matches.items():
        accuracy |= coco_ap.accuracy(found, condition.score_threshold)
        accuracy |= coco_ap.size_precisions(dataset.coco, predictions, task)
    if "mask" in condition.tasks:
        measured = pixel_measures(dataset.coco, predictions, condition.score_threshold)
        accuracy |= {f"mask_{name}": value for name, value in measured.items()}
    return accuracy, matches


def _open_images(
    condition: TestCondition, dataset: CocoDataset, predictions: Sequence[dict]
) -> Judgement:
    accuracy: dict[str, float] = {}
    for task in condition.tasks:
        accuracy |= evaluate(dataset.coco, predictions, task)
    return accuracy, {}


def _semantic(
    condition: TestCondition, dataset: CocoDataset, predictions: Sequence[dict]
) -> Judgement:
    """The mean over the sequences of what each of them has over all of its frames."""
    of_picture = {p["image_id"]: np.array(p["confusion"]) for p in predictions}
    judged = condition.require("semantic_judged")
    ious = [
        point_miou.mean_iou(sum(of_picture[i] for i in sequence.image_ids), judged)
        for sequence in dataset.sequences
    ]
    return {"miou": float(np.mean(ious))}, {}


def _tracking(
    condition: TestCondition, dataset: CocoDataset, predictions: Sequence[dict]
) -> Judgement:
    rules = condition.require("tracking_rules")
    return tracking_accuracy(dataset.coco, predictions, rules), {}


PROTOCOLS = {
    "coco": _coco, "open_images": _open_images, "semantic": _semantic, "tracking": _tracking
}  # fmt: skip
