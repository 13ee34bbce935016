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

from vcm_plugin import environment
from vcm_plugin.codecs import codec_entry
from vcm_plugin.conditions import TestCondition
from vcm_plugin.datasets import CocoDataset, read_entry
from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.inference import (
    Seen,
    Source,
    coding_arguments,
    known_predictions,
    load_model,
    look_at,
)
from vcm_plugin.package import Limits
from vcm_plugin.picture_metrics import embeddings
from vcm_plugin.results import UNCOMPRESSED, bitstream_path
from vcm_plugin.split import Detections


@dataclass(frozen=True)
class DecodingPlan:
    """All that a process must know; dataset: the test set here, None where it is not here.

    human_vision: also measure decoded pictures, where the test set is here.
    """

    condition: TestCondition
    codec_name: str
    folder: Path
    category_ids: tuple[int | None, ...]
    threads: int
    device: str = "cpu"
    dataset: CocoDataset | None = None
    human_vision: bool = False


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
        """A bitstream -> what a line of pictures.jsonl says of it, without seconds; or why not."""
        file = bitstream_path(self.plan.folder / point, image_id, self.codec.kind)
        try:
            seen = self._seen(file.read_bytes())
            found = self._judged(seen.detections, seen.features, image_id)
            if self.plan.human_vision and image_id in self.entries:
                source = read_entry(self.entries[image_id])
                found |= look_at(source, seen, self.model, lambda d: self._known(d, image_id))
        except InputError as error:
            found = {"error": f"picture {image_id}: {error}"}
        else:
            found["bits"] = 8 * file.stat().st_size
        yield point, image_id, found

    def measure(self, image_id: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """A picture of the test set here -> its sha256, and predictions without any codec."""
        picture = read_entry(self.entries[image_id])
        features = self.model.nn_part1(picture)
        found = self._judged(self.model.nn_part2(features), features, image_id)
        found["picture_sha256"] = hashlib.sha256(picture.tobytes()).hexdigest()
        if self.plan.human_vision:
            found["embeddings"] = embeddings(picture, features)
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

    def _seen(self, data: bytes) -> Seen:
        decoded, kind = self.codec.decode(data), self.codec.kind
        if kind == "human":
            features, picture = decoded
            detections = self.model.nn_part2(features)
            return Seen(detections, features, picture, self.codec.machine_bits(data))
        features = decoded if kind == "feature" else self.model.nn_part1(decoded)
        detections = self.model.nn_part2(features)
        return Seen(detections, features, decoded if kind == "picture" else None)

    def _judged(
        self, detections: Detections, features: FeaturePyramid, image_id: int
    ) -> dict[str, Any]:
        return {"features": features.statistics(), "predictions": self._known(detections, image_id)}

    def _known(self, detections: Detections, image_id: int) -> list[dict]:
        return known_predictions(detections, image_id, self.plan.category_ids)


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
