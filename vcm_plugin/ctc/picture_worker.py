# SPDX-License-Identifier: BSD-3-Clause
"""What happens to one picture: split inference, remote inference, human vision, and the records."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vcm_plugin import environment
from vcm_plugin.ctc import coding, complexity
from vcm_plugin.ctc.codecs import codec_rate_points, make_codec
from vcm_plugin.ctc.coding import Decoded, Source
from vcm_plugin.ctc.detector import load_detector
from vcm_plugin.ctc.feature_cache import FeatureCache
from vcm_plugin.ctc.plan import Plan
from vcm_plugin.ctc.results import UNCOMPRESSED, Complexity, Evaluation, Record, Skipped
from vcm_plugin.ctc.run_folder import (
    bitstream_path,
    decoded_path,
    read_records,
)
from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.files import sha256_of, sha256_of_file, write_bytes, writing
from vcm_plugin.metrics import classification, coco_ap
from vcm_plugin.metrics.accuracy import judge, judge_categories
from vcm_plugin.metrics.pictures import embeddings, pair_metrics, picture_measures
from vcm_plugin.split import Detections
from vcm_plugin.testsets.coco import CocoDataset, PictureEntry, read_entry
from vcm_plugin.testsets.pictures import PictureError

TOGETHER_BYTES = 1 << 26  # of pictures and features that a codec is given at once


@dataclass
class Watch:
    """Seconds of each stage of one picture or sequence."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.add(stage, time.perf_counter() - started)

    def add(self, stage: str, seconds: float) -> None:
        """Count more seconds for a stage."""
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + seconds, 6)


@dataclass(frozen=True)
class Inference:
    """What comes out of a file: detections and the features they were made of, the decoded picture
    where there is one, and the bits that the detections needed, where others are for a person."""

    detections: Detections
    features: FeaturePyramid
    picture: np.ndarray | None = None
    machine_bits: int | None = None


@dataclass(frozen=True)
class _Opened:
    """A picture, and what the codec codes; seconds of what that took, as of all rate points."""

    entry: PictureEntry
    source: Source
    seconds: dict[str, float]


class Worker:
    """Owns a detector and a codec and does the work of one process; its methods yield records."""

    def __init__(self, plan: Plan):
        condition = plan.condition
        environment.make_deterministic(condition.threads_per_job)
        self.plan = plan
        self.model = load_detector(condition, plan.device)
        self.codec = make_codec(plan.codec_name, condition)
        coding.check_rate_points(self.codec, codec_rate_points(plan.codec_name, condition))
        self.kind = coding.kind_of(self.codec)
        self.versions = environment.describe(plan.device)
        self.cache = None
        if plan.feature_cache_bytes:
            folder = environment.cache_folder() / "features"
            self.cache = FeatureCache(folder, plan.feature_cache_bytes)

    def identify(self) -> Iterator[dict[str, Any]]:
        """What every result of this worker depends on, the pictures aside."""
        condition = self.plan.condition
        table = {"qp_table": condition.qp_table} if condition.qp_table else {}
        yield {
            "environment": self.versions,
            "model": self.model.identity(),
            "codec": {"kind": self.codec.kind, **self.codec.identity(), **table},
            "test": {
                "tasks": list(condition.tasks),
                "protocol": condition.protocol,
                "score_threshold": condition.require("score_threshold"),
                "iou_threshold": condition.require("iou_threshold"),
                "threads_per_job": condition.threads_per_job,
                "min_overlap": condition.min_overlap,
                "near_lossless": condition.near_lossless,
                "human_vision": condition.human_vision,
            },
        }

    def measure(self, entry: PictureEntry) -> Iterator[Record | Skipped]:
        """The record of an uncompressed picture, or that it was skipped as unreadable."""
        watch = Watch()
        try:
            picture, features = self._measurable(entry, watch)
        except PictureError:
            if not self.plan.keep_going:
                raise
            yield Skipped(entry.image_id, entry.path.name)
            return
        with watch("nn_part2"):
            detections = self.model.nn_part2(features)
        human_vision = self.plan.condition.human_vision
        yield Record(
            entry.image_id,
            picture_sha256=_sha256(picture),
            seconds=watch.seconds,
            predictions=self._predictions(detections, entry),
            classes=self._classes(features, entry),
            embeddings=embeddings(picture, features) if human_vision else None,
        )

    def _measurable(self, entry: PictureEntry, watch: Watch) -> tuple[np.ndarray, FeaturePyramid]:
        """A picture and its features; raises PictureError for what the detector cannot take too."""
        try:
            picture = read_entry(entry)
        except PictureError as error:
            raise PictureError(f"{error}, or pass over it with --keep-going") from error
        try:
            return picture, self._features(picture, watch)
        except InputError as error:  # too thin for the network's input
            raise PictureError(
                f"{entry.path}: {error}; or pass over it with --keep-going"
            ) from error

    def code(
        self, entries: Sequence[PictureEntry], points: Sequence[str]
    ) -> Iterator[tuple[str, Record]]:
        """The records of some pictures of one size at some rate points, each with its rate point.

        Between encoder and decoder nothing but the file passes. What the codec shares between rate
        points is computed once, and its seconds count at each of them.
        """
        for some in self._opened(entries):
            for point in points:
                for record in self._coded(some, point):
                    yield point, record

    def _opened(self, entries: Sequence[PictureEntry]) -> Iterator[list[_Opened]]:
        """The pictures with what the codec codes, in groups that fit into memory."""
        group: list[_Opened] = []
        for entry in entries:
            source, watch = self._source(entry), Watch()
            with watch("encode"), _named(entry.path.name):
                source = coding.analysed(self.codec, source)
            group.append(_Opened(entry, source, watch.seconds))
            if (len(group) + 1) * _bytes(source) > TOGETHER_BYTES:
                yield group
                group = []
        if group:
            yield group

    def _coded(self, some: Sequence[_Opened], point: str) -> Iterator[Record]:
        """Pictures -> files -> predictions. Encoder and decoder take all of them at once where they
        can; the seconds of each are an equal share then."""
        folder, names = self.plan.folder / point, " ".join(one.entry.path.name for one in some)
        paths = [bitstream_path(folder, o.entry.image_id, self.kind.suffix) for o in some]
        watches = [Watch(dict(one.seconds)) for one in some]
        with _named(f"{names} at rate point {point}"):
            with _shared(watches, "encode"):
                files = coding.encode_batch(self.codec, [one.source for one in some], point)
                for path, data in zip(paths, files, strict=True):
                    write_bytes(path, data)
            del files
            with _shared(watches, "decode"):
                decoded = coding.decode_batch(self.codec, [path.read_bytes() for path in paths])
        for one, path, watch, what in zip(some, paths, watches, decoded, strict=True):
            inferred = self._infer(what, watch)
            if self.plan.condition.human_vision and inferred.picture is not None:
                with writing(decoded_path(folder, one.entry.image_id)) as png:
                    Image.fromarray(inferred.picture).save(png, "PNG")
            yield dataclasses.replace(
                self._described(one.entry, inferred, one.source.picture),
                bits=8 * path.stat().st_size,
                file_sha256=sha256_of_file(path),
                seconds=watch.seconds,
            )

    def encode(self, entry: PictureEntry, points: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """The bitstreams of one picture, each with its rate point."""
        source = coding.analysed(self.codec, self._source(entry))
        for point in points:
            yield point, coding.encode(self.codec, source, point)

    def decode(self, entry: PictureEntry, file: Path, with_source: bool) -> Record:
        """What the record of a file says of what it decodes to; with_source: and how the decoded
        picture looks beside the source, which must be there."""
        inferred = self._infer(coding.decode(self.codec, file.read_bytes()), Watch())
        return self._described(entry, inferred, read_entry(entry) if with_source else None)

    def complexity(self, entry: PictureEntry, point: str) -> Iterator[Complexity]:
        """What the codec and the detector cost on this picture."""
        source, pixels = self._source(entry), entry.height * entry.width
        costs = complexity.measure(self.codec, source, point, pixels)
        first, second = complexity.of_detector(self.model, source.picture, pixels)
        yield dataclasses.replace(costs, nn_part1_kmac=first, nn_part2_kmac=second)

    def evaluate(
        self, point: str, skipped: Sequence[int]
    ) -> Iterator[tuple[str, Evaluation, float]]:
        """Write the predictions of a point; yields the point, what was measured and the seconds."""
        started = time.perf_counter()
        condition, folder = self.plan.condition, self.plan.folder / point
        dataset = self.plan.dataset.without(skipped)
        image_ids = [entry.image_id for entry in dataset.entries]
        found = {record.image_id: record for record in read_records(folder)}
        records = [found[image_id] for image_id in image_ids]
        predictions = [prediction for record in records for prediction in record.predictions]
        write_bytes(folder / "predictions.json", json.dumps(predictions).encode())
        accuracy, matches = judge(condition, dataset, predictions)
        accuracy |= classification.of_records(dataset, records)
        if matches:
            coco_ap.write_matches(folder / "matches.npz", matches)
        categories = judge_categories(condition, dataset, predictions, matches)
        human_vision = None
        if condition.human_vision and point != UNCOMPRESSED and self._shows_pictures():
            human_vision = self._evaluate_pictures(dataset, records)
        evaluation = Evaluation(accuracy, human_vision, categories=categories or None)
        yield point, evaluation, round(time.perf_counter() - started, 6)

    def _shows_pictures(self) -> bool:
        return self.kind.gives_picture

    def _evaluate_pictures(self, dataset: CocoDataset, decoded: list[Record]) -> dict[str, Any]:
        """The measures of human vision of a point: bits of both layers, means over the pictures,
        distances of the two sets, and the detector's accuracy on the decoded pictures."""
        lines = read_records(self.plan.folder / UNCOMPRESSED)
        sources = {record.image_id: record for record in lines}
        measured = picture_measures(decoded, [sources[record.image_id] for record in decoded])
        painted = [prediction for record in decoded for prediction in record.painted]
        accuracy, _ = judge(self.plan.condition, dataset, painted)
        return measured | {f"painted_{name}": value for name, value in accuracy.items()}

    def _source(self, entry: PictureEntry) -> Source:
        picture = read_entry(entry)
        features = self._features(picture, Watch()) if self.kind.takes_features else None
        return Source(picture, features)

    def _infer(self, decoded: Decoded, watch: Watch) -> Inference:
        """What a file holds -> detections: in its features, or in those of its picture."""
        features = decoded.features
        if features is None:
            with watch("nn_part1"):
                features = self.model.nn_part1(decoded.picture)
        with watch("nn_part2"):
            detections = self.model.nn_part2(features)
        return Inference(detections, features, decoded.picture, decoded.machine_bits)

    def _described(
        self, entry: PictureEntry, inferred: Inference, source: np.ndarray | None
    ) -> Record:
        """What a record holds of what was decoded, looked at beside the source where a condition
        measures human vision; painted: the predictions in the decoded picture."""
        detections, features = inferred.detections, inferred.features
        record = Record(
            entry.image_id,
            features=features.statistics(),
            predictions=self._predictions(detections, entry),
            classes=self._classes(features, entry),
        )
        if not self.plan.condition.human_vision or inferred.picture is None or source is None:
            return record
        if inferred.machine_bits is not None:  # the detections were not made in the picture
            features = self.model.nn_part1(inferred.picture)
            detections = self.model.nn_part2(features)
        return dataclasses.replace(
            record,
            machine_bits=inferred.machine_bits,
            painted=self._predictions(detections, entry),
            picture=pair_metrics(source, inferred.picture),
            embeddings=embeddings(inferred.picture, features),
        )

    def _features(self, picture: np.ndarray, watch: Watch) -> FeaturePyramid:
        """NN-Part1 of a picture, from the cache where it holds it."""
        if self.cache is None:
            with watch("nn_part1"):
                return self.model.nn_part1(picture)
        made_by = [self.model.identity(), self.versions, self.plan.condition.threads_per_job]
        key = sha256_of([made_by, picture.shape, _sha256(picture)])
        found = self.cache.get(key)
        if found is not None:
            features, seconds = found
            watch.add("nn_part1", seconds)
            return features
        once = Watch()
        with once("nn_part1"):
            features = self.model.nn_part1(picture)
        watch.add("nn_part1", once.seconds["nn_part1"])
        self.cache.put(key, features, once.seconds["nn_part1"])
        return features

    @cached_property
    def _objects(self) -> classification.Objects:
        """Those of the ground truth, by picture."""
        return classification.Objects(self.plan.dataset)

    def _classes(self, features: FeaturePyramid, entry: PictureEntry) -> tuple[int, ...] | None:
        """The category ids that the box head tells of the objects of a picture, given their boxes;
        None where the protocol is not COCO's, or no boxes are judged."""
        condition = self.plan.condition
        if condition.protocol != "coco" or "box" not in condition.tasks:
            return None
        found = self.model.classify(features, self._objects.boxes(entry.image_id))
        ids = self.plan.dataset.category_ids
        return tuple(-1 if ids[k] is None else ids[k] for k in found)

    def _predictions(self, detections: Detections, entry: PictureEntry) -> list[dict]:
        """COCO results; detections of classes that the test set does not know are left out."""
        found = coco_ap.to_coco(detections, entry.image_id, self.plan.dataset.category_ids)
        return [prediction for prediction in found if prediction["category_id"] is not None]


@contextmanager
def _shared(watches: Sequence[Watch], stage: str) -> Iterator[None]:
    """Count the seconds of a stage that pictures go through together, an equal share for each."""
    both = Watch()
    with both(stage):
        yield
    for watch in watches:
        watch.add(stage, both.seconds[stage] / len(watches))


def _bytes(source: Source) -> int:
    layers = source.features.layers.values() if source.features else ()
    return source.picture.nbytes + sum(layer.nbytes for layer in layers)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """An InputError says what it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def _sha256(picture: np.ndarray) -> str:
    return hashlib.sha256(picture.tobytes()).hexdigest()
