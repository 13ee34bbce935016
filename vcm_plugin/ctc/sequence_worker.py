# SPDX-License-Identifier: BSD-3-Clause
"""What happens to one sequence: its frames go through one file, one after the other."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from vcm_plugin.bitstream import Timing
from vcm_plugin.ctc import coding
from vcm_plugin.ctc.coding import Decoded
from vcm_plugin.ctc.picture_worker import Watch, Worker
from vcm_plugin.ctc.plan import Plan
from vcm_plugin.ctc.qp_tables import is_label, load_qp_table
from vcm_plugin.ctc.results import Evaluation, Record
from vcm_plugin.ctc.run_folder import bitstream_path
from vcm_plugin.errors import InputError
from vcm_plugin.features import FeaturePyramid
from vcm_plugin.files import read_json, sha256_of_file, writing
from vcm_plugin.metrics import point_miou
from vcm_plugin.metrics.accuracy import judge_parts
from vcm_plugin.split import Detections
from vcm_plugin.split.tracker import Tracker, Tracks
from vcm_plugin.testsets.coco import PictureEntry, SequenceEntry
from vcm_plugin.testsets.points import read_points
from vcm_plugin.testsets.sequences import read_frames
from vcm_plugin.testsets.tracking import CATEGORY


class SequenceWorker(Worker):
    """A Worker whose entries are sequences; of their frames, one is in memory at a time."""

    def __init__(self, plan: Plan):
        super().__init__(plan)
        coding.require_sequences(self.codec)

    def measure(self, entry: SequenceEntry) -> Iterator[Record]:
        """The record of an uncompressed sequence."""
        watch, digest = Watch(), hashlib.sha256()

        def features() -> Iterator[FeaturePyramid]:
            for picture in read_frames(entry):
                digest.update(picture.tobytes())
                yield self._features(picture, watch)

        predictions = self._detect(entry, features(), watch)
        yield Record(
            entry.image_id,
            picture_sha256=digest.hexdigest(),
            seconds=watch.seconds,
            predictions=predictions,
        )

    def code(
        self, entries: Sequence[SequenceEntry], points: Sequence[str]
    ) -> Iterator[tuple[str, Record]]:
        """The records of some sequences at some rate points, each with its rate point."""
        for entry, point in itertools.product(entries, points):
            try:
                yield point, self._coded_sequence(entry, point)
            except InputError as error:
                raise InputError(f"{entry.name} at rate point {point}: {error}") from error

    def evaluate(
        self, point: str, skipped: Sequence[int]
    ) -> Iterator[tuple[str, Evaluation, float]]:
        """As for pictures; the accuracy of each sequence and of each class stands beside it."""
        dataset = self.plan.dataset
        for name, evaluation, seconds in super().evaluate(point, skipped):
            folder, started = self.plan.folder / point, time.perf_counter()
            predictions = read_json(folder / "predictions.json")
            parts = judge_parts(self.plan.condition, dataset, predictions)
            evaluation = dataclasses.replace(evaluation, **parts)
            yield name, evaluation, round(seconds + time.perf_counter() - started, 6)

    def _coded_sequence(self, entry: SequenceEntry, point: str) -> Record:
        """Frames -> file -> frames -> predictions; nothing but the file passes between."""
        watch = Watch()
        path = bitstream_path(self.plan.folder / point, entry.image_id, self.kind.suffix)
        with writing(path) as file, watch("encode"):
            sizes = self._encode(entry, point, file, watch)
        watch.add("encode", -watch.seconds.pop("source"))
        return dataclasses.replace(
            self._decoded(entry, path, watch),
            bits=8 * path.stat().st_size,
            file_sha256=sha256_of_file(path),
            frame_bits=tuple(8 * size for size in sizes),
            seconds=watch.seconds,
        )

    def encode(self, entry: SequenceEntry, points: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """The bitstreams of one sequence, each with its rate point."""
        for point in points:
            file = io.BytesIO()
            self._encode(entry, point, file, Watch())
            yield point, file.getvalue()

    def decode(self, entry: SequenceEntry, file: Path, with_source: bool) -> Record:
        """What the record of a file says of what it decodes to. Labelled points are part of the
        source: without it there are no predictions where a condition judges them."""
        if self.plan.condition.protocol != "semantic" or with_source:
            return self._decoded(entry, file, Watch())
        record = self._decoded(dataclasses.replace(entry, points=None), file, Watch())
        return dataclasses.replace(record, predictions=None)

    def _encode(
        self, entry: SequenceEntry, point: str, file: BinaryIO, watch: Watch
    ) -> Sequence[int]:
        """Code a sequence into a file; returns the bytes of each frame."""
        waiting = Watch()  # for pictures and NN-Part1, which are no part of encoding

        def features_of(picture: np.ndarray) -> FeaturePyramid:
            with waiting("source"):
                return self._features(picture, Watch())

        timing = Timing(len(entry.frames), entry.frame_rate)
        if is_label(point):
            point = load_qp_table(self.plan.condition.qp_table).qp(point, entry.name)
        pictures = _timed(read_frames(entry), waiting, "source")
        sizes = coding.encode_sequence(self.codec, pictures, features_of, point, timing, file)
        watch.add("source", waiting.seconds["source"])
        return sizes

    def _decoded(self, entry: SequenceEntry, path: Path, watch: Watch) -> Record:
        """Statistics of the features in a file, their mean over the frames, and the predictions."""
        statistics = []

        def noted(frames: Iterable[FeaturePyramid]) -> Iterator[FeaturePyramid]:
            for features in frames:
                statistics.append(features.statistics())
                yield features

        frames = _timed(coding.decode_sequence(self.codec, path), watch, "decode")
        predictions = self._detect(entry, noted(self._features_in(frames, watch)), watch)
        mean = {
            name: np.mean([frame[name] for frame in statistics], axis=0).tolist()
            for name in statistics[0]
        }
        return Record(entry.image_id, features=mean, predictions=predictions)

    def _features_in(self, frames: Iterable[Decoded], watch: Watch) -> Iterator[FeaturePyramid]:
        for frame in frames:
            if frame.features is not None:
                yield frame.features
                continue
            with watch("nn_part1"):
                features = self.model.nn_part1(frame.picture)
            yield features

    def _detect(
        self, entry: SequenceEntry, features: Iterable[FeaturePyramid], watch: Watch
    ) -> list[dict]:
        """NN-Part2 of every frame."""
        predictions: list[dict] = []
        tracker = self._tracker()
        points = read_points(entry) if entry.points else None
        for number, (frame, layers) in enumerate(zip(entry.frames, features, strict=True)):
            with watch("nn_part2"):
                detections = self.model.nn_part2(layers)
                tracks = None if tracker is None else tracker.update(detections)
            if tracks is not None:
                predictions += _tracked(tracks, frame)
            elif points is None:
                predictions += self._predictions(detections, frame)
            else:
                counts = self._confusion(detections, points[number])
                predictions.append({"image_id": frame.image_id, "confusion": counts})
        return predictions

    def _tracker(self) -> Tracker | None:
        """The tracker of one sequence, where a condition judges tracks."""
        if self.plan.condition.protocol != "tracking":
            return None
        if not hasattr(self.model, "tracker"):
            raise InputError(
                f"protocol tracking needs a JDE network, {self.plan.condition.model} has no "
                "tracker; name one in the key model, such as jde_1088x608"
            )
        return self.model.tracker()

    def _confusion(self, detections: Detections, points: np.ndarray) -> list[list[int]]:
        condition = self.plan.condition
        if detections.segments is None:
            raise InputError(
                f"protocol semantic needs a panoptic detector, {condition.model} finds no "
                "segments; name one in the key model, such as panoptic_rcnn_R_101_FPN_3x"
            )
        return point_miou.confusion(
            detections.segments,
            points,
            condition.require("semantic_of_class"),
            condition.require("semantic_of_label"),
        )


def _tracked(tracks: Tracks, frame: PictureEntry) -> list[dict]:
    """COCO results of the tracks of a frame, with the identity of each."""
    return [
        {
            "image_id": frame.image_id,
            "category_id": CATEGORY,
            "bbox": [float(n) for n in box],
            "score": float(score),
            "track_id": int(identity),
        }
        for box, identity, score in zip(tracks.boxes, tracks.identities, tracks.scores, strict=True)
    ]


def _timed(items: Iterable, watch: Watch, stage: str) -> Iterator:
    """The items, with the time that each takes to come counted as a stage."""
    items = iter(items)
    watch.add(stage, 0.0)
    while True:
        with watch(stage):
            item = next(items, None)
        if item is None:
            return
        yield item
