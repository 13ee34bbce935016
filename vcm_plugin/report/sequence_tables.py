# SPDX-License-Identifier: BSD-3-Clause
"""What do runs on sequences say of each sequence and class: kbps, accuracy, BD-rate per class?

As the template of MPEG has it: kbps of a class are means weighted by the length in seconds, its
accuracy is pooled, and BD-rate is computed for each class and over all sequences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vcm_plugin.ctc.results import PointResult, RunResult, SequenceSummary
from vcm_plugin.metrics.bd_rate import METHODS, bd_rate
from vcm_plugin.metrics.rate import kbps
from vcm_plugin.rate_points import percent_of
from vcm_plugin.report.document import Column, Footnotes, Table
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import spec_of, title_of
from vcm_plugin.testsets.coco import FRAMES

ALL = "all"


@dataclass(frozen=True)
class Part:
    """A sequence, a class of sequences or all of them at one rate point."""

    group: str
    sequence: str  # "" for a class
    kbps: float
    accuracy: Mapping[str, float]


def sequence_tables(report: Report) -> list[Table]:
    """Rate and accuracy of each sequence and class, BD-rate of each class; none for pictures."""
    if not report.dataset.sequences:
        return []
    return [sequence_points(report), class_bd_rates(report)]


def point_kbps(report: Report, bits: int) -> float | None:
    """kbps of all sequences together, by their length in seconds; None for pictures."""
    sequences = report.dataset.sequences
    if not sequences:
        return None
    return bits / sum(s.frames / s.fps for s in sequences) / 1000


def parts_of(result: RunResult, point: PointResult) -> Iterator[Part]:
    """Each sequence, then each class, then all of them."""
    sequences = result.dataset.sequences or ()
    bits = _bits_of_sequences(point)
    rates = {}
    for number, sequence in enumerate(sequences, start=1):
        rates[sequence.name] = kbps(bits.get(number, 0), sequence.fps, sequence.frames)
        accuracy = (point.sequences or {}).get(sequence.name, {})
        yield Part(sequence.group, sequence.name, rates[sequence.name], accuracy)
    for group in dict.fromkeys(s.group for s in sequences):
        members = [s for s in sequences if s.group == group]
        yield Part(group, "", _mean(rates, members), (point.classes or {}).get(group, {}))
    yield Part(ALL, "", _mean(rates, sequences), point.accuracy)


def sequence_points(report: Report) -> Table:
    """kbps and accuracy of each sequence and class at each rate point of each run."""
    metrics = report.main_metrics
    columns = (
        Column("codec", "codec"),
        Column("rate_point", "rate point"),
        Column("group", "class"),
        Column("sequence", "sequence"),
        Column("kbps", "kbps", ".2f"),
        *(Column(metric, title_of(metric), spec_of(metric)) for metric in metrics),
    )
    rows: list[dict[str, Any]] = []
    for run in report.runs:
        for point in run.result.points:
            for part in parts_of(run.result, point):
                rows.append({
                    "codec": run.name,
                    "rate_point": point.rate_point,
                    "group": part.group,
                    "sequence": part.sequence or "(class)",
                    "kbps": part.kbps,
                    **{metric: part.accuracy.get(metric) for metric in metrics},
                })  # fmt: skip
    notes = (
        "kbps of a class are means of its sequences, weighted by their length in seconds; its "
        "accuracy is that of all its frames together.",
    )
    title = "Sequences: rate and accuracy"
    return Table(title, columns, tuple(rows), notes, sheet="Sequences")


def class_bd_rates(report: Report) -> Table:
    """BD-rate of every run against every anchor, of each class and of all sequences."""
    columns = (
        Column("test", "test"),
        Column("anchor", "anchor"),
        Column("group", "class"),
        Column("metric", "metric"),
        Column("percent", "BD-rate (%)", "+.2f"),
        Column("fit_percent", "after monotone fit (%)", "+.2f"),
    )
    curves = {run.name: curves_of_parts(run.result) for run in report.runs}
    footnotes, rows = Footnotes(), []
    for test in curves:
        for anchor in report.anchors:
            if anchor == test or anchor not in curves:
                continue
            for group, metric in _keys(report):
                key = group, "", metric
                pair = [curves[name].get(key, []) for name in (anchor, test)]
                raw, fit = (bd_rate(*pair, method, report.rules.min_overlap) for method in METHODS)
                rows.append({
                    "test": test,
                    "anchor": anchor,
                    "group": group,
                    "metric": title_of(metric),
                    "percent": footnotes.value(raw.percent, raw.reason),
                    "fit_percent": footnotes.value(fit.percent, fit.reason),
                })  # fmt: skip
    notes = ("Of runs at several picture sizes, the points at full size.",)
    return Table("BD-rate per class", columns, tuple(rows), (*notes, *footnotes.texts))


def _keys(report: Report) -> list[tuple[str, str]]:
    groups = dict.fromkeys(s.group for s in report.dataset.sequences or ())
    return [(group, metric) for group in (*groups, ALL) for metric in report.main_metrics]


def curves_of_parts(result: RunResult) -> dict[tuple[str, str, str], list[tuple[float, float]]]:
    """(class, sequence, metric) -> its points (kbps, accuracy) at full size, by rising rate; the
    sequence of a whole class is ""."""
    curves: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for point in result.points:
        if percent_of(point.rate_point) != 100:
            continue
        for part in parts_of(result, point):
            for metric, value in part.accuracy.items():
                key = part.group, part.sequence, metric
                curves.setdefault(key, []).append((part.kbps, value))
    return {key: sorted(points) for key, points in curves.items()}


def _bits_of_sequences(point: PointResult) -> dict[int, int]:
    """Number of a sequence, from 1 -> its bits."""
    bits: dict[int, int] = {}
    for image_id, spent in point.bits_by_picture.items():
        bits[image_id // FRAMES] = bits.get(image_id // FRAMES, 0) + spent
    return bits


def _mean(rates: Mapping[str, float], members: tuple | list[SequenceSummary]) -> float:
    lengths = [s.frames / s.fps for s in members]
    return sum(rates[s.name] * n for s, n in zip(members, lengths)) / sum(lengths)
