# SPDX-License-Identifier: BSD-3-Clause
"""How does a report become one interactive HTML file that needs no network? Page: web.html."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from vcm_plugin.report import human, views
from vcm_plugin.report.layout import point_rows
from vcm_plugin.report.plots import STYLES
from vcm_plugin.report.tables import Report
from vcm_plugin.report.text_files import html_table
from vcm_plugin.report.viewer import ViewerOptions, viewer_data

PAGE = Path(__file__).with_name("web.html")
SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond",
           "v": "triangle-down", "P": "cross"}  # fmt: skip
DASHES = ("solid", "dash", "dashdot", "longdash", "longdashdot", "dot")


def write_web(report: Report, path: Path, options: ViewerOptions) -> None:
    """Write the web report: tables that sort, plots with hover, and the viewer."""
    title = f"{report.condition}: {report.dataset.get('name', '')}"
    page = PAGE.read_text(encoding="utf-8")
    parts = {
        "TITLE": html.escape(title),
        "SUMMARY": html.escape(_summary(report)),
        "TABLES": "\n".join(
            f"<section>{html_table(table)}</section>" for table in views.all_tables(report)
        ),
        "DATA": _embedded({**_plots(report), "viewer": viewer_data(report, options)}),
        "PLOTLY": get_plotlyjs(),
    }
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    path.write_text(page, encoding="utf-8")


def _summary(report: Report) -> str:
    pictures = report.dataset.get("pictures", report.points[0].pictures)
    anchors = ", ".join(report.anchors) or "none"
    return f"{pictures} pictures, {len(report.runs)} runs, anchors: {anchors}."


def _plots(report: Report) -> dict[str, Any]:
    """What the charts draw: raw values; the page computes nothing."""
    names = [run.name for run in report.runs]
    measured = views.point_metrics(report)
    rows = {(row["codec"], row["rate_point"]): row for row in point_rows(report)}
    curves = []
    for curve in report.curves:
        number = names.index(curve.points[0].codec) % len(STYLES)
        colour, marker, _ = STYLES[number]
        shown = {}
        for metric in measured:
            chosen = curve.chosen(metric) if metric in report.ap_metrics else curve.points
            points = [rows[point.codec, point.rate_point] for point in chosen]
            shown[metric] = [
                [row["bpp"], row.get(metric), row["rate_point"], row["bits"]]
                for row in sorted(points, key=lambda row: row["bits"])
            ]
        curves.append({
            "name": curve.name + (" (convex hull)" if curve.hull else ""),
            "colour": colour,
            "symbol": SYMBOLS[marker] + ("" if curve.name in names else "-open"),
            "dash": DASHES[number] if curve.name in names else "dot",
            "points": shown,
        })  # fmt: skip
    published = [
        {
            "name": f"{found.codec} (published, not run here)",
            "points": {
                metric: [[p["bpp"], p["accuracy"][metric], p["rate_point"], None]
                         for p in found.points if metric in p["accuracy"]]
                for metric in measured
            },
        }
        for found in report.published
    ]  # fmt: skip
    return {
        "metrics": [
            *([metric, views.title_of(metric)] for metric in measured),
            *([metric, human.TITLES[metric]] for metric in _human_metrics(report)),
        ],
        "uncompressed": report.uncompressed,
        "curves": curves + _human_curves(report),
        "published": published,
    }


def _human_metrics(report: Report) -> list[str]:
    """The measures of human vision that were measured somewhere."""
    rows = human.point_rows(report.human_vision)
    return list(dict.fromkeys(key for row in rows for key in row if key in human.TITLES))


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
                for metric in _human_metrics(report)
            },
        })  # fmt: skip
    return curves


def _embedded(value: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
