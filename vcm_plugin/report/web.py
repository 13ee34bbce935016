# SPDX-License-Identifier: BSD-3-Clause
"""How does a report become one interactive HTML file that needs no network? Page: web.html."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from vcm_plugin.report import views
from vcm_plugin.report.curves import Curve
from vcm_plugin.report.figures import STYLES
from vcm_plugin.report.human_tables import measured_metrics
from vcm_plugin.report.pages import render
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import label_of
from vcm_plugin.report.viewer import ViewerOptions, viewer_data

SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond",
           "v": "triangle-down", "P": "cross"}  # fmt: skip
DASHES = ("solid", "dash", "dashdot", "longdash", "longdashdot", "dot")


def write_web(report: Report, path: Path, options: ViewerOptions) -> None:
    """Write the web report: tables that sort, plots with hover, and the viewer."""
    page = render(
        "web.html",
        title=f"{report.condition}: {report.dataset.name}",
        summary=_summary(report),
        tables=views.all_tables(report),
        data={**_plots(report), "viewer": viewer_data(report, options)},
        plotly=Markup(get_plotlyjs()),
    )
    path.write_text(page, encoding="utf-8")


def _summary(report: Report) -> str:
    anchors = ", ".join(report.anchors) or "none"
    return f"{report.dataset.pictures} pictures, {len(report.runs)} runs, anchors: {anchors}."


def _plots(report: Report) -> dict[str, Any]:
    """What the charts draw: raw values; the page computes nothing."""
    measured = [*report.metrics, *measured_metrics(report.human_vision)]
    return {
        "metrics": [[metric, label_of(metric)] for metric in measured],
        "uncompressed": report.uncompressed,
        "curves": [_curve(report, curve) for curve in report.curves] + _human_curves(report),
        "published": _published(report),
    }


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
    return {
        "name": curve.name + (" (convex hull)" if curve.hull else ""),
        "colour": colour,
        "symbol": SYMBOLS[marker] + ("" if curve.name in names else "-open"),
        "dash": DASHES[number] if curve.name in names else "dot",
        "points": shown,
    }


def _published(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "name": f"{reference.codec} (published, not run here)",
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
