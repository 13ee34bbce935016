# SPDX-License-Identifier: BSD-3-Clause
"""The test: for every picture and rate point encode, store, decode, judge and record."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcm_plugin import environment
from vcm_plugin.conditions import TestCondition, write_condition
from vcm_plugin.ctc.codecs import codec_rate_points
from vcm_plugin.ctc.coding import KINDS
from vcm_plugin.ctc.picture_worker import Plan
from vcm_plugin.ctc.results import FORMAT, UNCOMPRESSED, VERSION, Journal, claim
from vcm_plugin.ctc.sequence_worker import worker_class
from vcm_plugin.ctc.workers import Workers
from vcm_plugin.errors import InputError
from vcm_plugin.files import locked, read_json, sha256_of, write_json
from vcm_plugin.testsets.open import open_test_set

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RunOptions:
    """How a test is run; of these, only the device and what keep_going leaves out show in results.

    data_root: where the relative paths of a condition start, in place of its own folder.
    keep_going: pass over unreadable pictures. check_expected: stop where the uncompressed accuracy
    is not the one that the condition states. overwrite: delete the results of another test.
    """

    jobs: int = 1
    device: str = "cpu"
    data_root: Path | None = None
    keep_going: bool = False
    check_expected: bool = True
    overwrite: bool = False
    feature_cache_bytes: int = 4 << 30


def run(
    condition: TestCondition,
    codec_name: str,
    folder: Path,
    options: RunOptions,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Run one codec over a test condition; returns what is now in folder/result.json.

    Only what is missing in the folder is done. progress(stage, done, total) is called as pictures
    are finished. Raises InputError where the condition, the data or the folder do not allow a run.
    """
    started = time.perf_counter()
    try:
        plan = Plan(
            condition,
            codec_name,
            folder,
            open_test_set(condition, options.data_root),
            options.device,
            options.keep_going,
            options.feature_cache_bytes,
        )
        worker = worker_class(plan.dataset)
        with locked(folder), Workers(options.jobs, worker, plan) as workers:
            test = _Test(plan, options, workers, progress)
            result = test.run()
            wall = {"wall_seconds": time.perf_counter() - started}
            costs = {"complexity": test.complexity(result["skipped"])}
            write_json(folder / "timings.json", wall | costs | test.timings())
            return result
    except OSError as error:
        raise InputError(
            f"{error.filename or folder}: {error.strerror}; make room or give another folder, then "
            "repeat the same command: nothing that was finished is lost"
        ) from error


class _Test:
    """One run: identify, measure uncompressed, compare with what is expected, code, evaluate."""

    def __init__(self, plan: Plan, options: RunOptions, workers: Workers, progress: Progress):
        self.plan, self.options, self.workers, self.progress = plan, options, workers, progress
        self.points = codec_rate_points(plan.codec_name, plan.condition)
        self.evaluations: dict[str, float] = {}  # seconds

    def run(self) -> dict[str, Any]:
        plan = self.plan
        (identity,) = self.workers.run("identify", [()])
        files = {"files_sha256": plan.dataset.files_sha256()}
        claim(plan.folder, identity | files, self.options.overwrite)
        write_condition(plan.condition, plan.folder)
        write_json(plan.folder / "ground_truth.json", plan.dataset.coco)
        skipped = self._measure()
        points = self._evaluate([UNCOMPRESSED], skipped)
        expected = self._check_expected(points[UNCOMPRESSED]["accuracy"])
        self._code(skipped, KINDS[identity["codec"]["kind"]].suffix)
        points |= self._evaluate(self.points, skipped)
        result = self._result(identity, skipped, expected, points)
        write_json(plan.folder / "result.json", result)
        return result

    def _measure(self) -> dict[int, str]:
        """Measure what the uncompressed point lacks; returns the unreadable pictures by id."""
        entries, skipped = self.plan.dataset.entries, {}
        journal = Journal(self.plan.folder / UNCOMPRESSED)
        todo = [(entry,) for entry in entries if entry.image_id not in journal.records]
        done = len(entries) - len(todo)
        if todo:
            journal.reopen()
        for record in self._counted(UNCOMPRESSED, "measure", todo, done, len(entries)):
            if "unreadable" in record:
                skipped[record["image_id"]] = record["unreadable"]
            else:
                journal.append(record)
        if len(skipped) == len(entries):
            raise InputError(f"none of the {len(entries)} pictures is readable: nothing to test")
        return skipped

    def _code(self, skipped: dict[int, str], suffix: str) -> None:
        """Code what the rate points lack, picture by picture."""
        entries = self._entries(skipped)
        journals = {point: Journal(self.plan.folder / point) for point in self.points}
        todo = []
        # Backwards: the features cached last are still there where the cache is too small for all.
        for entry in reversed(entries):
            lacking = [
                p for p, journal in journals.items() if not journal.has(entry.image_id, suffix)
            ]
            if lacking:
                todo.append((entry, lacking))
        for point in {point for _, lacking in todo for point in lacking}:
            journals[point].reopen()
        total = len(entries) * len(self.points)
        done = total - sum(len(lacking) for _, lacking in todo)
        for point, record in self._counted("rate points", "code", todo, done, total):
            journals[point].append(record)

    def _evaluate(self, points: list[str], skipped: dict[int, str]) -> dict[str, dict[str, Any]]:
        """The complete points by name, evaluated where that is still to be done."""
        files = {point: self.plan.folder / point / "point.json" for point in points}
        todo = [(point, list(skipped)) for point, file in files.items() if not file.is_file()]
        done, stage = len(points) - len(todo), "evaluation"
        for evaluated in self._counted(stage, "evaluate", todo, done, len(points)):
            point, measured, seconds = evaluated
            self.evaluations[point] = seconds
            write_json(files[point], self._point(point, measured, skipped))
        return {point: read_json(file) for point, file in files.items()}

    def _counted(
        self, stage: str, method: str, todo: list[tuple], done: int, total: int
    ) -> Iterator[Any]:
        """What the workers yield, each counted as progress."""
        self.progress(stage, done, total)
        for value in self.workers.run(method, todo):
            done += 1
            self.progress(stage, done, total)
            yield value

    def _entries(self, skipped: dict[int, str]) -> list:
        """The pictures or sequences that are readable."""
        return [e for e in self.plan.dataset.entries if e.image_id not in skipped]

    def _point(self, point: str, measured: dict[str, Any], skipped: dict[int, str]) -> dict:
        """One entry of `points` in result.json; the uncompressed one has no bits."""
        if point == UNCOMPRESSED:
            return measured
        entries = self._entries(skipped)
        records = Journal(self.plan.folder / point).records
        coded = [records[entry.image_id] for entry in entries]
        image_ids = [image_id for entry in entries for image_id in entry.image_ids]
        bits = [bits for record in coded for bits in record.get("frame_bits", [record["bits"]])]
        return {
            "rate_point": point,
            "bits": sum(bits),
            "pixels": sum(entry.pixels for entry in entries),
            "pictures": len(image_ids),
            **measured,
            "per_picture": {"image_id": image_ids, "bits": bits},
        }

    def _check_expected(self, accuracy: dict[str, float]) -> dict[str, Any]:
        """The expected uncompressed accuracy; raises InputError where another was measured."""
        condition = self.plan.condition
        expected = condition.expected()
        if not expected:
            return {"checked": False, "reason": "the test condition states none for this test"}
        tolerance = condition.require("expected_tolerance")
        stated = {**expected, "tolerance": tolerance}
        if not self.options.check_expected:
            return {**stated, "checked": False, "reason": "--no-expected"}
        for name, value in expected.items():
            if abs(accuracy[name] - value) > tolerance:
                raise InputError(
                    f"uncompressed {name} of {condition.name}: expected {value:.2f} +- {tolerance},"
                    f" found {accuracy[name]:.2f}; check the weights, the runtime and the pictures,"
                    " or go on without this check: --no-expected"
                )
        return {**stated, "checked": True}

    def _result(
        self, identity: dict, skipped: dict[int, str], expected: dict, points: dict
    ) -> dict:
        """The content of result.json: nothing in it depends on when or where the test ran."""
        plan = self.plan
        entries = self._entries(skipped)
        records = Journal(plan.folder / UNCOMPRESSED).records
        pictures = [[e.image_id, records[e.image_id]["picture_sha256"]] for e in entries]
        digest = sha256_of([pictures, plan.dataset.without(skipped).coco])
        return {
            "format": FORMAT,
            "version": VERSION,
            "key": sha256_of([identity, digest, self.points]),
            "condition": plan.condition.name,
            "codec": plan.codec_name,
            "codec_identity": identity["codec"],
            "model_identity": identity["model"],
            "test": identity["test"],
            "environment": {**identity["environment"], "commit": environment.commit()},
            "dataset": {
                "name": plan.condition.dataset_name(),
                "pictures": sum(len(entry.image_ids) for entry in entries),
                "pixels": sum(entry.pixels for entry in entries),
                "sha256": digest,
                **self._sequences(),
            },
            "skipped": [{"image_id": i, "file_name": name} for i, name in sorted(skipped.items())],
            "uncompressed": points[UNCOMPRESSED],
            "expected": expected,
            "points": [points[point] for point in self.points],
        }

    def _sequences(self) -> dict[str, list]:
        """Name, class, frames and frame rate of each sequence; nothing for a set of pictures."""
        sequences = self.plan.dataset.sequences
        described = [
            {"name": s.name, "class": s.group, "frames": len(s.frames), "rate": list(s.frame_rate)}
            for s in sequences
        ]
        return {"sequences": described} if sequences else {}

    def complexity(self, skipped: list[dict]) -> dict[str, Any] | None:
        """What the codec costs on the first picture at the last rate point, which takes an encoder
        the least time; measured once, not for sequences."""
        if self.plan.dataset.sequences:
            return None
        path = self.plan.folder / "timings.json"
        known = read_json(path).get("complexity") if path.is_file() else None
        if known:
            return known
        (entry, *_) = self.plan.dataset.without({s["image_id"] for s in skipped}).pictures
        (found,) = self.workers.run("complexity", [(entry, self.points[-1])])
        return found

    def timings(self) -> dict[str, Any]:
        """Seconds of each stage and point: the sum and the median of the pictures."""
        seconds = {}
        for point in [UNCOMPRESSED, *self.points]:
            stages: dict[str, list[float]] = defaultdict(list)
            for record in Journal(self.plan.folder / point).records.values():
                for stage, value in record["seconds"].items():
                    stages[stage].append(value)
            seconds[point] = {
                stage: {"sum": sum(values), "median": statistics.median(values)}
                for stage, values in stages.items()
            }
            if point in self.evaluations:
                seconds[point]["evaluation"] = {"sum": self.evaluations[point]}
        return {"jobs": self.options.jobs, "points": seconds}
