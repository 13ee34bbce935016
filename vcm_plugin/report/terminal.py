# SPDX-License-Identifier: BSD-3-Clause
"""How does a report look in a terminal? Tables for the command line, which prints them."""

import io

from rich import box
from rich.console import Console, Group
from rich.table import Table

from vcm_plugin.metrics.bd_rate import BdRate, Interval
from vcm_plugin.report import made
from vcm_plugin.report.curves import Curve, Point
from vcm_plugin.report.human_tables import figure_metrics
from vcm_plugin.report.human_vision import HumanVision
from vcm_plugin.report.tables import Comparison, Report
from vcm_plugin.report.titles import AT_EQUAL_VALUE, METRICS, label_of, title_of
from vcm_plugin.report.views import no_interval


def rd_tables(report: Report) -> Group:
    """Rate-accuracy table, BD-rate table and near-lossless bits, for rich's Console.print."""
    parts: list = []
    if report.curves and report.ap_metrics:
        parts += [rate_accuracy_table(report)]
        if report.comparisons:
            parts += [bd_rate_table(report)]
        parts += [near_lossless_table(report)]
    return Group(*parts, *human_tables(report), *_notes(report))


def rd_table_text(report: Report, width: int = 100) -> str:
    """The same tables as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(rd_tables(report))
    return console.file.getvalue()


def rate_accuracy_table(report: Report) -> Table:
    """bpp and accuracy of every curve; of a hull only its points."""
    table = _table(f"Rate and accuracy in percent: {report.heading}")
    table.add_column("curve")
    table.add_column("rate point", justify="right")
    for title in ("bpp", "bits", *map(title_of, report.ap_metrics)):
        table.add_column(title, justify="right")
    measured = [f"{report.uncompressed[metric]:.2f}" for metric in report.ap_metrics]
    table.add_row("uncompressed", "", "", "", *measured, end_section=True)
    for curve in report.curves:
        points = _listed(curve, report)
        for number, point in enumerate(points, start=1):
            table.add_row(
                curve.name if number == 1 else "",
                point.rate_point,
                f"{point.bpp:.4f}",
                f"{point.bits:,}",
                *(f"{point.accuracy[metric]:.2f}" for metric in report.ap_metrics),
                end_section=number == len(points),
            )
    return table


def bd_rate_table(report: Report) -> Table:
    """BD-rate with its 95 % interval over pictures, raw and after the monotone fit."""
    table = _table("BD-rate in percent, (95 % interval over pictures); negative = fewer bits")
    for title in ("test", "anchor", "metric"):
        table.add_column(title)
    for title in ("BD-rate", "after monotone fit", "overlap"):
        table.add_column(title, justify="right")
    for comparison in _main(report):
        overlap = comparison.raw.overlap or comparison.fit.overlap
        table.add_row(
            comparison.test,
            comparison.anchor,
            title_of(comparison.metric),
            _cell(comparison.raw, comparison.raw_interval),
            _cell(comparison.fit, comparison.fit_interval),
            f"{overlap[0]:.0f} .. {overlap[1]:.0f}" if overlap else "none",
        )
    return table


def near_lossless_table(report: Report) -> Table:
    """bpp at a stated loss below uncompressed."""
    loss = report.rules.near_lossless
    table = _table(f"Bits per pixel at {loss:g} point below uncompressed")
    table.add_column("curve")
    for metric in report.ap_metrics:
        table.add_column(title_of(metric), justify="right")
    for curve in report.curves:
        cells = []
        for point in report.near_lossless:
            if point.curve == curve.name:
                bits, fitted = point.raw.bits, point.fit.bits
                value = bits if bits is not None else fitted
                mark = "" if bits is not None else " (fit)"
                cells.append("none" if value is None else f"{value / point.pixels:.4f}{mark}")
        table.add_row(curve.name, *cells)
    return table


def human_tables(report: Report) -> list[Table]:
    """Measures of every point, and total bits against the anchors; none without human vision."""
    vision = report.human_vision
    tables = [_points_table(report)] if vision.curves else []
    return tables + ([_equal_table(vision)] if vision.equal else [])


def _points_table(report: Report) -> Table:
    vision = report.human_vision
    shown = figure_metrics(vision)
    table = _table(f"Human vision: {report.heading}; bpp of both layers, of the machine layer")
    for title in ("curve", "rate point"):
        table.add_column(title)
    for title in ("bpp", "machine", "box AP", *map(label_of, shown)):
        table.add_column(title, justify="right")
    for curve in vision.curves:
        for number, point in enumerate(curve.points, start=1):
            table.add_row(
                curve.name if number == 1 else "",
                point.rate_point,
                f"{point.bpp:.4f}",
                "" if point.machine_bpp is None else f"{point.machine_bpp:.4f}",
                "" if point.accuracy is None else f"{point.accuracy:.2f}",
                *(_value(metric, point.values.get(metric)) for metric in shown),
                end_section=number == len(curve.points),
            )
    return table


def _equal_table(vision: HumanVision) -> Table:
    """Percent of total bits against each anchor at an equal value."""
    table = _table(
        "Total bits against the anchors at equal value, in percent (machine accuracy too)"
    )
    for title in ("test", "rate point", "anchor"):
        table.add_column(title)
    for metric in AT_EQUAL_VALUE:
        table.add_column(label_of(metric), justify="right")
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for equal in vision.equal:
        row = cells.setdefault((equal.test, equal.rate_point, equal.anchor), {})
        row[equal.metric] = "none" if equal.percent is None else f"{equal.percent:+.0f}"
    for names, row in cells.items():
        table.add_row(*names, *(row.get(metric, "") for metric in AT_EQUAL_VALUE))
    return table


def _listed(curve: Curve, report: Report) -> list[Point]:
    kept = {point for metric in report.ap_metrics for point in map(id, curve.chosen(metric))}
    return sorted((p for p in curve.points if id(p) in kept), key=lambda point: point.bits)


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )


def _main(report: Report) -> list[Comparison]:
    """What is proposed, on the main metric of each task; the others are in the files."""
    return [each for each in report.main_comparisons if each.metric in report.main_metrics]


def _cell(result: BdRate, interval: Interval) -> str:
    if result.percent is None:
        return "refused"
    if interval.low_high is None:
        return f"{_percent(result.percent)} (none)"
    low, high = interval.low_high
    return f"{_percent(result.percent)} ({_percent(low)} .. {_percent(high)})"


def _percent(value: float) -> str:
    return f"{value:+.1f}" if abs(value) < 100 else f"{value:+.0f}"


def _notes(report: Report) -> list[str]:
    """Why a figure was refused, and what the tables leave out."""
    reasons: dict[str, list[str]] = {}
    for comparison in _main(report):
        title = title_of(comparison.metric)
        for result in (comparison.raw, comparison.fit):
            if result.reason:
                line = f"{comparison.test} against {comparison.anchor} refused: {result.reason}"
                reasons.setdefault(line, []).append(f"{title}, {result.method}")
    notes = [f"{line} ({'; '.join(cases)})." for line, cases in reasons.items()]
    lacking = [
        interval
        for each in _main(report)
        for result, interval in ((each.raw, each.raw_interval), (each.fit, each.fit_interval))
        if result.percent is not None and interval.low_high is None
    ]
    notes += dict.fromkeys(f"(none): {no_interval(interval)}." for interval in lacking)
    hulls = [curve.name for curve in report.curves if curve.hull]
    if hulls:
        notes.append(f"{', '.join(hulls)}: points on the convex hull over all picture sizes only.")
    if report.skipped:
        notes.append(f"{len(report.skipped)} unreadable pictures were skipped in every run.")
    if report.anchor_comparisons:
        notes.append("BD-rates of anchors against anchors are in the files.")
    notes += made.lacking(report)
    notes.append(f"Made with: {made.line(report)}.")
    return notes


def _value(metric: str, value: float | str | None) -> str:
    return format(value, METRICS[metric].spec) if isinstance(value, float) else "n/a"
