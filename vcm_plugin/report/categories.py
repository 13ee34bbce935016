# SPDX-License-Identifier: BSD-3-Clause
"""In which categories of objects does a codec lose accuracy? Every category at every rate point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vcm_plugin.ctc.results import UNCOMPRESSED, Evaluation, PointResult
from vcm_plugin.report.curves import Curve, Point
from vcm_plugin.report.document import Column, Table
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import METRICS, spec_of, title_of

ALL = "all together"

Measured = Evaluation | PointResult


def rows(report: Report) -> list[dict[str, Any]]:
    """One flat row per run, rate point and category; the uncompressed pictures once, first."""
    found = []
    for name, rate_point, measured in _measured(report):
        for category, accuracy in (measured.categories or {}).items():
            found.append(
                {"codec": name, "rate_point": rate_point, "category": category, **accuracy}
            )
    return found


def category_points(report: Report) -> Table:
    """The same as a table."""
    found = rows(report)
    metrics = list(dict.fromkeys(key for row in found for key in row if key in METRICS))
    columns = (
        Column("codec", "codec"),
        Column("rate_point", "rate point"),
        Column("category", "category"),
        *(Column(metric, title_of(metric), spec_of(metric)) for metric in metrics),
    )
    title = "Accuracy of each category in percent"
    return Table(title, columns, tuple(found), sheet="Categories")


def losses(report: Report, most_points: int = 99) -> list[Table]:
    """For each curve and task: accuracy points that each category gains or loses against the
    uncompressed pictures, a column for each rate point by falling rate, the worst category first.

    Curves of points at full size alone are left out where their hull is shown. Of more than
    most_points, so many, evenly chosen.
    """
    return [
        table
        for curve in report.curves
        if curve.name in {run.name for run in report.runs}
        for metric in report.main_metrics
        for table in _losses(report, curve, metric, most_points)
    ]


def _losses(report: Report, curve: Curve, metric: str, most: int) -> Iterator[Table]:
    run = next(run for run in report.runs if run.name == curve.points[0].codec)
    before = run.result.uncompressed.categories
    if not before or not any(metric in accuracy for accuracy in before.values()):
        return
    chosen = _thinned(curve.chosen(metric)[::-1], most)
    after = {point.rate_point: run.result.point(point.rate_point) for point in chosen}
    lost = [
        {
            "category": category,
            UNCOMPRESSED: accuracy[metric],
            **{
                name: point.categories[category][metric] - accuracy[metric]
                for name, point in after.items()
                if metric in (point.categories or {}).get(category, {})
            },
        }
        for category, accuracy in before.items()
        if metric in accuracy
    ]
    lost.sort(key=_mean_loss)
    total = {"category": ALL, UNCOMPRESSED: run.result.uncompressed.accuracy[metric]}
    total |= {n: p.accuracy[metric] - total[UNCOMPRESSED] for n, p in after.items()}
    columns = (
        Column("category", "category"),
        Column(UNCOMPRESSED, UNCOMPRESSED, ".1f"),
        *(Column(name, name, "+.1f", heat=True) for name in after),
    )
    title = f"{curve.name}: gain or loss of {title_of(metric)} in each category"
    notes = (
        "Accuracy points above or below the uncompressed pictures at each rate point, the highest "
        "rate first and the category that loses most on top.",
    )
    yield Table(title, columns, (total, *lost), notes)


def _thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many, evenly spaced, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(k * (len(points) - 1) / (most - 1))] for k in range(most)]


def _mean_loss(row: Mapping[str, Any]) -> float:
    values = [v for key, v in row.items() if key not in ("category", UNCOMPRESSED)]
    return sum(values) / len(values) if values else 0.0


def _measured(report: Report) -> Iterator[tuple[str, str, Measured]]:
    yield UNCOMPRESSED, "", report.runs[0].result.uncompressed
    for run in report.runs:
        for point in run.result.points:
            yield run.name, point.rate_point, point
