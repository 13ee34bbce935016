# SPDX-License-Identifier: BSD-3-Clause
"""What happens to one picture: split inference, remote inference and the records of both."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vcm_plugin import complexity, environment, results, tasks
from vcm_plugin.codecs import Codec, codec_entry
from vcm_plugin.conditions import TestCondition
from vcm_plugin.datasets import CocoDataset, PictureEntry, PictureError, read_entry
from vcm_plugin.errors import InputError
from vcm_plugin.feature_cache import FeatureCache
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.split import Detections, load_split_model

if TYPE_CHECKING:
    from vcm_plugin.split.detectron2 import Detectron2Detector
    from vcm_plugin.split.torchvision import TorchvisionDetector

    SplitModel = TorchvisionDetector | Detectron2Detector


@dataclass(frozen=True)
class Plan:
    """All that a worker process must know."""

    condition: TestCondition
    codec_name: str
    folder: Path
    dataset: CocoDataset
    device: str = "cpu"
    keep_going: bool = False
    feature_cache_bytes: int = 0


@dataclass
class Watch:
    """Seconds of each stage of one picture."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - started, 6)


def split_inference(
    features: FeaturePyramid,
    rate_point: str,
    codec: Codec,
    model: SplitModel,
    file: Path,
    watch: Watch,
) -> tuple[FeaturePyramid, Detections]:
    """Features -> file -> features -> detections; nothing but the file passes between."""
    with watch("encode"):
        results.write_bytes(file, codec.encode(features, rate_point))
    with watch("decode"):
        decoded = codec.decode(file.read_bytes())
    return decoded, detect(decoded, model, watch)


def remote_inference(
    picture: np.ndarray, rate_point: str, codec: Codec, model: SplitModel, file: Path, watch: Watch
) -> tuple[FeaturePyramid, Detections]:
    """Picture -> file -> picture -> the whole network; nothing but the file passes between."""
    with watch("encode"):
        results.write_bytes(file, codec.encode(picture, rate_point))
    with watch("decode"):
        decoded = codec.decode(file.read_bytes())
    with watch("nn_part1"):
        features = model.nn_part1(decoded)
    return features, detect(features, model, watch)


def detect(features: FeaturePyramid, model: SplitModel, watch: Watch) -> Detections:
    """NN-Part2 of decoded features."""
    with watch("nn_part2"):
        return model.nn_part2(features)


class Worker:
    """Owns a detector and a codec and does the work of one process; its methods yield records."""

    def __init__(self, plan: Plan):
        condition = plan.condition
        environment.make_deterministic(condition.threads_per_job)
        self.plan = plan
        self.model = load_model(condition, plan.device)
        self.codec = codec_entry(plan.codec_name).make(condition)
        self.versions = environment.describe(plan.device)
        cache = FeatureCache(environment.cache_folder() / "features", plan.feature_cache_bytes)
        self.cache = cache if plan.feature_cache_bytes else None

    def identify(self) -> Iterator[dict[str, Any]]:
        """What every result of this worker depends on, the pictures aside."""
        condition = self.plan.condition
        yield {
            "environment": self.versions,
            "model": self.model.identity(),
            "codec": {"kind": self.codec.kind, **self.codec.identity()},
            "test": {
                "tasks": list(condition.tasks),
                "score_threshold": condition.require("score_threshold"),
                "iou_threshold": condition.require("iou_threshold"),
                "threads_per_job": condition.threads_per_job,
                "min_overlap": condition.min_overlap,
                "near_lossless": condition.near_lossless,
            },
        }

    def measure(self, entry: PictureEntry) -> Iterator[dict[str, Any]]:
        """The record of an uncompressed picture."""
        watch = Watch()
        try:
            picture = read_entry(entry)
        except PictureError as error:
            if not self.plan.keep_going:
                raise
            yield {"image_id": entry.image_id, "unreadable": entry.path.name, "error": str(error)}
            return
        features = self._features(picture, watch)
        with watch("nn_part2"):
            detections = self.model.nn_part2(features)
        yield {
            "image_id": entry.image_id,
            "picture_sha256": _sha256(picture),
            "seconds": watch.seconds,
            "predictions": self._predictions(detections, entry),
        }

    def code(self, entry: PictureEntry, points: Sequence[str]) -> Iterator[tuple[str, dict]]:
        """The records of one picture at some rate points, each with its rate point."""
        picture = read_entry(entry)
        kind = self.codec.kind
        source = self._features(picture, Watch()) if kind == "feature" else picture
        infer = split_inference if kind == "feature" else remote_inference
        for point in points:
            file = results.bitstream_path(self.plan.folder / point, entry.image_id, kind)
            watch = Watch()
            try:
                features, detections = infer(source, point, self.codec, self.model, file, watch)
            except InputError as error:
                raise InputError(f"{entry.path.name} at rate point {point}: {error}") from error
            yield (
                point,
                {
                    "image_id": entry.image_id,
                    "bits": 8 * file.stat().st_size,
                    "seconds": watch.seconds,
                    "features": features.statistics(),
                    "predictions": self._predictions(detections, entry),
                },
            )

    def complexity(self, entry: PictureEntry, point: str) -> Iterator[dict[str, Any]]:
        """What the codec costs on this picture."""
        picture = read_entry(entry)
        source = self._features(picture, Watch()) if self.codec.kind == "feature" else picture
        yield complexity.measure(self.codec, source, point, entry.height * entry.width)

    def evaluate(self, point: str, skipped: Sequence[int]) -> Iterator[tuple[str, dict, float]]:
        """Write the predictions of a point; yields the point, its accuracy and the seconds."""
        started = time.perf_counter()
        condition, folder = self.plan.condition, self.plan.folder / point
        dataset = self.plan.dataset.without(skipped)
        predictions = results.read_predictions(folder, [e.image_id for e in dataset.pictures])
        results.write_bytes(folder / "predictions.json", json.dumps(predictions).encode())
        matches = {
            task: tasks.match_pictures(dataset.coco, predictions, task, condition.iou_threshold)
            for task in condition.tasks
        }
        tasks.write_matches(folder / "matches.npz", matches)
        accuracy: dict[str, float] = {}
        for found in matches.values():
            accuracy |= tasks.accuracy(found, condition.score_threshold)
        yield point, accuracy, round(time.perf_counter() - started, 6)

    def _features(self, picture: np.ndarray, watch: Watch) -> FeaturePyramid:
        """NN-Part1 of a picture, from the cache where it holds it."""
        if self.cache is None:
            with watch("nn_part1"):
                return self.model.nn_part1(picture)
        made_by = [self.model.identity(), self.versions, self.plan.condition.threads_per_job]
        key = results.sha256_of([made_by, picture.shape, _sha256(picture)])
        found = self.cache.get(key)
        if found is not None:
            features, watch.seconds["nn_part1"] = found
            return features
        with watch("nn_part1"):
            features = self.model.nn_part1(picture)
        self.cache.put(key, features, watch.seconds["nn_part1"])
        return features

    def _predictions(self, detections: Detections, entry: PictureEntry) -> list[dict]:
        """COCO results; detections of classes that the test set does not know are left out."""
        found = tasks.to_coco(detections, entry.image_id, self.plan.dataset.category_ids)
        return [prediction for prediction in found if prediction["category_id"] is not None]


def load_model(condition: TestCondition, device: str) -> SplitModel:
    """The detector of a test condition."""
    environment.require_device(device)
    model = load_split_model(
        condition.model_path(),
        condition.weights_path(),
        condition.split_point,
        condition.runtime,
        device,
    )
    if model.num_classes != len(condition.class_names):
        raise InputError(
            f"the detector of {condition.name} has {model.num_classes} classes, but "
            f"{len(condition.class_names)} class names are given; name them all in its order "
            "(class_names, --classes)"
        )
    return model


def _sha256(picture: np.ndarray) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()
