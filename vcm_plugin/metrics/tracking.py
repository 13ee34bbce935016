# SPDX-License-Identifier: BSD-3-Clause
"""How accurate are tracks? MOTA and IDF1 by motmetrics, and HOTA, in percent.

    MOTA  1 - (misses + false positives + switches of identity) / objects
    IDF1  the F1 measure of the one-to-one assignment of tracks to objects that is best over all

An object and a track match from IoU 0.5 on. Sequences are pooled by adding up what was counted.
Which lines of the ground truth are judged depends on the test set:

    mot16      objects of class 1 with confidence 1; a track on a distractor (classes 2, 7, 8, 12 of
               MOT16) counts neither way: CLEAR_MOT_M of motmetrics, as TVD's test conditions say
    confident  objects with confidence 1, of any class: as HiEve's test conditions say
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vcm_plugin.errors import InputError
from vcm_plugin.metrics.hota import Frame, count, hota
from vcm_plugin.testsets.coco import FRAMES

RULES = ("mot16", "confident")
DISTRACTORS = (2, 7, 8, 12)  # classes of MOT16: on a vehicle, static, distractor, reflection
MOST_DISTANCE = 0.5  # 1 - IoU of what can match
CONFIDENT = {"mot16": 0.99, "confident": 1.0}  # as motmetrics and the test conditions have it

Objects = list[Mapping[str, Any]]  # annotations or predictions of one frame


def tracking_accuracy(coco: dict, predictions: Sequence[dict], rules: str) -> dict[str, float]:
    """MOTA, IDF1 and HOTA of all sequences of a ground truth together.

    coco: of testsets/tracking.py. predictions: COCO results with `track_id`. rules: one of RULES.
    Raises InputError where no object is judged.
    """
    mm = _motmetrics()
    truth, found = _by_frame(coco["annotations"]), _by_frame(predictions)
    sequences: dict[int, list[int]] = defaultdict(list)
    for image in coco["images"]:
        sequences[image["id"] // FRAMES].append(image["id"])
    frames = {
        str(number): [judged(truth[i], found[i], rules) for i in sorted(image_ids)]
        for number, image_ids in sequences.items()
    }
    if not any(len(frame.objects) for own in frames.values() for frame in own):
        raise InputError(
            f"the ground truth has no object that the rules {rules} judge; look at confidence and "
            "class in gt/gt.txt"
        )
    host = mm.metrics.create()
    table = host.compute_many(
        [_accumulated(mm, own) for own in frames.values()],
        names=list(frames),
        metrics=["mota", "idf1"],
        generate_overall=True,
    )
    overall = table.loc["OVERALL"]
    return {
        "mota": 100.0 * float(overall["mota"]),
        "idf1": 100.0 * float(overall["idf1"]),
        "hota": hota(count(own) for own in frames.values()),
    }


def judged(truth: Objects, found: Objects, rules: str) -> Frame:
    """What of a frame is judged: objects, tracks and their overlap."""
    if rules == "mot16":
        dropped = _on_distractors(truth, found)
        found = [item for number, item in enumerate(found) if number not in dropped]
        truth = [item for item in truth if item["object_class"] == 1]
    truth = [item for item in truth if item["confidence"] >= CONFIDENT[rules]]
    return Frame(
        [item["track_id"] for item in truth],
        [item["track_id"] for item in found],
        overlap_of(truth, found),
    )


def overlap_of(a: Objects, b: Objects) -> np.ndarray:
    """IoU (n, m) of the boxes of two lists."""
    if not a or not b:
        return np.zeros((len(a), len(b)))
    x, y = (np.array([item["bbox"] for item in items], float) for items in (a, b))
    low = np.maximum(x[:, None, :2], y[None, :, :2])
    high = np.minimum(x[:, None, :2] + x[:, None, 2:], y[None, :, :2] + y[None, :, 2:])
    shared = np.maximum(high - low, 0.0).prod(axis=2)
    either = x[:, 2:].prod(axis=1)[:, None] + y[:, 2:].prod(axis=1)[None] - shared
    return shared / np.maximum(either, np.finfo(float).tiny)


def _on_distractors(truth: Objects, found: Objects) -> set[int]:
    """The tracks that match a distractor better than any object."""
    mm = _motmetrics()
    distances = _distances(overlap_of(truth, found))
    if not distances.size:
        return set()
    pairs = zip(*mm.lap.linear_sum_assignment(distances))
    return {
        column for row, column in pairs
        if np.isfinite(distances[row, column]) and truth[row]["object_class"] in DISTRACTORS
    }  # fmt: skip


def _distances(overlap: np.ndarray) -> np.ndarray:
    """1 - IoU; nan where that is too much to match."""
    distances = 1.0 - overlap
    return np.where(distances > MOST_DISTANCE, np.nan, distances)


def _accumulated(mm, frames: Iterable[Frame]):
    accumulator = mm.MOTAccumulator()
    for number, frame in enumerate(frames):
        distances = _distances(frame.overlap)
        accumulator.update(frame.objects, frame.tracks, distances, frameid=number)
    return accumulator


def _by_frame(items: Iterable[Mapping[str, Any]]) -> dict[int, Objects]:
    by_frame: dict[int, Objects] = defaultdict(list)
    for item in items:
        by_frame[item["image_id"]].append(item)
    return by_frame


def _motmetrics():
    """motmetrics, imported when it is asked for: it takes a second."""
    try:
        import motmetrics
    except ImportError as error:
        raise InputError(
            f"protocol tracking needs motmetrics, which does not import here ({error}): "
            "pip install motmetrics"
        ) from error
    motmetrics.lap.default_solver = "scipy"
    return motmetrics
