# SPDX-License-Identifier: BSD-3-Clause
"""How does a report become one interactive HTML file that needs no network? Page: web.html."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vcm_plugin.report import made, views
from vcm_plugin.report.curves import Curve
from vcm_plugin.report.figures import STYLES
from vcm_plugin.report.human_tables import measured_metrics
from vcm_plugin.report.pages import render
from vcm_plugin.report.tables import Comparison, Report
from vcm_plugin.report.titles import METRICS, label_of, title_of
from vcm_plugin.report.viewer import ViewerOptions, viewer_data

SYMBOLS = {"o": "circle", "s": "square", "^": "up", "D": "diamond", "v": "down", "P": "plus"}
DASHES = ("", "7 4", "9 4 2 4", "12 3 2 3 2 3", "14 4", "5 3")  # of SVG strokes
DOTTED = "2 3"


def write_web(
    report: Report, path: Path, options: ViewerOptions, files: Sequence[str] = ()
) -> None:
    """Write the web report: tables that sort, a plot, and the viewer. files: that lie beside it."""
    tables = views.all_tables(report)
    first = [table for table in tables if table.title == views.BD_RATE]
    page = render(
        "web.html",
        title=f"{report.heading} ({report.dataset.name})",
        summary=_summary(report),
        warnings=_warnings(report),
        files=files,
        first=first,
        tables=[table for table in tables if table not in first],
        data={**_plots(report), "viewer": viewer_data(report, options)},
    )
    path.write_text(page, encoding="utf-8")


def _summary(report: Report) -> str:
    anchors = ", ".join(report.anchors) or "none"
    return f"{len(report.runs)} runs, anchors: {anchors}. {made.line(report)}."


def _warnings(report: Report) -> list[str]:
    """What a reader must know before any number."""
    part = [f"A part of the test set: {report.scope}."] if report.is_part else []
    busy = made.busy_runs(report)
    timed = [f"Timed on a busy machine: {', '.join(busy)}."] if busy else []
    return [*part, *timed, *made.lacking(report)]


def _plots(report: Report) -> dict[str, Any]:
    """What the charts draw: raw values; the page computes nothing."""
    measured = [*report.metrics, *measured_metrics(report.human_vision)]
    return {
        "metrics": [[metric, label_of(metric)] for metric in measured],
        "sentences": {metric: _sentence(report, metric) for metric in measured},
        "uncompressed": report.uncompressed,
        "near_lossless": report.rules.near_lossless,
        "compared": list(report.ap_metrics),
        "curves": [_curve(report, curve) for curve in report.curves] + _human_curves(report),
        "published": _published(report),
    }


def _sentence(report: Report, metric: str) -> str:
    """What the plot of a metric shows, in one sentence."""
    shown = list(_savings(report.main_comparisons, metric))
    if shown:
        return f"At equal {title_of(metric)} {'; '.join(shown)} (BD-rate)."
    better = "higher" if metric not in METRICS or METRICS[metric].higher_is_better else "lower"
    return (
        f"Each mark is a rate point: its bits per pixel, and its {title_of(metric)} over "
        f"{report.scope}; {better} and further left is better."
    )


def _savings(comparisons: Sequence[Comparison], metric: str) -> Iterator[str]:
    for found in comparisons:
        if found.metric == metric and found.raw.percent is not None:
            more = "fewer" if found.raw.percent < 0 else "more"
            percent = f"{abs(found.raw.percent):.1f} % {more} bits"
            yield f"{found.test} needs {percent} than {found.anchor}"


def _curve(report: Report, curve: Curve) -> dict[str, Any]:
    names = [run.name for run in report.runs]
    number = names.index(curve.points[0].codec) % len(STYLES)
    colour, marker, _ = STYLES[number]
    shown = {}
    for metric in report.metrics:
        points = curve.chosen(metric) if metric in report.ap_metrics else curve.points
        shown[metric] = [
            [point.bpp, point.accuracy.get(metric), point.rate_point, point.bits]
            for point in sorted(points, key=lambda point: point.bits)
        ]
    derived = curve.name not in names
    return {
        "name": curve.name,
        "colour": colour,
        "symbol": SYMBOLS[marker],
        "open": derived,
        "dash": DOTTED if derived else DASHES[number],
        "points": shown,
    }


def _published(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{reference.codec} (published, not run here)",
            "colour": "#777777",
            "symbol": "cross",
            "open": False,
            "dash": DOTTED,
            "points": {
                metric: [
                    [point.bpp, point.accuracy[metric], point.rate_point, None]
                    for point in reference.points
                    if metric in point.accuracy
                ]
                for metric in report.metrics
            },
        }
        for reference in report.published
    ]


def _human_curves(report: Report) -> list[dict[str, Any]]:
    """Curves of human vision, in total bits per pixel."""
    curves = []
    for number, curve in enumerate(report.human_vision.curves):
        colour, marker, _ = STYLES[number % len(STYLES)]
        curves.append({
            "name": curve.name,
            "colour": colour,
            "symbol": SYMBOLS[marker],
            "open": False,
            "dash": DASHES[number % len(DASHES)],
            "points": {
                metric: [
                    [point.bpp, point.values[metric], point.rate_point, None]
                    for point in curve.points
                    if isinstance(point.values.get(metric), float)
                ]
                for metric in measured_metrics(report.human_vision)
            },
        })  # fmt: skip
    return curves
