# SPDX-License-Identifier: BSD-3-Clause
"""How do the curves look? One plot per task: bits per pixel (log) against its main metric."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from vcm_plugin.report.curves import Curve
from vcm_plugin.report.figures import (
    INK,
    NO_DATES,
    SETTINGS,
    STYLES,
    Axes,
    Figure,
    bits_axis,
    rc_context,
)
from vcm_plugin.report.published import Reference
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import METRICS, TASKS


def write_plots(report: Report, out: Path, formats: Sequence[str]) -> None:
    """Write rd_<metric>.<format> for every task that was measured."""
    for metric in plotted(report) if formats else ():
        with rc_context(SETTINGS):
            figure = draw(report, metric)
            for name in formats:
                figure.savefig(out / f"rd_{metric}.{name}", dpi=200, metadata=NO_DATES[name])


def plotted(report: Report) -> tuple[str, ...]:
    """The metrics that have a plot: the main one of each task, where there are curves."""
    return report.main_metrics if report.curves else ()


def draw(report: Report, metric: str) -> Figure:
    """One figure: all curves, uncompressed as a dashed line, the near-lossless band under it."""
    figure = Figure(figsize=(7.6, 5.0), layout="constrained")
    axes = figure.add_subplot()
    names = [run.name for run in report.runs]
    styles = dict(zip(names, STYLES * len(names), strict=False))
    for curve in report.curves:
        derived = curve.name not in names
        _draw_curve(axes, curve, metric, styles[curve.points[0].codec], derived)
    _name_points(axes, [curve for curve in report.curves if curve.name in names], metric, styles)
    for reference in report.published:
        _draw_published(axes, reference, metric)
    _draw_uncompressed(axes, report, metric)
    _dress(axes, report, metric)
    return figure


def _draw_curve(axes: Axes, curve: Curve, metric: str, style: tuple, derived: bool) -> None:
    colour, marker, line = style
    chosen = curve.chosen(metric)
    axes.plot(
        [point.bpp for point in chosen],
        [point.accuracy[metric] for point in chosen],
        color=colour,
        marker=marker,
        linestyle=":" if derived else line,
        linewidth=1.2 if derived else 2.0,
        markersize=5.5 if derived else 6.5,
        markerfacecolor="white" if derived else colour,
        markeredgecolor=colour,
        markeredgewidth=1.2,
        label=_label(curve, derived),
        zorder=3 if derived else 4,
    )
    if curve.hull:
        off = [point for point in curve.points if point not in chosen and point.percent != 100]
        axes.scatter(
            [point.bpp for point in off],
            [point.accuracy[metric] for point in off],
            s=16,
            marker=marker,
            facecolor="none",
            edgecolor=colour,
            alpha=0.45,
            linewidth=0.8,
            zorder=2,
        )


def _draw_published(axes: Axes, reference: Reference, metric: str) -> None:
    """Points that others published, in grey and labelled so."""
    points = [
        (point.bpp, point.accuracy[metric])
        for point in reference.points
        if metric in point.accuracy
    ]
    if points:
        label = f"{reference.codec} (published, not run here)"
        axes.plot(*zip(*sorted(points), strict=True), "x:", color="#888888", label=label, zorder=2)


def _name_points(axes: Axes, curves: Sequence[Curve], metric: str, styles: dict) -> None:
    """Rate points beside their markers: left of the cheapest curve, right of the others."""
    middle = {c.name: statistics.median(p.bpp for p in c.chosen(metric)) for c in curves}
    cheapest = min(middle, key=middle.__getitem__)
    for curve in curves:
        left = curve.name == cheapest
        for point in curve.chosen(metric):
            axes.annotate(
                point.rate_point,
                (point.bpp, point.accuracy[metric]),
                xytext=(-6, 5) if left else (7, -9),
                textcoords="offset points",
                ha="right" if left else "left",
                fontsize=7.5,
                color=styles[curve.name][0],
                zorder=5,
            )


def _draw_uncompressed(axes: Axes, report: Report, metric: str) -> None:
    value, loss = report.uncompressed[metric], report.rules.near_lossless
    text = f"uncompressed {value:.1f} (band: within {loss:g} points)"
    axes.axhline(value, color=INK, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1, label=text)
    axes.axhspan(value - loss, value, color="#000000", alpha=0.06, linewidth=0, zorder=0)


def _dress(axes: Axes, report: Report, metric: str) -> None:
    bits_axis(axes)
    axes.margins(x=0.09, y=0.09)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    axes.set_ylabel(METRICS[metric].axis or METRICS[metric].label)
    axes.set_title(
        f"{TASKS[METRICS[metric].task]}, {report.condition}: {report.dataset.pictures} pictures",
        loc="left",
        fontsize=11.5,
        fontweight="bold",
    )
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=9, framealpha=0.95, edgecolor="#cccccc")


def _label(curve: Curve, derived: bool) -> str:
    codec = curve.points[0].codec
    if curve.hull:
        return f"{codec} (convex hull over sizes)"
    return f"{codec} (100 % size)" if derived else codec
