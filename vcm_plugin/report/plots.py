# SPDX-License-Identifier: BSD-3-Clause
"""How do the curves look? One plot per task: bits per pixel (log) against accuracy.

Curves differ in marker, line style and lightness, so that a grey print stays readable.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from vcm_plugin.report.published import Reference
from vcm_plugin.report.tables import Curve, Report

TASKS = {"box_ap": "Detection", "mask_ap": "Instance segmentation"}
AXES = {"box_ap": "box AP@[.5:.95] (%)", "mask_ap": "mask AP@[.5:.95] (%)"}
INK = "#333333"
# colour, marker, line style; neighbours differ in lightness, so in grey too
STYLES = (
    ("#0b3c6f", "o", "-"),
    ("#dd6b20", "s", "--"),
    ("#1f7a5a", "^", "-."),
    ("#b583cc", "D", (0, (6, 1, 1, 1, 1, 1))),
    ("#7a1f3d", "v", (0, (8, 2))),
    ("#d9b13b", "P", (0, (3, 1))),
)
NO_DATES = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.hashsalt": "vcm-plugin",  # the same picture gives the same file
    "svg.fonttype": "path",
}


def write_plots(report: Report, out: Path, formats: Sequence[str]) -> None:
    """Write rd_<metric>.<format> for every task that was measured."""
    for metric in TASKS:
        if metric not in report.uncompressed or not formats or not report.curves:
            continue
        with matplotlib.rc_context(SETTINGS):
            figure = draw(report, metric)
            for name in formats:
                figure.savefig(out / f"rd_{metric}.{name}", dpi=200, metadata=NO_DATES[name])


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
        off = [point for point in curve.points if point not in chosen and point.size != "100"]
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
        (p["bpp"], p["accuracy"][metric]) for p in reference.points if metric in p["accuracy"]
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
    text = f"uncompressed {value:.1f} (band: within {loss:g} AP)"
    axes.axhline(value, color=INK, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1, label=text)
    axes.axhspan(value - loss, value, color="#000000", alpha=0.06, linewidth=0, zorder=0)


def _dress(axes: Axes, report: Report, metric: str) -> None:
    bits_axis(axes)
    axes.margins(x=0.09, y=0.09)
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    axes.set_ylabel(AXES[metric])
    pictures = report.dataset.get("pictures", report.points[0].pictures)
    axes.set_title(
        f"{TASKS[metric]}, {report.condition}: {pictures} pictures",
        loc="left",
        fontsize=11.5,
        fontweight="bold",
    )
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=9, framealpha=0.95, edgecolor="#cccccc")


def bits_axis(axes: Axes) -> None:
    """The x axis of every plot."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=20))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("rate (bits per pixel of the source picture, log scale)")


def _label(curve: Curve, derived: bool) -> str:
    codec = curve.points[0].codec
    if curve.hull:
        return f"{codec} (convex hull over sizes)"
    return f"{codec} (100 % size)" if derived else codec
