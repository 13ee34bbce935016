# SPDX-License-Identifier: BSD-3-Clause
"""The test: for every picture and rate point encode, store, decode, judge and record."""

from __future__ import annotations

import errno
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vcm_plugin import environment
from vcm_plugin.conditions import TestCondition, write_condition
from vcm_plugin.ctc.codecs import codec_rate_points, settings_class
from vcm_plugin.ctc.coding import KINDS
from vcm_plugin.ctc.machine import SessionLog
from vcm_plugin.ctc.plan import Plan, make_worker
from vcm_plugin.ctc.results import (
    UNCOMPRESSED,
    Complexity,
    DatasetSummary,
    Evaluation,
    PictureBits,
    PointResult,
    RunResult,
    SequenceSummary,
    Skipped,
    StageSeconds,
    TestSettings,
    Timings,
    load_timings,
)
from vcm_plugin.ctc.run_folder import (
    Journal,
    adopt_shards,
    claim,
    read_seconds,
    shard_folder,
)
from vcm_plugin.ctc.typed_json import from_json, to_json
from vcm_plugin.ctc.workers import Call, Workers, import_beforehand
from vcm_plugin.errors import InputError
from vcm_plugin.files import locked, read_json, sha256_of, write_json
from vcm_plugin.testsets.open import open_test_set
from vcm_plugin.vvc.vvenc import TOGETHER

# Of the pictures of a unit of work: larger ones gain nothing by sharing processes, and a run that
# is killed loses its units.
TOGETHER_PIXELS = 1 << 19
UNITS_EACH = 8  # units that each worker gets at least, where there are so many pictures
Progress = Callable[[str, int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class RunOptions:
    """How a test is run; of these, only the device and what keep_going leaves out show in results.

    data_root: where the relative paths of a condition start, in place of its own folder.
    keep_going: pass over unreadable pictures. check_expected: stop where the uncompressed accuracy
    is not the one that the condition states. overwrite: delete the results of another test.
    cluster: of Dask, in place of jobs (cluster.py). shard: (K, N), code the K-th of N shares of the
    pictures or sequences and no more; a run without it takes up what shards have left.
    """

    jobs: int = 1
    cluster: str | None = None
    shard: tuple[int, int] | None = None
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
    notice: Callable[[str], None] = lambda line: None,
) -> RunResult | None:
    """Run one codec over a test condition; returns what is now in folder/result.json, or None
    after a shard.

    Only what is missing in the folder is done. progress(stage, done, total) is called as pictures
    are finished, notice(line) with what a user should know. Raises InputError where the condition,
    the data or the folder do not allow a run.
    """
    started = time.perf_counter()
    if options.cluster is None and options.jobs > 1:
        import_beforehand()
    if options.cluster is not None:
        folder = folder.absolute()  # workers start somewhere else
    if options.shard:
        folder = shard_folder(folder, options.shard)
    try:
        dataset = open_test_set(condition, options.data_root)
        plan = Plan(
            condition, codec_name, folder, dataset, options.device, options.keep_going,
            options.feature_cache_bytes,
        )  # fmt: skip
        threads, elsewhere = condition.threads_per_job, options.cluster is not None
        with (
            locked(folder),
            SessionLog(folder, options.jobs, threads, elsewhere) as log,
            Workers(options.jobs, make_worker, plan, options.cluster, notice) as workers,
        ):
            if workers.dashboard:
                notice(f"dashboard of the cluster: {workers.dashboard}")
            test = _Test(plan, options, workers, progress, log)
            result = test.run()
            if result is None:
                return None
            wall_seconds = time.perf_counter() - started
            timings = Timings(wall_seconds, test.complexity, options.jobs, test.seconds())
            write_json(folder / "timings.json", to_json(timings))
            return result
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        repair = "make room" if full else "give a folder and names that can be written"
        raise InputError(
            f"{str(error.filename or folder)[-200:]}: {error.strerror}; {repair}, then repeat the "
            "same command: nothing that was finished is lost"
        ) from error


class _Test:
    """One run: identify, measure uncompressed, compare with what is expected, code, evaluate."""

    def __init__(
        self,
        plan: Plan,
        options: RunOptions,
        workers: Workers,
        progress: Progress,
        log: SessionLog,
    ):
        self.plan, self.options, self.workers, self.progress = plan, options, workers, progress
        self.log = log
        self.points = codec_rate_points(plan.codec_name, plan.condition)
        self.evaluations: dict[str, float] = {}  # seconds
        self.complexity: Complexity | None = None

    def run(self) -> RunResult | None:
        plan = self.plan
        (identity,) = self.workers.run("identify", [()])
        files = {"files_sha256": plan.dataset.files_sha256()}
        claim(plan.folder, identity | files, self.options.overwrite, len(plan.dataset.pictures))
        suffix = KINDS[identity["codec"]["kind"]].suffix
        if self.options.shard:
            self._code(self._measure(), suffix)
            return None
        adopt_shards(plan.folder, (UNCOMPRESSED, *self.points))
        write_condition(plan.condition, plan.folder)
        write_json(plan.folder / "ground_truth.json", plan.dataset.coco)
        skipped = self._measure()
        self._evaluate([UNCOMPRESSED], skipped)
        uncompressed = self._read_point(UNCOMPRESSED, Evaluation)
        expected = self._check_expected(uncompressed.accuracy)
        self._code(skipped, suffix)
        self._evaluate(self.points, skipped)
        points = tuple(self._read_point(point, PointResult) for point in self.points)
        result = self._result(identity, skipped, expected, uncompressed, points)
        write_json(plan.folder / "result.json", result.to_json())
        return result

    def _measure(self) -> dict[int, str]:
        """Measure what the uncompressed point lacks; returns the unreadable pictures by id."""
        entries, skipped = self._entries({}), {}
        journal = Journal(self.plan.folder / UNCOMPRESSED)
        todo = [("measure", (entry,)) for entry in entries if entry.image_id not in journal.records]
        done = len(entries) - len(todo)
        if todo:
            journal.reopen()
        for record in self._counted(UNCOMPRESSED, todo, done, len(entries)):
            if isinstance(record, Skipped):
                skipped[record.image_id] = record.file_name
            else:
                journal.append(record)
        if len(skipped) == len(entries) and not self.options.shard:
            raise InputError(
                f"none of the {len(entries)} pictures is readable: repair them, or leave out "
                "--keep-going to see what is wrong with the first"
            )
        return skipped

    def _code(self, skipped: dict[int, str], suffix: str) -> None:
        """Code what the rate points lack, and measure the complexity beside it."""
        entries = self._entries(skipped)
        journals = {point: Journal(self.plan.folder / point) for point in self.points}
        lacking = []
        # Backwards: the features cached last are still there where the cache is too small for all.
        for entry in reversed(entries):
            points = [p for p, known in journals.items() if not known.has(entry.image_id, suffix)]
            lacking += [(entry, points)] if points else []
        todo = self._units(lacking)
        for point in {point for _, points in todo for point in points}:
            journals[point].reopen()
        total = len(entries) * len(self.points)
        done = total - sum(len(points) for _, points in lacking)
        calls = self._complexity(skipped) + [("code", unit) for unit in todo]
        for point, record in self._counted("rate points", calls, done, total):
            journals[point].append(record)

    def _units(self, lacking: list[tuple[Any, list[str]]]) -> list[tuple[list, list[str]]]:
        """The units of work of entries and the points that each lacks: one entry, or pictures of
        one size where the codec takes several together, so few that all workers end at a time."""
        if self.plan.dataset.sequences:  # a sequence is long, so each point is a unit
            return [([entry], [point]) for entry, points in lacking for point in points]
        most = 1
        if getattr(settings_class(self.plan.codec_name), "batches", False):
            most = len(lacking) // (UNITS_EACH * self.workers.processes)
        groups = defaultdict(list)
        for entry, points in lacking:  # a picture's points share its features
            groups[entry.height, entry.width, tuple(points)].append(entry)
        units = []
        for (height, width, points), entries in groups.items():
            size = max(1, min(most, TOGETHER, TOGETHER_PIXELS // (height * width)))
            units += [(entries[n : n + size], list(points)) for n in range(0, len(entries), size)]
        return units

    def _evaluate(self, points: list[str], skipped: dict[int, str]) -> None:
        """Write point.json of the points that lack it."""
        files = {point: self.plan.folder / point / "point.json" for point in points}
        todo = [point for point, file in files.items() if not file.is_file()]
        calls: list[Call] = [("evaluate", (point, list(skipped))) for point in todo]
        done, stage = len(points) - len(todo), "evaluation"
        for point, measured, seconds in self._counted(stage, calls, done, len(points)):
            self.evaluations[point] = seconds
            whole = self._point(point, measured, skipped) if point != UNCOMPRESSED else measured
            write_json(files[point], to_json(whole))

    def _read_point(self, point: str, kind: type[T]) -> T:
        path = self.plan.folder / point / "point.json"
        return from_json(kind, read_json(path), path)

    def _counted(self, stage: str, calls: list[Call], done: int, total: int) -> Iterator[Any]:
        """What the workers yield, each counted as progress but for a complexity, which is kept."""
        if calls:
            self.log.begin()
        self.progress(stage, done, total)
        for value in self.workers.calls(calls):
            if isinstance(value, Complexity):
                self.complexity = value
                continue
            done += 1
            self.progress(stage, done, total)
            yield value

    def _entries(self, skipped: dict[int, str]) -> list:
        """The pictures or sequences that are readable; of a shard, its share of them."""
        first, step = self.options.shard or (1, 1)
        entries = self.plan.dataset.entries[first - 1 :: step]
        return [entry for entry in entries if entry.image_id not in skipped]

    def _point(self, point: str, measured: Evaluation, skipped: dict[int, str]) -> PointResult:
        """What was measured of a rate point, with its bits."""
        entries = self._entries(skipped)
        records = Journal(self.plan.folder / point).records
        coded = [records[entry.image_id] for entry in entries]
        image_ids = [image_id for entry in entries for image_id in entry.image_ids]
        bits = [bits for record in coded for bits in record.frame_bits or (record.bits,)]
        return PointResult(
            rate_point=point,
            bits=sum(bits),
            pixels=sum(entry.pixels for entry in entries),
            pictures=len(image_ids),
            **vars(measured),
            per_picture=PictureBits(tuple(image_ids), tuple(bits)),
        )

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
        self,
        identity: dict[str, Any],
        skipped: dict[int, str],
        expected: dict[str, Any],
        uncompressed: Evaluation,
        points: tuple[PointResult, ...],
    ) -> RunResult:
        plan = self.plan
        entries = self._entries(skipped)
        records = Journal(plan.folder / UNCOMPRESSED).records
        hashes = [[e.image_id, records[e.image_id].picture_sha256] for e in entries]
        digest = sha256_of([hashes, plan.dataset.without(skipped).coco])
        dataset = DatasetSummary(
            plan.condition.dataset_name(),
            sum(len(entry.image_ids) for entry in entries),
            sum(entry.pixels for entry in entries),
            digest,
            self._sequences(),
            plan.dataset.passed_over or None,
            plan.dataset.cut_from(),
        )
        return RunResult(
            key=sha256_of([identity, digest, self.points]),
            condition=plan.condition.name,
            codec=plan.codec_name,
            codec_identity=identity["codec"],
            model_identity=identity["model"],
            test=from_json(TestSettings, identity["test"], "the worker"),
            environment={**identity["environment"], "commit": environment.commit()},
            dataset=dataset,
            skipped=tuple(Skipped(i, name) for i, name in sorted(skipped.items())),
            uncompressed=uncompressed,
            expected=expected,
            points=points,
        )

    def _sequences(self) -> tuple[SequenceSummary, ...] | None:
        """The sequences; None for a set of pictures."""
        sequences = self.plan.dataset.sequences
        described = (
            SequenceSummary(s.name, s.group, len(s.frames), tuple(s.frame_rate)) for s in sequences
        )
        return tuple(described) if sequences else None

    def _complexity(self, skipped: dict[int, str]) -> list[Call]:
        """The call, where one is needed, that measures what codec and detector cost: once a run, on
        the first picture, at the last rate point, which takes an encoder the least time."""
        if self.options.shard or self.plan.dataset.sequences:
            return []
        known = load_timings(self.plan.folder)
        if known and known.complexity and known.complexity.nn_part1_kmac is not None:
            self.complexity = known.complexity
            return []
        (entry, *_) = self.plan.dataset.without(skipped).pictures
        return [("complexity", (entry, self.points[-1]))]

    def seconds(self) -> dict[str, dict[str, StageSeconds]]:
        """Seconds of each stage and point: the sum and the median of the pictures."""
        seconds = {}
        for point in [UNCOMPRESSED, *self.points]:
            stages: dict[str, list[float]] = defaultdict(list)
            for of_picture in read_seconds(self.plan.folder / point).values():
                for stage, value in of_picture.items():
                    stages[stage].append(value)
            seconds[point] = {
                stage: StageSeconds(sum(values), statistics.median(values))
                for stage, values in stages.items()
            }
            if point in self.evaluations:
                seconds[point]["evaluation"] = StageSeconds(self.evaluations[point])
        return seconds
