# SPDX-License-Identifier: BSD-3-Clause
"""What does this machine make of the bitstreams of a package? One process's work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from vcm_plugin import bitstream, environment, tasks
from vcm_plugin.codecs import codec_entry
from vcm_plugin.conditions import TestCondition
from vcm_plugin.datasets import CocoDataset, read_entry
from vcm_plugin.errors import InputError
from vcm_plugin.inference import Source, coding_arguments, load_model
from vcm_plugin.package import Limits
from vcm_plugin.results import UNCOMPRESSED, bitstream_path


@dataclass(frozen=True)
class DecodingPlan:
    """All that a process must know; dataset: the test set here, None where it is not here."""

    condition: TestCondition
    codec_name: str
    folder: Path
    category_ids: tuple[int | None, ...]
    threads: int
    device: str = "cpu"
    dataset: CocoDataset | None = None


class Decoder:
    """Owns a detector and a codec; its methods are generators, as `Workers` calls them."""

    def __init__(self, plan: DecodingPlan):
        environment.make_deterministic(plan.threads)
        self.plan = plan
        self.model = load_model(plan.condition, plan.device)
        self.codec = codec_entry(plan.codec_name).make(plan.condition)
        pictures = plan.dataset.pictures if plan.dataset else ()
        self.entries = {entry.image_id: entry for entry in pictures}

    def identify(self) -> Iterator[dict[str, Any]]:
        """What decides about results here."""
        yield {
            "environment": environment.describe(self.plan.device),
            "model": self.model.identity(),
            "codec": {"kind": self.codec.kind, **self.codec.identity()},
        }

    def decode(self, point: str, image_id: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """A bitstream -> statistics of the features, and predictions; or the error."""
        file = bitstream_path(self.plan.folder / point, image_id, self.codec.kind)
        try:
            decoded = self.codec.decode(file.read_bytes())
            features = decoded[0] if self.codec.kind == "human" else decoded
            if self.codec.kind == "picture":
                features = self.model.nn_part1(decoded)
        except InputError as error:
            yield point, image_id, {"error": f"picture {image_id}: {error}"}
            return
        yield point, image_id, self._judged(features, image_id)

    def measure(self, image_id: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """A picture of the test set here -> its sha256, and predictions without any codec."""
        picture = read_entry(self.entries[image_id])
        found = self._judged(self.model.nn_part1(picture), image_id)
        found["picture_sha256"] = hashlib.sha256(picture.tobytes()).hexdigest()
        yield UNCOMPRESSED, image_id, found

    def encode(
        self, image_id: int, points: Sequence[str]
    ) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """A picture of the test set here -> its bitstreams again: size, and whether identical."""
        picture = read_entry(self.entries[image_id])
        kind = self.codec.kind
        features = None if kind == "picture" else self.model.nn_part1(picture)
        source = Source(picture, features)
        for point in points:
            file = bitstream_path(self.plan.folder / point, image_id, kind)
            data = self.codec.encode(*coding_arguments(kind, source, point))
            claimed = file.read_bytes()
            yield point, image_id, {"bits": 8 * len(data), "identical": data == claimed}

    def _judged(self, features, image_id: int) -> dict[str, Any]:
        detections = self.model.nn_part2(features)
        found = tasks.to_coco(detections, image_id, self.plan.category_ids)
        known = [prediction for prediction in found if prediction["category_id"] is not None]
        return {"features": features.statistics(), "predictions": known}


def weights_ids(data: bytes) -> set[int]:
    """The weights ids that the header of an .fcm file names; none for a raw VVC stream."""
    if not data.startswith(b"FCM"):
        return set()
    return {bitstream.read_header(data)[0].weights_id} - {None}


def feature_deviation(claimed: dict, found: dict) -> float:
    """The largest difference of a layer's mean or spread, in the claimed spread of the layer."""
    worst = 0.0
    for name in claimed.keys() | found.keys():
        if name not in claimed or name not in found:
            return float("inf")
        spread = max(claimed[name][1], 1e-12)
        pairs = zip(claimed[name], found[name], strict=True)
        worst = max(worst, *(abs(a - b) / spread for a, b in pairs))
    return worst


def unmatched(claimed: Sequence[dict], found: Sequence[dict], limits: Limits) -> tuple[int, int]:
    """(detections without a counterpart, detections) of both sides of one picture.

    Counterparts have one class, an IoU of their boxes of at least `box_iou`, and scores at most
    `score` apart; claimed detections choose by falling score.
    """
    total = len(claimed) + len(found)
    if not claimed or not found:
        return total, total
    boxes = [np.array([item["bbox"] for item in side]) for side in (claimed, found)]
    overlaps = rle.iou(*boxes, [0] * len(found))  # (claimed, found)
    fits = overlaps >= limits.box_iou
    for key, equal in (
        ("category_id", lambda a, b: a == b),
        ("score", lambda a, b: np.abs(a - b) <= limits.score),
    ):
        ours, theirs = (np.array([item[key] for item in side]) for side in (found, claimed))
        fits &= equal(theirs[:, None], ours[None])
    pairs = 0
    for row in np.argsort([-item["score"] for item in claimed], kind="stable"):
        if fits[row].any():
            chosen = np.argmax(np.where(fits[row], overlaps[row], -1))
            fits[:, chosen] = False
            pairs += 1
    return total - 2 * pairs, total
