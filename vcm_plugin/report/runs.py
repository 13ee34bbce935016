# SPDX-License-Identifier: BSD-3-Clause
"""Which runs does a report compare, and may they be compared? Run folders -> runs of one test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcm_plugin.conditions import TestCondition
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.machine import Session, load_sessions
from vcm_plugin.ctc.results import RunResult, Timings, load_result, load_timings
from vcm_plugin.errors import InputError
from vcm_plugin.metrics.accuracy import LATER
from vcm_plugin.report.curves import Curve, Point, curves_of, points_of
from vcm_plugin.report.document import cleaned
from vcm_plugin.report.titles import AP_METRICS, title_of

SAME_MODEL_TOLERANCE = 0.5  # accuracy points between two runtimes of one detector


@dataclass(frozen=True)
class Run:
    """One run folder as the report needs it.

    condition: in which it was made; None where the folder does not keep it, or that of another
    version. sessions: when and where it was made, none in runs of older versions.
    """

    name: str
    folder: Path
    result: RunResult
    points: tuple[Point, ...]
    timings: Timings | None  # where the run keeps them
    condition: TestCondition | None = None
    sessions: tuple[Session, ...] = ()

    @property
    def curves(self) -> list[Curve]:
        """The curves that its points make."""
        return curves_of(self.name, self.points)

    @property
    def lacks(self) -> list[str]:
        """What a run of this version would say, and this one does not."""
        lacking = {
            "the condition that it was made in": self.condition is None,
            "when and on what machine it was made": not self.sessions,
            "seconds": self.timings is None,
            "accuracy by category": bool(self.result.test.tasks)
            and self.result.test.protocol != "tracking"  # has one category
            and self.result.uncompressed.categories is None,
        }
        return [what for what, lacks in lacking.items() if lacks]


def read_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
    """Complete runs of one test condition, called by their codecs where those differ."""
    if not folders:
        raise InputError("a report needs at least one run folder, found none")
    results = [cleaned(load_result(folder)) for folder in folders]
    codecs = Counter(result.codec for result in results)
    names = [
        result.codec if codecs[result.codec] == 1 else cleaned(folder.resolve().name)
        for result, folder in zip(results, folders, strict=True)
    ]
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(
                f"{count} runs would be called {name} in the report: runs of one codec are told "
                "apart by the names of their folders, rename one or give it once"
            )
    return tuple(map(make_run, names, folders, results))


def make_run(name: str, folder: Path, result: RunResult) -> Run:
    """A run of this name in the report; raises InputError where a point lacks an accuracy."""
    if not result.points:
        raise InputError(f"{folder}: the run holds no rate point; run it again")
    for point in result.points:
        for metric in result.uncompressed.accuracy:
            if metric not in point.accuracy:
                raise InputError(
                    f"{folder}: rate point {point.rate_point} has no {metric}; run it again"
                )
    points, timings = points_of(name, result.points), load_timings(folder)
    sessions = cleaned(load_sessions(folder))
    return Run(name, folder, result, points, timings, _condition(folder), sessions)


def _condition(folder: Path) -> TestCondition | None:
    path = folder / "condition.yaml"
    try:
        return cleaned(load_condition(path)) if path.is_file() else None
    except InputError:  # of a version that had other keys
        return None


def check_same_conditions(runs: Sequence[Run]) -> None:
    """Raise InputError for runs of different conditions, and for those that disagree on what the
    uncompressed pictures give."""
    first = runs[0]
    for other in runs[1:]:
        both = f"{first.folder} and {other.folder}"
        for name, read in _CONDITIONS.items():
            values = read(first.result), read(other.result)
            if values[0] != values[1]:
                raise InputError(
                    f"{both} are runs of different conditions: {name} is {_short(values[0])} and "
                    f"{_short(values[1])}; report runs of one test condition together"
                )
        _check_same_uncompressed(first, other)


def _check_same_uncompressed(first: Run, other: Run) -> None:
    accuracies = [run.result.uncompressed.accuracy for run in (first, other)]
    for metric in {**accuracies[0], **accuracies[1]}:
        for run, accuracy in zip((first, other), accuracies, strict=True):
            if metric not in accuracy and metric not in LATER:
                title = title_of(metric)
                raise InputError(
                    f"{run.folder} has no {title}, the other runs have it; run it again with the "
                    "same tasks"
                )
        values = [accuracy.get(metric) for accuracy in accuracies]
        if metric in AP_METRICS and abs(values[0] - values[1]) > SAME_MODEL_TOLERANCE:
            raise InputError(
                f"{first.folder} and {other.folder} disagree on uncompressed {metric}: "
                f"{values[0]:.2f} and {values[1]:.2f}; run one of them again with the same detector"
            )


def _without_runtime(result: RunResult) -> dict[str, Any]:
    # The same checkpoint gives the same detections in both runtimes.
    return {key: value for key, value in result.model_identity.items() if key != "runtime"}


_CONDITIONS = {
    "the condition": lambda result: result.condition,
    "the skipped pictures": lambda result: result.skipped,
    "the number of pictures": lambda result: result.dataset.pictures,
    "the data set": lambda result: result.dataset.sha256,
    "the detector": _without_runtime,
    "the score": lambda result: result.test.score_threshold,
    "the IoU": lambda result: result.test.iou_threshold,
}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
