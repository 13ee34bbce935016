# SPDX-License-Identifier: BSD-3-Clause
"""What do finished runs say together? Run folders -> one `Report`, which every format renders.

BD-rate is computed between all curves of the runs and the named anchors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcm_plugin.conditions import CHANGED
from vcm_plugin.ctc.results import Accuracy, DatasetSummary, RunResult, Skipped
from vcm_plugin.errors import InputError
from vcm_plugin.metrics.bd_rate import (
    METHODS,
    BdRate,
    BitsAt,
    Interval,
    bd_rate,
    bd_rate_interval,
    bits_at,
)
from vcm_plugin.report.curves import Curve, Point
from vcm_plugin.report.document import cleaned
from vcm_plugin.report.human_vision import HumanVision, human_vision
from vcm_plugin.report.published import Reference, references_for
from vcm_plugin.report.resampling import Resampled, resampled_curves
from vcm_plugin.report.runs import Run, check_same_conditions, read_runs
from vcm_plugin.report.titles import AP_METRICS, METRICS, main_metrics

NO_INTERVAL = {
    "track": "no interval for tracks: frames of a sequence are not independent, sequences are few"
}


@dataclass(frozen=True)
class Rules:
    """How curves are compared; the accuracy points are those of the test condition."""

    min_overlap: float = 5.0  # accuracy points under which a BD-rate is no result
    near_lossless: float = 1.0  # accuracy points below uncompressed
    resamples: int = 200  # of the pictures, for the 95 % intervals
    seed: int = 1

    @classmethod
    def stated_by(cls, result: RunResult, resamples: int = 200) -> Rules:
        """Those of the test condition of a result."""
        near_lossless = result.test.near_lossless or cls.near_lossless
        return cls(result.test.min_overlap, near_lossless, resamples)


@dataclass(frozen=True)
class Comparison:
    """BD-rate of a test curve against an anchor curve: raw, and after the monotone fit."""

    test: str
    anchor: str
    metric: str
    raw: BdRate
    raw_interval: Interval
    fit: BdRate
    fit_interval: Interval


@dataclass(frozen=True)
class NearLossless:
    """Bits at `accuracy`, a stated loss below uncompressed: raw, and after the monotone fit."""

    curve: str
    metric: str
    accuracy: float
    pixels: int
    raw: BitsAt
    fit: BitsAt


@dataclass(frozen=True)
class Report:
    """Everything that the formats render; computed once."""

    condition: str
    dataset: DatasetSummary
    skipped: tuple[Skipped, ...]
    uncompressed: Accuracy
    runs: tuple[Run, ...]
    curves: tuple[Curve, ...]
    anchors: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    near_lossless: tuple[NearLossless, ...]
    human_vision: HumanVision
    rules: Rules
    published: tuple[Reference, ...]  # of the same test set and metric

    @property
    def name(self) -> str:
        """The test condition in words."""
        bundled = self.condition.removesuffix(CHANGED)
        return bundled if bundled == self.condition else f"{bundled} (changed)"

    @property
    def is_part(self) -> bool:
        """Whether fewer pictures were tested than the test set has."""
        condition = self.runs[0].condition
        limited = condition is not None and condition.limit is not None
        return self.dataset.cut_from is not None or (limited and CHANGED in self.condition)

    @property
    def scope(self) -> str:
        """How many pictures were tested, of how many."""
        data = self.dataset
        unit = "frames" if data.sequences else "pictures"
        count = f"{data.pictures} {unit}"
        if data.cut_from is not None:
            count = f"only {data.pictures} of {data.cut_from} {unit}"
        elif self.is_part:  # of an older version, which did not count the others
            count = f"only the first {data.pictures} {unit}"
        return count + (f" of {len(data.sequences)} sequences" if data.sequences else "")

    @property
    def heading(self) -> str:
        """The test condition and its pictures: a part of every title."""
        return f"{self.name}: {self.scope}"

    @property
    def main_comparisons(self) -> tuple[Comparison, ...]:
        """Those whose test is no anchor itself; all of them where every run is an anchor."""
        return tuple(c for c in self.comparisons if not self._of_anchor(c)) or self.comparisons

    @property
    def anchor_comparisons(self) -> tuple[Comparison, ...]:
        """Anchors against anchors, for the appendix."""
        main = self.main_comparisons
        return tuple(c for c in self.comparisons if c not in main)

    def _of_anchor(self, comparison: Comparison) -> bool:
        run_of = {c.name: c.points[0].codec for c in self.curves}
        return run_of[comparison.test] in {run_of.get(name, name) for name in self.anchors}

    @property
    def points(self) -> tuple[Point, ...]:
        """The rate points of all runs."""
        return tuple(point for run in self.runs for point in run.points)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every accuracy that was measured, in the order of the table of titles."""
        places = {key: number for number, key in enumerate(METRICS)}
        return tuple(sorted(self.uncompressed, key=lambda key: places.get(key, len(places))))

    @property
    def ap_metrics(self) -> tuple[str, ...]:
        """The accuracies that curves are compared on."""
        return tuple(metric for metric in AP_METRICS if metric in self.uncompressed)

    @property
    def main_metrics(self) -> tuple[str, ...]:
        """Of these the first of each task, for plots and headlines."""
        return main_metrics(self.uncompressed)

    @property
    def environment(self) -> dict[str, Mapping[str, str]]:
        """Run -> what its results depend on: versions, device."""
        return {run.name: run.result.environment for run in self.runs}


def build_report(
    folders: Sequence[Path], anchors: Sequence[str], rules: Rules | None = None
) -> Report:
    """Read complete runs of one test condition and compare their curves with the anchors.

    rules: those that the results state where it is None. Raises InputError for what is no complete
    run, for runs of different conditions and for an anchor that is none of them.
    """
    return compare_runs(read_runs([Path(folder) for folder in folders]), anchors, rules)


def compare_runs(runs: Sequence[Run], anchors: Sequence[str], rules: Rules | None = None) -> Report:
    """The same of runs that were read already."""
    check_same_conditions(runs)
    anchors = cleaned(tuple(dict.fromkeys(anchors)))  # as the names of runs are
    runs = sorted(runs, key=lambda run: run.name in anchors)  # what is proposed comes first
    curves = tuple(curve for run in runs for curve in run.curves)
    names = list(dict.fromkeys([*(c.name for c in curves), *(run.name for run in runs)]))
    for name in anchors:
        if name not in names:
            raise InputError(f"anchor {name}: expected one of {', '.join(names)}; run it first")
    first = runs[0].result
    rules = rules or Rules.stated_by(first)
    uncompressed = {
        metric: value
        for metric, value in first.uncompressed.accuracy.items()
        if all(metric in run.result.uncompressed.accuracy for run in runs)
    }
    return Report(
        condition=first.condition,
        dataset=first.dataset,
        skipped=first.skipped,
        uncompressed=uncompressed,
        runs=tuple(runs),
        curves=curves,
        anchors=anchors,
        comparisons=_comparisons(runs, curves, anchors, uncompressed, rules),
        near_lossless=tuple(
            _near_lossless(curve, metric, uncompressed[metric] - rules.near_lossless)
            for curve in curves
            for metric in AP_METRICS
            if metric in uncompressed
        ),
        human_vision=human_vision({run.name: run.result for run in runs}, anchors),
        rules=rules,
        published=references_for(first.dataset.name, uncompressed),
    )


def _comparisons(
    runs: Sequence[Run],
    curves: Sequence[Curve],
    anchors: Sequence[str],
    measured: Accuracy,
    rules: Rules,
) -> tuple[Comparison, ...]:
    ap_metrics = [metric for metric in AP_METRICS if metric in measured]
    resampled = resampled_curves(runs, curves, ap_metrics, rules.resamples, rules.seed)
    by_name = {curve.name: curve for curve in curves}
    return tuple(
        _compare(by_name[test], by_name[anchor], metric, resampled, rules)
        for test in by_name
        for anchor in anchors
        if test != anchor and anchor in by_name
        for metric in ap_metrics
    )


def _compare(
    test: Curve, anchor: Curve, metric: str, resampled: Resampled, rules: Rules
) -> Comparison:
    results: list[Any] = []
    for method in METHODS:
        curves = anchor.rate_accuracy(metric), test.rate_accuracy(metric)
        results.append(bd_rate(*curves, method, rules.min_overlap))
        pair = [resampled.prepared(curve.name, metric, method) for curve in (anchor, test)]
        if None in pair:
            reason = NO_INTERVAL.get(
                METRICS[metric].task, "the runs keep no matches of their pictures"
            )
            results.append(Interval(None, 0, rules.resamples, reason))
        else:
            results.append(bd_rate_interval(*pair, method, rules.min_overlap))
    return Comparison(test.name, anchor.name, metric, *results)


def _near_lossless(curve: Curve, metric: str, accuracy: float) -> NearLossless:
    points = curve.chosen(metric)
    bits = [(point.bits, point.accuracy[metric]) for point in points]
    results = [bits_at(bits, accuracy, method) for method in METHODS]
    return NearLossless(curve.name, metric, accuracy, points[0].pixels, *results)
