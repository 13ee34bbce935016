# SPDX-License-Identifier: BSD-3-Clause
"""Which tables show human vision? Rows for CSV and JSON, and the tables of documents."""

from __future__ import annotations

from typing import Any

from vcm_plugin.report.document import Column, Footnotes, Table
from vcm_plugin.report.human_vision import HumanComparison, HumanVision
from vcm_plugin.report.titles import (
    HUMAN_METRICS,
    IN_FIGURES,
    METRICS,
    label_of,
    spec_of,
    title_of,
)


def point_rows(vision: HumanVision) -> list[dict[str, Any]]:
    """One flat row per curve and rate point: every measure, or why it is missing."""
    return [
        {
            "curve": curve.name,
            "rate_point": point.rate_point,
            "bpp": point.bpp,
            "machine_bpp": point.machine_bpp,
            "box_ap": point.accuracy,
            **point.values,
        }
        for curve in vision.curves
        for point in curve.points
    ]


def equal_rows(vision: HumanVision) -> list[dict[str, Any]]:
    """One flat row per test point, anchor and measure: total bits per pixel at its value."""
    return [
        vars(equal) | {"percent": equal.percent, "break_even_share": equal.break_even_share}
        for equal in vision.equal
    ]


def bd_rate_rows(vision: HumanVision) -> list[dict[str, Any]]:
    """One flat row per test curve, anchor curve and measure."""
    return [
        {
            "test": comparison.test,
            "anchor": comparison.anchor,
            "metric": comparison.metric,
            "percent": comparison.result.percent,
            **dict(zip(("overlap_low", "overlap_high"), _overlap(comparison))),
            "reason": comparison.result.reason,
        }
        for comparison in vision.comparisons
    ]


def human_dict(vision: HumanVision) -> dict[str, Any]:
    """The part `human_vision` of report.json."""
    return {
        "points": point_rows(vision),
        "equal_value": equal_rows(vision),
        "bd_rate": bd_rate_rows(vision),
    }


def measured_metrics(vision: HumanVision) -> list[str]:
    """The measures of decoded pictures that some point has, or says why not."""
    rows = point_rows(vision)
    return list(dict.fromkeys(key for row in rows for key in row if key in HUMAN_METRICS))


def figure_metrics(vision: HumanVision) -> list[str]:
    """Those of IN_FIGURES that were measured."""
    return [metric for metric in IN_FIGURES if any(curve.rates(metric) for curve in vision.curves)]


def points(vision: HumanVision) -> Table:
    """Human vision: every measure of every rate point, in total bits per pixel."""
    rows = point_rows(vision)
    columns = (
        Column("curve", "curve"),
        Column("rate_point", "rate point"),
        Column("bpp", "bpp", ".4f"),
        Column("machine_bpp", "bpp, machine", ".4f"),
        Column("box_ap", "box AP", ".2f"),
        *(Column(m, label_of(m), spec_of(m)) for m in measured_metrics(vision)),
    )
    title = "Human vision: rate points"
    return Table(title, columns, tuple(rows), sheet="Human vision, rate points")


def main_points(vision: HumanVision) -> Table:
    """The same with the measures that figures show only: what fits on paper."""
    whole = points(vision)
    left_out = set(HUMAN_METRICS) - set(IN_FIGURES)
    kept = tuple(column for column in whole.columns if column.key not in left_out)
    return Table(whole.title, kept, whole.rows)


def equal_values(vision: HumanVision) -> Table:
    """Total bits of the test against an anchor at an equal value of a measure."""
    columns = (
        Column("test", "test"),
        Column("rate_point", "rate point"),
        Column("anchor", "anchor"),
        Column("metric", "measure"),
        Column("value", "value", ".4g"),
        Column("bpp", "bpp", ".4f"),
        Column("anchor_bpp", "bpp of the anchor", ".4f"),
        Column("percent", "difference (%)", "+.1f"),
        Column("break_even_share", "break-even share", ".2f"),
    )
    notes = Footnotes()
    rows = tuple(
        {
            **row,
            "metric": title_of(row["metric"]),
            "percent": notes.value(row["percent"], row["reason"]),
        }
        for row in equal_rows(vision)
    )
    title = "Human vision: total bits at equal value"
    return Table(title, columns, rows, notes.texts, "Human vision, equal value")


def bd_rates(vision: HumanVision) -> Table:
    """BD-rate in total bits at equal value of a measure of human vision."""
    columns = (
        Column("test", "test"),
        Column("anchor", "anchor"),
        Column("metric", "measure"),
        Column("percent", "BD-rate (%)", "+.2f"),
        Column("overlap_low", "from", ".4g"),
        Column("overlap_high", "to", ".4g"),
    )
    notes = Footnotes()
    rows = tuple(
        {
            **row,
            "metric": title_of(row["metric"]),
            "percent": notes.value(row["percent"], row["reason"]),
        }
        for row in bd_rate_rows(vision)
    )
    return Table("Human vision: BD-rate", columns, rows, notes.texts, "Human vision, BD-rate")


def human_tables(vision: HumanVision) -> list[Table]:
    """The tables of human vision that have rows."""
    tables = (points(vision), equal_values(vision), bd_rates(vision))
    return [table for table in tables if table.rows]


def _overlap(comparison: HumanComparison) -> tuple[float | None, float | None]:
    """The values of the measure that both curves cover."""
    if comparison.result.overlap is None:
        return None, None
    sign = 1.0 if METRICS[comparison.metric].higher_is_better else -1.0
    low, high = sorted(sign * value for value in comparison.result.overlap)
    return low, high
