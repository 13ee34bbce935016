# SPDX-License-Identifier: BSD-3-Clause
"""Which tables show rates and accuracy? A `Report` as tables of raw values with their formats."""

from __future__ import annotations

from collections.abc import Sequence

from vcm_plugin.metrics.bd_rate import Interval
from vcm_plugin.report import costs, made
from vcm_plugin.report.categories import category_points, losses
from vcm_plugin.report.classes import class_tables
from vcm_plugin.report.curves import Curve
from vcm_plugin.report.document import Column, Footnotes, Table
from vcm_plugin.report.human_tables import human_tables
from vcm_plugin.report.layout import bd_rate_cell, near_lossless_cell, point_rows
from vcm_plugin.report.sequence_tables import sequence_tables
from vcm_plugin.report.survey import surveyed_for
from vcm_plugin.report.tables import Comparison, Report
from vcm_plugin.report.titles import SIZE_METRICS, TASKS, spec_of, task_of, title_of

BD_RATE = "BD-rate"
FEW_RESAMPLES = "no interval: more than 20 % of the resamples had no BD-rate"


def point_metrics(report: Report, task: str | None = None) -> list[str]:
    """Every accuracy that was measured, of one task where it is given."""
    return [key for key in report.metrics if task is None or task_of(key) == task]


def tasks(report: Report) -> list[str]:
    """The tasks that were measured; "" stands for what is no accuracy of a detector."""
    return list(dict.fromkeys(task_of(metric) for metric in point_metrics(report)))


def points(report: Report, task: str | None = None) -> Table:
    """Rate and every measured value of every rate point, the uncompressed pictures first."""
    measured = point_metrics(report, task)
    name = TASKS.get(task, "Rate and accuracy" if task is None else "Other")
    return _points(report, f"{name}: rate points", measured, task)


def main_points(report: Report) -> Table:
    """The same with the metrics that curves are compared on only: what fits on paper."""
    return _points(report, "Rate and accuracy in percent", report.ap_metrics)


def size_points(report: Report) -> Table:
    """The same with AP by the size of objects, and AR; no rows where that was not measured."""
    measured = [metric for metric in SIZE_METRICS if metric in report.metrics]
    table = _points(report, "Accuracy by the size of objects, and recall", measured)
    note = "COCO's sizes: small up to 32 x 32 pixels, large from 96 x 96 on. AR: at 100 detections."
    kept = tuple(column for column in table.columns if column.key != "bits")
    rows = table.rows if measured else ()
    return Table(table.title, kept, rows, (*table.notes, note), sheet="Sizes and recall")


def bd_rates(report: Report, metrics: Sequence[str] | None = None) -> Table:
    """BD-rate of what is proposed against every anchor; of a refusal, the number of its note."""
    chosen = [c for c in report.main_comparisons if metrics is None or c.metric in metrics]
    return _bd_rates(report, BD_RATE, chosen)


def anchor_bd_rates(report: Report) -> Table:
    """BD-rate of anchors against anchors."""
    title = "BD-rate of anchors against anchors"
    return _bd_rates(report, title, report.anchor_comparisons, "BD-rate of anchors")


def near_lossless(report: Report) -> Table:
    """Bits per pixel at a stated loss below uncompressed."""
    columns = (
        Column("curve", "curve"),
        Column("metric", "metric"),
        Column("accuracy", "at accuracy", ".2f"),
        Column("bpp", "bpp", ".4f"),
        Column("fit_bpp", "bpp after monotone fit", ".4f"),
    )
    notes, rows = Footnotes(), []
    for point in report.near_lossless:
        raw, fit = (near_lossless_cell(point, result) for result in (point.raw, point.fit))
        rows.append({
            "curve": point.curve,
            "metric": title_of(point.metric),
            "accuracy": point.accuracy,
            "bpp": notes.value(raw["bpp"], raw["reason"]),
            "fit_bpp": notes.value(fit["bpp"], fit["reason"]),
        })  # fmt: skip
    loss = report.rules.near_lossless
    title = f"Rate at {loss:g} point below uncompressed"
    return Table(title, columns, tuple(rows), notes.texts, sheet="Near-lossless")


def published(report: Report) -> Table:
    """Published rate points of the same test set and metric; nobody ran them here."""
    columns = (
        Column("codec", "codec"),
        Column("rate_point", "rate point"),
        Column("bpp", "bpp", ".4f"),
        Column("metric", "metric"),
        Column("value", "value", ".2f"),
    )
    rows = [
        {
            "codec": reference.codec,
            "rate_point": point.rate_point,
            "bpp": point.bpp,
            "metric": title_of(metric),
            "value": value,
        }
        for reference in report.published
        for point in reference.points
        for metric, value in point.accuracy.items()
        if metric in report.metrics
    ]
    notes = tuple(f"{each.codec}: {each.source}" for each in report.published)
    return Table("Published, not run here", columns, tuple(rows), notes)


def surveyed(report: Report) -> Table:
    """What the survey of the field states of the same data set and tasks, beside the run; nobody
    ran it here, and no plot shows it."""
    measured = {task_of(metric) for metric in report.metrics}
    columns = (
        Column("codec", "method"),
        Column("coding_class", "class"),
        Column("bpp", "bpp", ".4f"),
        Column("metric", "metric, as stated"),
        Column("value", "value, as stated"),
        Column("source", "source"),
    )
    rows = (vars(point) for point in surveyed_for(report.dataset.name, measured))
    title = "Published in the survey, not run here"
    return Table(title, columns, tuple(rows), sheet="Published in the survey")


def all_tables(report: Report) -> list[Table]:
    """Every table that has rows, what is proposed first and the appendix last."""
    tables = [
        bd_rates(report), near_lossless(report), *human_tables(report.human_vision),
        *class_tables(report), *losses(report), *(points(report, task) for task in tasks(report)),
        *sequence_tables(report), *costs.tables(report),
        *made.tables(report), anchor_bd_rates(report), published(report),
        surveyed(report),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


def paper_tables(report: Report) -> list[Table]:
    """Those of paper: fewer columns, and not every category at every rate point."""
    tables = [
        bd_rates(report), near_lossless(report), main_points(report), *sequence_tables(report),
        *costs.tables(report),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


def appendix_tables(report: Report) -> list[Table]:
    """What a reader of paper may want to look up."""
    tables = [
        size_points(report), *losses(report, most_points=8), anchor_bd_rates(report),
        published(report), surveyed(report),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


def data_tables(report: Report) -> list[Table]:
    """Those that a spreadsheet has beside its sheets of each task, raw and whole."""
    tables = [
        near_lossless(report), category_points(report), *human_tables(report.human_vision),
        *costs.tables(report), anchor_bd_rates(report),
        published(report), surveyed(report),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


def _points(report: Report, title: str, metrics: Sequence[str], task: str | None = None) -> Table:
    first = {"codec": "uncompressed", "pictures": report.dataset.pictures}
    hulls = any(curve.hull for curve in report.curves)
    columns = (
        Column("codec", "codec"),
        Column("rate_point", "rate point"),
        Column("bits", "bits", ",d"),
        Column("bpp", "bpp", ".4f"),
        *([Column("kbps", "kbps", ".2f")] if report.dataset.sequences else []),
        *(Column(metric, title_of(metric), spec_of(metric)) for metric in metrics),
        *([Column("hull", "on the hull of")] if hulls else []),
    )
    on_hull = _hull_members(report, task)
    rows = (
        {**first, **report.uncompressed},
        *(
            {**row, "hull": on_hull.get((row["codec"], row["rate_point"]), "")}
            for row in point_rows(report)
        ),
    )
    return Table(title, columns, rows, _curve_notes(report))


def _hull_members(report: Report, task: str | None) -> dict[tuple[str, str], str]:
    """(run, rate point) -> the metrics on whose convex hull over all sizes it is."""
    members: dict[tuple[str, str], list[str]] = {}
    for curve in report.curves:
        for metric in report.main_metrics if curve.hull else ():
            if task is None or task_of(metric) == task:
                for point in curve.chosen(metric):
                    members.setdefault((point.codec, point.rate_point), []).append(metric)
    return {key: ", ".join(map(title_of, metrics)) for key, metrics in members.items()}


def _bd_rates(
    report: Report, title: str, comparisons: Sequence[Comparison], sheet: str = ""
) -> Table:
    columns = (
        Column("test", "test"),
        Column("anchor", "anchor"),
        Column("metric", "metric"),
        Column("percent", "BD-rate (%)", "+.2f"),
        Column("interval95", "95 % interval", "+.1f"),
        Column("fit_percent", "after monotone fit (%)", "+.2f"),
        Column("fit_interval95", "95 % interval", "+.1f"),
        Column("overlap", "common accuracy", ".1f"),
    )
    notes, rows = Footnotes(), []
    for comparison in comparisons:
        raw = bd_rate_cell(comparison.raw, comparison.raw_interval)
        fit = bd_rate_cell(comparison.fit, comparison.fit_interval)
        rows.append({
            "test": comparison.test,
            "anchor": comparison.anchor,
            "metric": title_of(comparison.metric),
            "percent": notes.value(raw["percent"], raw["reason"]),
            "interval95": _interval(raw["percent"], comparison.raw_interval, notes),
            "fit_percent": notes.value(fit["percent"], fit["reason"]),
            "fit_interval95": _interval(fit["percent"], comparison.fit_interval, notes),
            "overlap": raw["overlap"] or fit["overlap"],
        })  # fmt: skip
    sentence = "A negative BD-rate means fewer bits at equal accuracy."
    if any(i.low_high for c in comparisons for i in (c.raw_interval, c.fit_interval)):
        sentence += (
            " The intervals are 95 % bootstrap intervals over the pictures "
            f"({report.rules.resamples} resamples, seed {report.rules.seed})."
        )
    curves = [curve for curve in report.curves if curve.name in _named(comparisons)]
    told = sentence, *_of_sizes(curves), *notes.texts, *_encoder_notes(report)
    return Table(title, columns, tuple(rows), told, sheet)


def _interval(
    percent: float | None, interval: Interval, notes: Footnotes
) -> tuple[float, float] | str | None:
    if percent is None or interval.low_high is not None:
        return interval.low_high
    return notes.mark(no_interval(interval))


def no_interval(interval: Interval) -> str:
    """Why a BD-rate has no interval."""
    return FEW_RESAMPLES if interval.used else interval.reason or FEW_RESAMPLES


def _named(comparisons: Sequence[Comparison]) -> set[str]:
    return {name for c in comparisons for name in (c.test, c.anchor)}


def _of_sizes(curves: Sequence[Curve]) -> list[str]:
    """What the names of curves of several picture sizes mean."""
    return [
        f"{curve.name} is the convex hull over all picture sizes."
        if curve.hull
        else f"{curve.name} are its points at full size alone."
        for curve in curves
        if curve.hull or curve.name != curve.points[0].codec
    ]


def _curve_notes(report: Report) -> tuple[str, ...]:
    tables = tuple(
        f"The rate points of {run.name} are those of the table {table}."
        for run in report.runs
        if (table := run.result.codec_identity.get("qp_table"))
    )
    return (*tables, *_of_sizes(report.curves))


def _encoder_notes(report: Report) -> tuple[str, ...]:
    """Which runs are coded by another encoder than the anchors of MPEG's tables."""
    names: dict[str, list[str]] = {}
    for run in report.runs:
        inner = run.result.codec_identity.get("inner_codec", {})
        if inner.get("encoder", "").startswith("VVenC"):
            preset = f", preset {inner['preset']}" if "preset" in inner else ""
            names.setdefault(f"{inner['encoder']}{preset}", []).append(run.name)
    return tuple(
        f"{', '.join(runs)}: coded by {encoder}. The anchors of MPEG's tables are coded by VTM; "
        "docs/sequences.md says how far it is apart."
        for encoder, runs in names.items()
    )
