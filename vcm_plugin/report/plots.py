# SPDX-License-Identifier: BSD-3-Clause
"""How do the curves look? One plot per task: bits per pixel (log) against its main metric."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

from vcm_plugin.report import made
from vcm_plugin.report.curves import Curve, Point
from vcm_plugin.report.figures import (
    INK,
    NO_DATES,
    SETTINGS,
    STYLES,
    Axes,
    Figure,
    bits_axis,
    legend_label,
    rc_context,
)
from vcm_plugin.report.labels import Label, place_labels
from vcm_plugin.report.published import Reference
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import METRICS, TASKS

Drawn = Mapping[str, Mapping[str, bytes]]  # metric -> format -> the file
LINE = 118  # characters of a line above a plot


def write_plots(report: Report, out: Path, formats: Sequence[str]) -> Drawn:
    """Write rd_<metric>.<format> for every task that was measured; returns what was written."""
    drawn = draw_all(report, formats)
    for metric, files in drawn.items():
        for name, data in files.items():
            (out / f"rd_{metric}.{name}").write_bytes(data)
    return drawn


def draw_all(report: Report, formats: Sequence[str]) -> Drawn:
    """The plot of every task that was measured, in every format; each is drawn once."""
    files: dict[str, dict[str, bytes]] = {}
    for metric in plotted(report) if formats else ():
        with rc_context(SETTINGS):
            figure = draw(report, metric)
            for name in formats:
                with io.BytesIO() as file:
                    figure.savefig(file, format=name, dpi=200, metadata=NO_DATES[name])
                    files.setdefault(metric, {})[name] = file.getvalue()
    return files


def plotted(report: Report) -> tuple[str, ...]:
    """The metrics that have a plot: the main one of each task, where there are curves."""
    return report.main_metrics if report.curves else ()


def draw(report: Report, metric: str) -> Figure:
    """One figure: all curves, uncompressed as a dashed line, the near-lossless band under it."""
    figure = Figure(figsize=(7.6, 5.6), layout="constrained")
    axes = figure.add_subplot()
    names = [run.name for run in report.runs]
    styles = dict(zip(names, STYLES * len(names), strict=False))
    for curve in report.curves:
        derived = curve.name not in names
        _draw_curve(axes, curve, metric, styles[curve.points[0].codec], derived)
    for curve in report.curves:
        _draw_off_hull(axes, curve, metric, styles[curve.points[0].codec])
    for reference in report.published:
        _draw_published(axes, reference, metric)
    _draw_uncompressed(axes, report, metric)
    _dress(figure, axes, report, metric)
    _name_points(axes, report, metric, styles)
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
        label=legend_label(curve.name),
        zorder=3 if derived else 4,
    )


def _off_hull(curve: Curve, metric: str) -> list[Point]:
    """Points of smaller pictures that no curve shows."""
    chosen = curve.chosen(metric) if curve.hull else curve.points
    return [point for point in curve.points if point not in chosen and point.percent != 100]


def _draw_off_hull(axes: Axes, curve: Curve, metric: str, style: tuple) -> None:
    off = _off_hull(curve, metric)
    if not off:
        return
    colour, marker, _ = style
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
        label=legend_label(f"{curve.name}, smaller pictures off the hull"),
    )


def _draw_published(axes: Axes, reference: Reference, metric: str) -> None:
    """Points that others published, in grey and labelled so."""
    points = [
        (point.bpp, point.accuracy[metric])
        for point in reference.points
        if metric in point.accuracy
    ]
    if points:
        label = legend_label(f"{reference.codec} (published, not run here)")
        axes.plot(*zip(*sorted(points), strict=True), "x:", color="#888888", label=label, zorder=2)


def _name_points(axes: Axes, report: Report, metric: str, styles: dict) -> None:
    """Rate points beside their marks, where there is room."""
    names = [run.name for run in report.runs]
    labels = [
        Label(point.bpp, point.accuracy[metric], point.rate_point, styles[point.codec][0])
        for curve in report.curves
        if curve.name in names
        for point in curve.chosen(metric)
    ]
    curves = [curve.rate_accuracy(metric) for curve in report.curves]
    marks = [mark for curve in curves for mark in curve]
    level = report.uncompressed[metric]
    curves.append([(rate, level) for rate in axes.get_xlim()])
    off = [point for curve in report.curves for point in _off_hull(curve, metric)]
    marks += [(point.bpp, point.accuracy[metric]) for point in off]
    place_labels(axes, labels, curves, marks)


def _draw_uncompressed(axes: Axes, report: Report, metric: str) -> None:
    value, loss = report.uncompressed[metric], report.rules.near_lossless
    text = f"uncompressed {value:.1f} (band: at most {loss:g} below)"
    axes.axhline(value, color=INK, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1, label=text)
    axes.axhspan(value - loss, value, color="#000000", alpha=0.06, linewidth=0, zorder=0)


def _dress(figure: Figure, axes: Axes, report: Report, metric: str) -> None:
    bits_axis(axes)
    axes.margins(x=0.09, y=0.09)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    axes.set_ylabel(METRICS[metric].axis or METRICS[metric].label)
    title = f"{TASKS[METRICS[metric].task]}, {report.heading}"
    figure.suptitle("\n".join(wrap(title, 80)), fontsize=11.5, fontweight="bold")
    lines = [*wrap(made.line(report), LINE), *wrap(" ".join(_curve_names(report)), LINE)]
    axes.set_title("\n".join(lines), loc="left", fontsize=7.5)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8.5, edgecolor="#cccccc")


def _curve_names(report: Report) -> list[str]:
    """What the names of curves of several picture sizes mean."""
    return [
        f"{curve.name}: {'hull over picture sizes' if curve.hull else 'full size only'}."
        for curve in report.curves
        if curve.hull or curve.name != curve.points[0].codec
    ]
