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
from vcm_plugin.crosscheck.decoding import (
    Decoder,
    DecodingPlan,
    feature_deviation,
    unmatched,
    weights_ids,
)
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
from vcm_plugin.datasets import CocoDataset, open_dataset
from vcm_plugin.environment import sha256_of_file
from vcm_plugin.errors import InputError
from vcm_plugin.package import Limits, Package
from vcm_plugin.results import UNCOMPRESSED, bitstream_path
from vcm_plugin.tables import AP_METRICS
from vcm_plugin.workers import Workers

Progress = Callable[[str, int, int], None]
# Versions do not decide about decoding: another encoder or runtime is no difference of the codec.
VERSIONS = ("encoder", "ffmpeg", "command", "runtime")
WEIGHTS_KEYS = {"diff_fchm": "diff_fchm_weights", "msfc": "msfc_weights"}


@dataclasses.dataclass(frozen=True)
class CheckOptions:
    """How a package is checked. weights: files that are not bundled, known by their sha256."""

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

    def run(self) -> dict[str, dict[str, Any]]:
        """Point -> what was found here (accuracy, bits) where it could be decoded."""
        claims, check = self.claims, self.check
        try:
            _check_model(claims)
            weights = self.package.manifest["weights"].get(claims.name, {})
            check.add(claimed_by.check_config(claims, weights))
            files = list(claimed_by.check_files(claims))
            check.add(files)
            check.add(self._check_weights_ids())
            broken = {finding.rate_point for finding in files if finding.status == FAILED}
            whole = [point for point in claims.points if point not in broken]
            if "" not in broken:  # "": the uncompressed pictures
                check.add(claimed_by.check_digest(claims))
                check.add(claimed_by.check_accuracy(claims, [UNCOMPRESSED, *whole]))
        except (KeyError, TypeError, InputError) as error:
            reason = f"the claims cannot be read: {error}".replace(f"{self.package.folder}/", "")
            check.add([Finding("config", FAILED, reason, claims.name)])
            return {}
        condition = self._with_weights()
        if condition is None or not whole or "" in broken:
            self._skip("features", "nothing could be decoded here")
            return {}
        return self._decode(condition, whole)

    def _with_weights(self) -> TestCondition | None:
        """The condition with weights that have the claimed sha256; None where they are not here."""
        claims, condition = self.claims, self.claims.condition
        wanted = {"weights": claims.result["model_identity"].get("weights_sha256")}
        if claims.name in WEIGHTS_KEYS:
            codec = claims.result["codec_identity"].get("weights_sha256")
            wanted[WEIGHTS_KEYS[claims.name]] = codec
        given = {sha256_of_file(path): path for path in self.options.weights}
        for key, sha256 in wanted.items():
            name = getattr(condition, key)
            path = given.get(sha256) or Path(condition.bundled_path(name or ""))
            if not path.is_file():
                text = f"{key}: no file with the sha256 {sha256}: give it with --weights"
                self.check.add([Finding("config", SKIPPED, text, claims.name)])
                return None
            if sha256_of_file(path) != sha256:
                text = (
                    f"{key}: {name} has the sha256 {sha256_of_file(path)} here, claimed is {sha256}"
                )
                self.check.add([Finding("config", FAILED, text, claims.name)])
                return None
            condition = dataclasses.replace(condition, **{key: str(path.absolute())})
        return condition

    def _decode(self, condition: TestCondition, points: list[str]) -> dict[str, dict[str, Any]]:
        claims, check, options = self.claims, self.check, self.options
        dataset = self._dataset(condition)
        ids = {item["name"].strip().lower(): item["id"] for item in claims.truth["categories"]}
        plan = DecodingPlan(
            condition,
            claims.name,
            claims.folder,
            tuple(ids.get(name.strip().lower()) for name in condition.class_names),
            options.threads or condition.threads_per_job,
            options.device,
            dataset,
        )
        with Workers(options.jobs, Decoder, plan) as workers:
            (identity,) = workers.run("identify", [()])
            check.environment = identity["environment"]
            if not check.add(self._check_identity(identity)):
                return {}
            found = self._decoded(workers, points, dataset is not None)
            for point in (UNCOMPRESSED, *points):
                check.add(self._compare(point, found[point]))
            if dataset is not None:
                check.add(self._check_pictures(found[UNCOMPRESSED]))
            if any("human_vision" in stored for stored in claims.result["points"]):
                self._skip("accuracy", "the claimed measures of human vision are not computed here")
            check.add(self._encode_again(workers, points, dataset))
        return {point: self._measured(point, records) for point, records in found.items()}

    def _dataset(self, condition: TestCondition) -> CocoDataset | None:
        """The test set here, where it is here and has the ground truth that is claimed."""
        name = self.claims.name
        try:
            dataset = open_dataset(condition, self.options.data_root)
        except InputError as error:
            text = f"the test set is not here, give --data-root: {error}"
            self.check.add([Finding("data", SKIPPED, text.replace("\n", " "), name)])
            return None
        if json.loads(json.dumps(dataset.coco)) != self.claims.truth:
            text = "the ground truth of the package is not that of the test set here"
            self.check.add([Finding("data", FAILED, text, name)])
            return None
        return dataset

    def _check_identity(self, identity: Mapping[str, Any]) -> Iterator[Finding]:
        result, found = self.claims.result, {}
        for what, theirs in (("model", "model_identity"), ("codec", "codec_identity")):
            pairs = differences(result[theirs], identity[what], what)
            found |= {key: (claimed, here) for key, claimed, here in pairs}
        odd = {k: v for k, v in found.items() if k.rpartition(".")[2] not in VERSIONS}
        if odd:
            text = "; ".join(f"{k} is claimed as {a} and is {b} here" for k, (a, b) in odd.items())
            yield Finding("config", FAILED, text, self.claims.name)
            return
        versions = ", ".join(f"{k.rpartition('.')[2]} {b}" for k, (_, b) in found.items())
        text = "codec and detector here are the claimed ones"
        text += f"; other versions here: {versions}" if versions else ""
        yield Finding("config", OK, text[:600], self.claims.name)

    def _check_weights_ids(self) -> Iterator[Finding]:
        """The headers of the bitstreams name the weights that are claimed."""
        claims = self.claims
        sha256 = claims.result["codec_identity"].get("weights_sha256")
        if sha256 is None:
            return
        odd: dict[int, str] = {}
        for point in claims.points:
            for image_id in claims.image_ids:
                path = bitstream_path(claims.folder / point, image_id, "feature")
                try:
                    found = weights_ids(path.read_bytes()) if path.is_file() else set()
                except InputError:
                    continue  # the step that decodes says what is wrong with it
                odd |= {weights_id: f"{point}/{image_id}" for weights_id in found}
        odd.pop(int(sha256[:8], 16), None)
        for weights_id, where in odd.items():
            text = f"bitstream {where} was made with the weights {weights_id:08x}, claimed are "
            yield Finding("config", FAILED, text + sha256[:8], claims.name)

    def _decoded(
        self, workers: Workers, points: list[str], with_pictures: bool
    ) -> dict[str, dict[int, dict]]:
        claims = self.claims
        ids, found = claims.image_ids, defaultdict(dict)
        todo = [(point, image_id) for point in points for image_id in ids]
        calls = [("decode", todo)]
        if with_pictures:
            calls.insert(0, ("measure", [(image_id,) for image_id in ids]))
        done, total = 0, sum(len(arguments) for _, arguments in calls)
        for method, arguments in calls:
            for point, image_id, record in workers.run(method, arguments):
                found[point][image_id] = record
                done += 1
                self.progress(f"{claims.name}: decode", done, total)
        return found

    def _compare(self, point: str, found: Mapping[int, Mapping]) -> Iterator[Finding]:
        """Features, predictions and accuracy of one point against what is claimed."""
        claims, limits = self.claims, self.limits
        name, shown = claims.name, "" if point == UNCOMPRESSED else point
        if not found:  # the uncompressed pictures are not here
            yield Finding("predictions", SKIPPED, "uncompressed pictures not measured", name)
            return
        errors = [record["error"] for record in found.values() if "error" in record]
        if errors:
            text = f"{len(errors)} of {len(found)} do not decode: {errors[0]}"
            yield Finding("bitstreams", FAILED, text.replace("\n", " "), name, shown)
            return
        row: dict[str, Any] = {"run": name, "rate_point": point}
        if point != UNCOMPRESSED:
            text = f"{len(found)} bitstreams decode to their checksums"
            yield Finding("bitstreams", OK, text, name, shown)
            row |= {"bits": claims.points[point]["bits"], "found_bits": self._bits(point)}
            yield self._compare_features(point, found, row)
        counts = {}
        for image_id, record in found.items():
            theirs = claims.records[point][image_id]["predictions"]
            counts[image_id] = unmatched(theirs, record["predictions"], limits)
        lost, total = (sum(pair[k] for pair in counts.values()) for k in (0, 1))
        row["unmatched_percent"] = percent = 100 * lost / total if total else 0.0
        odd = [
            image_id
            for image_id, (alone, both) in counts.items()
            if both and alone > 2 and 100 * alone / both > limits.unmatched_percent_of_picture
        ]
        text = f"{lost} of {total} detections have no counterpart ({percent:.3f} %)"
        if odd:
            text += f"; picture {odd[0]} is the worst of {len(odd)} beyond the limit"
        good = percent <= limits.unmatched_percent and not odd
        yield Finding("predictions", OK if good else FAILED, text, name, shown)
        yield self._compare_accuracy(point, found, row)
        self.check.points.append(row)

    def _compare_features(self, point: str, found: Mapping, row: dict) -> Finding:
        records, limit = self.claims.records[point], self.limits.feature_deviation
        if any("features" not in records[image_id] for image_id in found):
            text = "the package claims no statistics of the decoded features"
            return Finding("features", SKIPPED, text, self.claims.name, point)
        deviations = {
            image_id: feature_deviation(records[image_id]["features"], record["features"])
            for image_id, record in found.items()
        }
        worst = max(deviations, key=deviations.__getitem__)
        row["feature_deviation"] = deviations[worst]
        text = f"largest deviation {deviations[worst]:.2e} of a layer's spread (picture {worst})"
        status = OK if deviations[worst] <= limit else FAILED
        return Finding("features", status, text, self.claims.name, point)

    def _compare_accuracy(self, point: str, found: Mapping, row: dict) -> Finding:
        claims = self.claims
        holder = claims.result if point == UNCOMPRESSED else claims.points
        claimed, ours = holder[point]["accuracy"], claimed_by.accuracy_of(claims, found)
        row["accuracy"] = {
            key: {
                "claimed": claimed[key],
                "found": ours[key],
                "difference": ours[key] - claimed[key],
            }
            for key in AP_METRICS
            if key in claimed and key in ours
        }
        worst = max((abs(pair["difference"]) for pair in row["accuracy"].values()), default=0.0)
        text = f"accuracy found here differs by at most {worst:.4f} points"
        status = OK if worst <= self.limits.accuracy_points else FAILED
        shown = "" if point == UNCOMPRESSED else point
        return Finding("accuracy", status, text, claims.name, shown)

    def _check_pictures(self, found: Mapping[int, Mapping]) -> Iterator[Finding]:
        records = self.claims.records[UNCOMPRESSED]
        odd = [
            str(image_id)
            for image_id, record in found.items()
            if record["picture_sha256"] != records[image_id].get("picture_sha256")
        ]
        text = f"{len(found)} pictures here are those of the run"
        if odd:
            text = f"picture {', '.join(odd[:5])} here is another one than that of the run"
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
        found, done = defaultdict(dict), 0
        total = len(claims.image_ids) * len(points)
        todo = [(image_id, points) for image_id in claims.image_ids]
        for point, image_id, record in workers.run("encode", todo):
            found[point][image_id] = record
            done += 1
            self.progress(f"{name}: encode", done, total)
        for point, records in found.items():
            same = sum(record["identical"] for record in records.values())
            bits = sum(record["bits"] for record in records.values())
            change = 100 * (bits / claims.points[point]["bits"] - 1)
            text = f"{same} of {len(records)} files identical, {change:+.4f} % bits"
            status = OK if same == len(records) else REMARK
            if abs(change) > self.limits.encoded_size_percent:
                status = FAILED
            yield Finding("encoding", status, text, name, point)

    def _bits(self, point: str) -> int:
        kind = self.claims.result["codec_identity"]["kind"]
        files = (bitstream_path(self.claims.folder / point, i, kind) for i in self.claims.image_ids)
        return sum(8 * file.stat().st_size for file in files)

    def _measured(self, point: str, records: Mapping[int, Mapping]) -> dict[str, Any]:
        if any("error" in record for record in records.values()):
            return {}
        measured: dict[str, Any] = {"accuracy": claimed_by.accuracy_of(self.claims, records)}
        return measured if point == UNCOMPRESSED else {**measured, "bits": self._bits(point)}

    def _skip(self, step: str, text: str) -> None:
        self.check.add([Finding(step, SKIPPED, text, self.claims.name)])


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
