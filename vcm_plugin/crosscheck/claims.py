# SPDX-License-Identifier: BSD-3-Clause
"""Do the claims of a package agree with its files and with each other? Nothing is decoded here."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcm_plugin.conditions import KEYS, TestCondition
from vcm_plugin.crosscheck.findings import FAILED, NOT_APPLICABLE, OK, REMARK, Finding, differences
from vcm_plugin.crosscheck.package import Package, weights_of
from vcm_plugin.crosscheck.predictions import check_predictions
from vcm_plugin.ctc.codecs import codec_rate_points, load_condition
from vcm_plugin.ctc.coding import KINDS
from vcm_plugin.ctc.results import (
    UNCOMPRESSED,
    DatasetSummary,
    Evaluation,
    PointResult,
    Record,
    RunResult,
    load_result,
)
from vcm_plugin.ctc.run_folder import bitstream_path, read_records
from vcm_plugin.ctc.typed_json import to_json
from vcm_plugin.environment import cfg_folder
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json, sha256_of, sha256_of_file
from vcm_plugin.metrics import classification
from vcm_plugin.metrics.accuracy import LATER, judge, judge_categories, judge_parts
from vcm_plugin.testsets.annotations import check_annotations
from vcm_plugin.testsets.coco import (
    FRAMES,
    CocoDataset,
    PictureEntry,
    SequenceEntry,
    match_categories,
)

STATED_BY_RESULT = ("protocol", "score_threshold", "iou_threshold", "threads_per_job",
                    "min_overlap", "near_lossless", "human_vision")  # fmt: skip
EXACT = 1e-9  # accuracy from the same predictions, and BD-rate from the same points
PARTS = ("sequences", "classes", "categories")  # whose accuracy results state, too
Lines = Mapping[int, Record]  # id of a picture or sequence -> its line


@dataclass(frozen=True)
class Claims:
    """What a package says of one run, parsed."""

    name: str
    folder: Path
    condition: TestCondition
    result: RunResult
    truth: Mapping[str, Any]
    records: Mapping[str, Lines]  # of each point

    @property
    def points(self) -> dict[str, PointResult]:
        """Rate point -> its entry in result.json."""
        return {point.rate_point: point for point in self.result.points}

    def evaluation(self, point: str) -> Evaluation | PointResult:
        """What was measured of a point, which may be the uncompressed pictures."""
        return self.result.uncompressed if point == UNCOMPRESSED else self.points[point]

    @functools.cached_property
    def dataset(self) -> CocoDataset:
        """The pictures or sequences that were tested and their ground truth, without any file."""
        skipped = {picture.image_id for picture in self.result.skipped}
        pictures = [
            PictureEntry(image["id"], Path(image["file_name"]), image["height"], image["width"])
            for image in self.truth["images"]
        ]
        sequences = tuple(
            SequenceEntry(
                number, stated.name, stated.group,
                tuple(p for p in pictures if p.image_id // FRAMES == number), stated.rate,
            )
            for number, stated in enumerate(self.result.dataset.sequences or (), start=1)
        )  # fmt: skip
        whole = CocoDataset(
            tuple(pictures), tuple(self.truth["categories"]), dict(self.truth),
            self._category_ids(), False, sequences,
        )  # fmt: skip
        return whole.without(skipped)

    @property
    def entry_ids(self) -> list[int]:
        """The pictures or sequences that were tested, in the order of the annotations."""
        return [entry.image_id for entry in self.dataset.entries]

    def _category_ids(self) -> tuple[int | None, ...]:
        condition, categories = self.condition, self.truth["categories"]
        if not categories:  # labelled points, or no ground truth at all
            return (None,) * len(condition.class_names)
        return match_categories(
            categories, condition.class_names, Path("ground_truth.json"),
            condition.classes_by_position,
        )  # fmt: skip


def check_manifest(package: Package) -> Iterator[Finding]:
    """Every file of the manifest is there with its bytes, and no other."""
    stated = package.manifest["files"]
    unpacked = {
        path.relative_to(package.folder).as_posix()
        for path in package.folder.rglob("*")
        if path.is_file()
    } - {"manifest.json"}
    problems = [f"{name} is missing" for name in sorted(set(stated) - unpacked)]
    problems += [f"{name} is not in the manifest" for name in sorted(unpacked - set(stated))]
    for name in sorted(unpacked & set(stated)):
        if sha256_of_file(package.folder / name) != stated[name]["sha256"]:
            problems.append(f"{name} has another sha256 than the manifest says")
        elif (package.folder / name).stat().st_size != stated[name]["bytes"]:
            problems.append(f"{name} has another size than the manifest says")
    text = f"{len(unpacked)} files with the sha256 of the manifest"
    yield finding("manifest", problems, text)


def read_claims(package: Package) -> dict[str, Claims]:
    """The claims of every run; raises InputError where a file is missing or no JSON."""
    return {name: _read_run(name, folder) for name, folder in package.runs.items()}


def check_config(claims: Claims, weights: Mapping[str, str | None]) -> Iterator[Finding]:
    """The condition, run.json and result.json say the same; weights: of the manifest."""
    result, condition = claims.result, claims.condition
    problems = []
    rate_points = codec_rate_points(result.codec, condition)
    facts = {"condition": condition.name, "data set": condition.dataset_name()}
    facts |= {"tasks": condition.tasks, "rate points": rate_points}
    facts |= {key: getattr(condition, key) for key in STATED_BY_RESULT}
    stated = {"condition": result.condition, "data set": result.dataset.name}
    stated |= {"tasks": result.test.tasks, "rate points": list(claims.points)}
    stated |= {key: getattr(result.test, key) for key in STATED_BY_RESULT}
    for key, in_result, in_condition in differences(stated, facts):
        problems.append(f"{key} is {in_result} in result.json and {in_condition} in condition.yaml")
    inputs = read_json(claims.folder / "run.json")
    identity = {key: value for key, value in inputs.items() if key != "files_sha256"}
    environment = {k: v for k, v in result.environment.items() if k != "commit"}
    stated = {"environment": environment, "model": result.model_identity}
    stated |= {"codec": result.codec_identity, "test": to_json(result.test)}
    for key, in_result, in_run in differences(stated, identity):
        problems.append(f"{key} is {in_result} in result.json and {in_run} in run.json")
    if sha256_of([identity, result.dataset.sha256, list(claims.points)]) != result.key:
        problems.append("the key of result.json is not that of its condition, codec and data")
    for name, in_manifest, in_result in differences(weights, weights_of(result)):
        problems.append(f"{name} is {in_manifest} in the manifest and {in_result} in result.json")
    yield finding("config", problems, "condition, results and weights agree", claims.name)
    yield from _compare_with_bundled(claims)


def check_files(claims: Claims) -> Iterator[Finding]:
    """Every picture has its line and its file at every rate point, of the claimed size."""
    wanted = claims.entry_ids
    suffix = KINDS[claims.result.kind].suffix
    for point in (UNCOMPRESSED, *claims.points):
        records, problems = claims.records[point], []
        missing = [str(i) for i in wanted if i not in records]
        if missing:
            what = _plural(claims)[:-1]
            problems.append(f"pictures.jsonl lacks the line of {what} {', '.join(missing[:5])}")
        elif set(records) != set(wanted):
            problems.append("pictures.jsonl has lines of pictures that are not in the ground truth")
        elif point != UNCOMPRESSED:
            problems += _sizes(claims, point, suffix)
        text = f"{len(wanted)} lines and files, sizes as claimed"
        if point == UNCOMPRESSED:
            text = f"{len(wanted)} lines of uncompressed {_plural(claims)}"
        yield finding("bitstreams", problems, text, claims.name, shown(point))


def check_accuracy(claims: Claims, points: Sequence[str]) -> Iterator[Finding]:
    """The claimed accuracy is that of the claimed predictions, to the last digits."""
    for point in points:
        evaluation = claims.evaluation(point)
        found = _judged(claims, point)
        claimed = {**evaluation.accuracy}
        claimed |= {key: part for key in PARTS if (part := getattr(evaluation, key)) is not None}
        problems = [
            f"claimed {key} is {value}, that of the claimed predictions is {computed}"
            for key, value, computed in differences(claimed, _stated(found, claimed))
            if value is None or computed is None or abs(value - computed) > EXACT
        ]
        text = "the claimed accuracy is that of the claimed predictions"
        yield finding("accuracy", problems, text, claims.name, shown(point))


def _judged(claims: Claims, point: str) -> dict[str, Any]:
    """What is measured of the claimed predictions of a point, and of each of PARTS alone."""
    condition, dataset = claims.condition, claims.dataset
    predictions = _all(claims, claims.records[point], "predictions")
    accuracy, matches = judge(condition, dataset, predictions)
    accuracy |= classification.of_records(dataset, claims.records[point].values())
    parts: dict[str, Any] = judge_parts(condition, dataset, predictions)
    categories = judge_categories(condition, dataset, predictions, matches)
    return accuracy | parts | ({"categories": categories} if categories else {})


def check_digest(claims: Claims) -> Iterator[Finding]:
    """The claimed data set is that of the ground truth and the pictures of the package."""
    records = claims.records[UNCOMPRESSED]
    hashes = [[i, records[i].picture_sha256] for i in claims.entry_ids if i in records]
    digest = sha256_of([hashes, claims.dataset.coco])
    stated = claims.result.dataset
    problems = []
    if digest != stated.sha256:
        problems.append("the sha256 of the data set is not that of its pictures and ground truth")
    tested = len(claims.dataset.pictures)
    if stated.pictures != tested:
        problems.append(f"{stated.pictures} pictures claimed, {tested} tested")
    problems += _pixels(claims, stated)
    yield finding("data", problems, "ground truth and pictures as claimed", claims.name)


def accuracy_of(claims: Claims, records: Lines, kind: str = "predictions") -> dict[str, float]:
    """The accuracy of the predictions in lines of pictures, against the claimed ground truth; kind
    "painted" are those in the decoded pictures."""
    accuracy = judge(claims.condition, claims.dataset, _all(claims, records, kind))[0]
    if kind == "predictions":
        accuracy |= classification.of_records(claims.dataset, records.values())
    return accuracy


def _stated(computed: dict, claimed: dict) -> dict:
    """What was computed, less the measures that a result of an earlier version does not state."""
    return {
        key: _stated(value, claimed.get(key) or {}) if isinstance(value, dict) else value
        for key, value in computed.items()
        if key in claimed or key not in (*LATER, "categories")
    }


def _plural(claims: Claims) -> str:
    """What an entry of the test set is."""
    return "sequences" if claims.dataset.sequences else "pictures"


def _all(claims: Claims, records: Lines, kind: str) -> list[dict]:
    return [p for i in claims.entry_ids if i in records for p in getattr(records[i], kind)]


def _read_run(name: str, folder: Path) -> Claims:
    result = load_result(folder)
    if result.codec != name:
        raise InputError(f"runs/{name}: expected a run of this codec, found {result.codec}")
    records = {}
    try:
        for point in (UNCOMPRESSED, *(stored.rate_point for stored in result.points)):
            records[point] = _read_lines(folder / point)
        condition = load_condition(folder / "condition.yaml")
        content = read_json(folder / "ground_truth.json")
        tracks = condition.protocol == "tracking"
        truth = check_annotations(content, Path(f"runs/{name}/ground_truth.json"), tracks).coco
        sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
        for point, lines in records.items():
            where = f"runs/{name}/{point}/pictures.jsonl"
            check_predictions(lines.values(), sizes, where, tracks)
        return Claims(name, folder, condition, result, truth, records)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"runs/{name}: a field is missing or of another kind: {error}") from error


def _read_lines(folder: Path) -> dict[int, Record]:
    name = "/".join((*folder.parts[-2:], "pictures.jsonl"))
    if not (folder / "pictures.jsonl").is_file():
        raise InputError(f"{name}: not readable: no such file")
    records = list(read_records(folder))
    twice = [image_id for image_id, n in Counter(r.image_id for r in records).items() if n > 1]
    if twice:
        raise InputError(f"{name}: picture {twice[0]} has two lines")
    return {record.image_id: record for record in records}


def _sizes(claims: Claims, point: str, suffix: str) -> Iterator[str]:
    stated, records = claims.points[point], claims.records[point]
    listed = stated.bits_by_picture
    for entry in claims.dataset.entries:
        name, record = entry.image_id, records[entry.image_id]
        path = bitstream_path(claims.folder / point, name, suffix)
        if not path.is_file():
            yield f"the bitstream of picture {name} is missing"
            continue
        size, in_result = 8 * path.stat().st_size, tuple(listed.get(i) for i in entry.image_ids)
        for where, bits in (
            ("pictures.jsonl", record.bits),
            ("result.json", sum(bits or 0 for bits in in_result)),
        ):
            if bits != size:
                yield f"picture {name} has {size} bits, {where} claims {bits}"
        if sha256_of_file(path) != record.file_sha256:
            yield f"the bitstream of picture {name} is not the one of its line in pictures.jsonl"
        if (record.frame_bits or in_result) != in_result:
            yield f"sequence {name}: the bits of its frames differ in pictures.jsonl, result.json"
    if stated.bits != sum(listed.values()):
        yield f"{stated.bits} bits claimed, the pictures add up to {sum(listed.values())}"
    tested = len(claims.dataset.pictures)
    if len(listed) != tested or stated.pictures != tested:
        yield f"{stated.pictures} pictures claimed, {tested} tested"
    yield from _pixels(claims, stated)
    if to_json(stated) != read_json(claims.folder / point / "point.json"):
        yield "point.json and result.json differ"


def _pixels(claims: Claims, stated: PointResult | DatasetSummary) -> Iterator[str]:
    pixels = sum(picture.pixels for picture in claims.dataset.pictures)
    if stated.pixels != pixels:
        yield f"{stated.pixels} pixels claimed, the pictures have {pixels}"


def _compare_with_bundled(claims: Claims) -> Iterator[Finding]:
    """A condition that has the name of one of ours should say what ours says."""
    path = cfg_folder() / "ctc" / f"{claims.condition.name}.yaml"
    if not path.is_file():
        text = f"no condition {claims.condition.name} is installed here to compare with"
        yield Finding("config", NOT_APPLICABLE, text, claims.name)
        return
    bundled = load_condition(path)
    keys = (*KEYS, *(bundled.codec_keys | claims.condition.codec_keys))
    keys = tuple(key for key in keys if key != "overrides")  # words about the others
    differing = [k for k in keys if bundled.value(k) != claims.condition.value(k)]
    if differing:
        text = f"condition {bundled.name} says otherwise here: {', '.join(differing)}"
        yield Finding("config", REMARK, text, claims.name)


def finding(
    step: str, problems: list[str], text: str, run: str = "", rate_point: str = ""
) -> Finding:
    """One finding: the problems, the first three in full, or the text where there are none."""
    more = f"; {len(problems) - 3} more" if len(problems) > 3 else ""
    status = FAILED if problems else OK
    return Finding(step, status, "; ".join(problems[:3]) + more or text, run, rate_point)


def shown(point: str) -> str:
    """Findings about the uncompressed pictures are about the whole run."""
    return "" if point == UNCOMPRESSED else point
