# SPDX-License-Identifier: BSD-3-Clause
"""What does a run state? The content of result.json, timings.json and journals, as dataclasses.

`vcm_plugin.ctc.run_folder` says which file holds which of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vcm_plugin.ctc.typed_json import from_json, to_json
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json

FORMAT, VERSION = "vcm-plugin result", 1
UNCOMPRESSED = "uncompressed"

Accuracy = Mapping[str, float]  # metric -> percent


@dataclass(frozen=True)
class Record:
    """One line of a journal: a picture, or a sequence, at one point; None is what was not measured.

    features: layer -> [mean, standard deviation] of what was decoded. painted: predictions in the
    decoded picture; picture: its measures against the source, "n/a: ..." where there is none;
    embeddings: what distances of two sets of pictures need. file_sha256: of the bitstream; it binds
    the file to its picture, and a raw VVC stream has no checksum of its own. classes: category ids
    that the box head tells of the objects of the ground truth, given their boxes.
    """

    image_id: int  # of a sequence its number, from 1 on
    bits: int | None = None
    file_sha256: str | None = None
    frame_bits: tuple[int, ...] | None = None  # of a sequence
    picture_sha256: str | None = None  # of an uncompressed picture
    seconds: Mapping[str, float] | None = None  # stage -> seconds
    features: dict[str, list[float]] | None = None
    predictions: list[dict[str, Any]] | None = None  # COCO results
    machine_bits: int | None = None  # those of bits that the detections needed
    painted: list[dict[str, Any]] | None = None
    picture: Mapping[str, float | str] | None = None
    embeddings: dict[str, list[float]] | None = None
    classes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Evaluation:
    """What was measured of all pictures of a point.

    human_vision: means over the decoded pictures and distances of the two sets. sequences, classes:
    the accuracy of each of them alone; a class is one of sequences. categories: the accuracy of
    each category of objects alone, by its name; None in results of older versions.
    """

    accuracy: Accuracy
    human_vision: Mapping[str, float | str] | None = None
    sequences: Mapping[str, Accuracy] | None = None
    classes: Mapping[str, Accuracy] | None = None
    categories: Mapping[str, Accuracy] | None = None


@dataclass(frozen=True)
class PictureBits:
    """The bits of each picture or frame of a rate point, in the order of the test set."""

    image_id: tuple[int, ...]
    bits: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PointResult:
    """One rate point: its bits in all pictures, and what was measured there as in `Evaluation`."""

    rate_point: str
    bits: int
    pixels: int  # of the source
    pictures: int  # or frames
    accuracy: Accuracy
    human_vision: Mapping[str, float | str] | None = None
    sequences: Mapping[str, Accuracy] | None = None
    classes: Mapping[str, Accuracy] | None = None
    categories: Mapping[str, Accuracy] | None = None
    per_picture: PictureBits

    @property
    def bits_by_picture(self) -> dict[int, int]:
        """Image id -> bits."""
        return dict(zip(self.per_picture.image_id, self.per_picture.bits, strict=True))


@dataclass(frozen=True)
class TestSettings:
    """How predictions are judged and curves compared, as the test condition says."""

    __test__ = False  # the name is no test of pytest

    tasks: tuple[str, ...]
    protocol: str
    score_threshold: float
    iou_threshold: float
    threads_per_job: int
    min_overlap: float  # accuracy points
    near_lossless: float | None  # accuracy points below uncompressed
    human_vision: bool


@dataclass(frozen=True)
class SequenceSummary:
    """One sequence of a test set."""

    name: str
    group: str = field(metadata={"key": "class"})
    frames: int
    rate: tuple[int, ...]  # frames per second: numerator, denominator

    @property
    def fps(self) -> float:
        return self.rate[0] / self.rate[1]


@dataclass(frozen=True)
class DatasetSummary:
    """The pictures that were tested: their number, pixels and a digest of them and their truth.

    passed_over: objects that were left out, whose boxes have no area in their pictures. cut_from:
    pictures or frames of the whole test set, where a limit left some out.
    """

    name: str
    pictures: int  # or frames
    pixels: int
    sha256: str
    sequences: tuple[SequenceSummary, ...] | None = None
    passed_over: int | None = None
    cut_from: int | None = None


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be read, and was passed over."""

    image_id: int
    file_name: str


@dataclass(frozen=True)
class RunResult:
    """The content of result.json: nothing in it depends on when or where the test ran."""

    key: str  # digest of all that affects the result
    condition: str
    codec: str
    codec_identity: dict[str, Any]  # kind, and what else decides about the bitstreams
    model_identity: dict[str, Any]
    test: TestSettings
    environment: Mapping[str, str]
    dataset: DatasetSummary
    skipped: tuple[Skipped, ...]
    uncompressed: Evaluation
    expected: dict[str, Any]  # the accuracy that the condition states, and whether it was checked
    points: tuple[PointResult, ...]

    @property
    def kind(self) -> str:
        """Of the codec: a name of KINDS of ctc/coding.py."""
        return self.codec_identity["kind"]

    def point(self, rate_point: str) -> PointResult:
        """The rate point of this name; raises InputError where there is none."""
        for point in self.points:
            if point.rate_point == rate_point:
                return point
        known = ", ".join(point.rate_point for point in self.points)
        raise InputError(f"{self.codec}: rate point {rate_point}: expected one of {known}")

    def to_json(self) -> dict[str, Any]:
        """The content of result.json."""
        return {"format": FORMAT, "version": VERSION, **to_json(self)}


@dataclass(frozen=True)
class Complexity:
    """What a codec, and the detector around it, cost on one picture.

    encode_kmac, decode_kmac: thousand multiply-accumulates per source pixel, or "n/a: ..."; None
    where all work is done outside torch. parameters: None for a codec without weights.
    nn_part1_kmac, nn_part2_kmac: those of convolutions and matrix products in the two parts of the
    detector; None in results of older versions.
    """

    rate_point: str
    encode_kmac: float | str | None
    decode_kmac: float | str | None
    parameters: int | None
    peak_memory_bytes: int
    nn_part1_kmac: float | None = None
    nn_part2_kmac: float | None = None


@dataclass(frozen=True)
class StageSeconds:
    """Seconds of one stage over the pictures of a point."""

    sum: float
    median: float | None = None


@dataclass(frozen=True)
class Timings:
    """The content of timings.json: what a run cost on this machine."""

    wall_seconds: float
    complexity: Complexity | None
    jobs: int
    points: Mapping[str, Mapping[str, StageSeconds]]  # point -> stage -> seconds


def load_result(run: Path) -> RunResult:
    """The result.json of a run folder; raises InputError where it is missing or foreign."""
    path = run / "result.json"
    if not path.is_file():
        state = "the run is not complete: repeat `vcm-plugin run`" if run.is_dir() else "no folder"
        raise InputError(f"{run}: expected a run folder with result.json, found none ({state})")
    stored = read_json(path)
    found = (stored.get("format"), stored.get("version")) if isinstance(stored, dict) else None
    if found != (FORMAT, VERSION):
        raise InputError(f"{path}: expected {FORMAT} {VERSION}, found {found}")
    stored = {key: value for key, value in stored.items() if key not in ("format", "version")}
    result = from_json(RunResult, stored, path)
    if not isinstance(result.codec_identity.get("kind"), str):
        raise InputError(f"{path}: expected a field codec_identity.kind, found none; run it again")
    for point in result.points:
        if len(point.per_picture.image_id) != len(point.per_picture.bits):
            raise InputError(
                f"{path}: rate point {point.rate_point}: per_picture: expected as many bits as "
                f"pictures, found {len(point.per_picture.bits)} and "
                f"{len(point.per_picture.image_id)}; run it again"
            )
    return result


def load_timings(run: Path) -> Timings | None:
    """The timings.json of a run folder, None where it keeps none; raises InputError."""
    path = run / "timings.json"
    return from_json(Timings, read_json(path), path) if path.is_file() else None
