# SPDX-License-Identifier: BSD-3-Clause
"""Is one run of a package true? Its claims, then what this machine decodes, step by step."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from vcm_plugin.conditions import TestCondition
from vcm_plugin.crosscheck import claims as claimed_by
from vcm_plugin.crosscheck.claims import Claims
from vcm_plugin.crosscheck.compare import Decoded, bits_of, compare_point
from vcm_plugin.crosscheck.decoding import Decoder, DecodingPlan, EncodedAgain, NotDecoded
from vcm_plugin.crosscheck.findings import (
    FAILED,
    NOT_ASKED,
    OK,
    REMARK,
    SKIPPED,
    CrossCheck,
    Finding,
    differences,
)
from vcm_plugin.crosscheck.human import check_human_vision
from vcm_plugin.crosscheck.package import Limits, Package
from vcm_plugin.crosscheck.weights import check_weights_ids, with_weights
from vcm_plugin.ctc.plan import Plan
from vcm_plugin.ctc.results import UNCOMPRESSED, PointResult, Record
from vcm_plugin.ctc.workers import Workers
from vcm_plugin.errors import InputError
from vcm_plugin.testsets.coco import CocoDataset
from vcm_plugin.testsets.open import open_test_set

Progress = Callable[[str, int, int], None]
# Versions do not decide about decoding: another encoder or runtime is no difference of the codec.
VERSIONS = ("encoder", "ffmpeg", "command", "runtime")


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """How a package is checked. weights: files and folders that are not bundled, known by their
    sha256."""

    weights: tuple[Path, ...] = ()
    data_root: Path | None = None
    encode: bool = False
    threads: int | None = None  # None: as the condition says
    jobs: int = 1
    device: str = "cpu"


class RunCheck:
    """The check of one run of a package, step by step."""

    def __init__(
        self,
        claims: Claims,
        package: Package,
        options: CheckOptions,
        limits: Limits,
        check: CrossCheck,
        progress: Progress,
    ):
        self.claims, self.package, self.options = claims, package, options
        self.limits, self.check, self.progress = limits, check, progress

    def run(self) -> dict[str, PointResult]:
        """Rate point -> its bits and accuracy as found here, where it could be decoded."""
        claims, check = self.claims, self.check
        try:
            _check_model(claims)
            weights = self.package.manifest["weights"].get(claims.name, {})
            check.add(claimed_by.check_config(claims, weights))
            files = list(claimed_by.check_files(claims))
            check.add(files)
            check.add(check_weights_ids(claims))
            broken = {finding.rate_point for finding in files if finding.status == FAILED}
            whole = [point for point in claims.points if point not in broken]
            if "" not in broken:  # "": the uncompressed pictures
                check.add(claimed_by.check_digest(claims))
                for done, point in enumerate((UNCOMPRESSED, *whole), start=1):
                    check.add(claimed_by.check_accuracy(claims, [point]))
                    self.progress(f"{claims.name}: claims", done, 1 + len(whole))
                check.add(check_human_vision(claims, whole))
        except (KeyError, TypeError, InputError) as error:
            reason = f"the claims cannot be read: {error}".replace(f"{self.package.folder}/", "")
            check.add([Finding("config", FAILED, reason, claims.name)])
            return {}
        condition = with_weights(claims, self.options.weights)
        if isinstance(condition, Finding):
            check.add([condition])
        if isinstance(condition, Finding) or not whole or "" in broken:
            self._skip("features", "nothing could be decoded here")
            return {}
        return self._decode(condition, whole)

    def _decode(self, condition: TestCondition, points: list[str]) -> dict[str, PointResult]:
        claims, check, options = self.claims, self.check, self.options
        dataset = self._dataset(condition)
        threads = options.threads or condition.threads_per_job
        check.threads = threads
        condition = dataclasses.replace(condition, threads_per_job=threads)
        tested = dataset or claims.dataset
        run = Plan(condition, claims.name, claims.folder, tested, options.device)
        plan = DecodingPlan(run, with_sources=dataset is not None)
        with Workers(options.jobs, Decoder, plan) as workers:
            (identity,) = workers.run("identify", [()])
            check.environment = identity["environment"]
            if not check.add(self._check_identity(identity)):
                return {}
            decoded = self._decoded(workers, points, dataset is not None)
            sources = decoded[UNCOMPRESSED]
            for done, point in enumerate((UNCOMPRESSED, *points), start=1):
                here = decoded[point]
                check.add(compare_point(claims, point, here, sources, self.limits, check.points))
                self.progress(f"{claims.name}: compare", done, 1 + len(points))
            if dataset is not None:
                check.add(self._check_pictures(sources))
            check.add(self._encode_again(workers, points, dataset))
        return {
            point: dataclasses.replace(
                claims.points[point],
                accuracy=claimed_by.accuracy_of(claims, decoded[point]),
                bits=bits_of(claims, point),
            )
            for point in points
            if all(_is_judged(record) for record in decoded[point].values())
        }

    def _dataset(self, condition: TestCondition) -> CocoDataset | None:
        """The test set here, where it is here and has the ground truth that is claimed."""
        name = self.claims.name
        try:
            dataset = open_test_set(condition, self.options.data_root)
        except InputError as error:
            reason = str(error).replace("\n", " ").replace(f"{self.claims.folder}/", "")
            text = f"the test set is not here, give --data-root: {reason}"
            self.check.add([Finding("data", SKIPPED, text, name)])
            return None
        if json.loads(json.dumps(dataset.coco)) != self.claims.truth:
            text = "the ground truth of the package is not that of the test set here"
            self.check.add([Finding("data", FAILED, text, name)])
            return None
        stated = self.claims.result.dataset
        claimed = {"cut_from": stated.cut_from, "passed_over": stated.passed_over}
        here = {"cut_from": dataset.cut_from(), "passed_over": dataset.passed_over or None}
        pairs = differences(claimed, here)
        problems = [f"{key} is claimed as {value} and is {own} here" for key, value, own in pairs]
        self.check.add(
            [claimed_by.finding("data", problems, "the test set is as whole here", name)]
        )
        return dataset

    def _check_identity(self, identity: Mapping[str, Any]) -> Iterator[Finding]:
        result, differing = self.claims.result, {}
        for what, claimed in (("model", result.model_identity), ("codec", result.codec_identity)):
            pairs = differences(claimed, identity[what], what)
            differing |= {key: (value, here) for key, value, here in pairs}
        odd = {k: v for k, v in differing.items() if k.rpartition(".")[2] not in VERSIONS}
        if odd:
            text = "; ".join(f"{k} is claimed as {a} and is {b} here" for k, (a, b) in odd.items())
            yield Finding("config", FAILED, text, self.claims.name)
            return
        versions = ", ".join(f"{k.rpartition('.')[2]} {b}" for k, (_, b) in differing.items())
        text = "codec and detector here are the claimed ones"
        text += f"; other versions here: {versions}" if versions else ""
        yield Finding("config", OK, text[:600], self.claims.name)

    def _decoded(
        self, workers: Workers, points: list[str], with_pictures: bool
    ) -> dict[str, Decoded]:
        claims = self.claims
        ids, decoded = claims.entry_ids, defaultdict(dict)
        todo = [(point, image_id) for point in points for image_id in ids]
        calls = [("decode", todo)]
        if with_pictures:
            calls.insert(0, ("measure", [(image_id,) for image_id in ids]))
        done, total = 0, sum(len(arguments) for _, arguments in calls)
        for method, arguments in calls:
            for point, image_id, record in workers.run(method, arguments):
                decoded[point][image_id] = record
                done += 1
                self.progress(f"{claims.name}: decode", done, total)
        return decoded

    def _check_pictures(self, sources: Mapping[int, Record]) -> Iterator[Finding]:
        records = self.claims.records[UNCOMPRESSED]
        odd = [
            str(image_id)
            for image_id, record in sources.items()
            if record.picture_sha256 != records[image_id].picture_sha256
        ]
        what = "sequences" if self.claims.dataset.sequences else "pictures"
        text = f"{len(sources)} {what} here are those of the run"
        if odd:
            text = f"{what[:-1]} {', '.join(odd[:5])} here is another one than that of the run"
        yield Finding("data", FAILED if odd else OK, text, self.claims.name)

    def _encode_again(
        self, workers: Workers, points: list[str], dataset: CocoDataset | None
    ) -> Iterator[Finding]:
        claims, name = self.claims, self.claims.name
        if not self.options.encode:
            yield Finding("encoding", NOT_ASKED, "--encode encodes every picture again", name)
            return
        if dataset is None:
            yield Finding("encoding", SKIPPED, "the pictures are not here", name)
            return
        encoded: dict[str, list[EncodedAgain]] = defaultdict(list)
        done = 0
        total = len(claims.entry_ids) * len(points)
        todo = [(image_id, points) for image_id in claims.entry_ids]
        for point, _, again in workers.run("encode", todo):
            encoded[point].append(again)
            done += 1
            self.progress(f"{name}: encode", done, total)
        for point, files in encoded.items():
            same = sum(file.identical for file in files)
            change = 100 * (sum(file.bits for file in files) / claims.points[point].bits - 1)
            text = f"{same} of {len(files)} files identical, {change:+.4f} % bits"
            status = OK if same == len(files) else REMARK
            if abs(change) > self.limits.encoded_size_percent:
                status = FAILED
            yield Finding("encoding", status, text, name, point)

    def _skip(self, step: str, text: str) -> None:
        self.check.add([Finding(step, SKIPPED, text, self.claims.name)])


def _is_judged(decoded: Record | NotDecoded) -> bool:
    return isinstance(decoded, Record) and decoded.predictions is not None


def _check_model(claims: Claims) -> None:
    """Raise InputError for a detector configuration that a reader could be made to run."""
    path = claims.folder / "model.yaml"
    if not path.is_file():
        return
    try:
        model = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"model.yaml: expected plain YAML, found: {reason}") from error
    if not isinstance(model, dict) or "_BASE_" in model:
        raise InputError("model.yaml: expected a whole configuration, without _BASE_")
