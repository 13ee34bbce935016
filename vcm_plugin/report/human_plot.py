# SPDX-License-Identifier: BSD-3-Clause
"""How does human vision look? One figure, a panel for each measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vcm_plugin.report import made
from vcm_plugin.report.figures import (
    NO_DATES,
    SETTINGS,
    STYLES,
    Figure,
    bits_axis,
    legend_label,
    rc_context,
)
from vcm_plugin.report.human_tables import figure_metrics
from vcm_plugin.report.human_vision import EqualValue, HumanVision
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import METRICS, label_of


def write_human_plot(report: Report, out: Path, formats: Sequence[str]) -> None:
    """Write human_vision.<format>: one panel per measure that was measured."""
    vision = report.human_vision
    shown = figure_metrics(vision)
    if not shown or not formats:
        return
    with rc_context(SETTINGS):
        figure = Figure(figsize=(12.0, 3.6 * -(-len(shown) // 3)), layout="constrained")
        panels = figure.subplots(-(-len(shown) // 3), 3, squeeze=False).flat
        for axes, metric in zip(panels, shown):
            _draw(axes, vision, metric)
        for axes in list(panels):  # what is left of the last row
            axes.set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
        figure.suptitle(f"Human vision, {report.heading}\n{made.line(report)}", fontsize=10)
        for name in formats:
            figure.savefig(out / f"human_vision.{name}", dpi=150, metadata=NO_DATES[name])


def write_expected_plot(report: Report, out: Path, formats: Sequence[str]) -> None:
    """Write human_expected.<format>: bits over the share of pictures that anybody looks at, beside
    one picture for both of the same PSNR and machine accuracy."""
    both = [
        equal for equal in report.human_vision.equal
        if equal.metric == "psnr" and equal.break_even_share is not None
    ]  # fmt: skip
    tests = list(dict.fromkeys((equal.test, equal.anchor) for equal in both))
    if not tests or not formats:
        return
    with rc_context(SETTINGS):
        figure = Figure(figsize=(5.6 * len(tests), 4.2), layout="constrained")
        for axes, pair in zip(figure.subplots(1, len(tests), squeeze=False).flat, tests):
            _draw_expected(axes, pair, [e for e in both if (e.test, e.anchor) == pair])
        title = f"Expected bits, {report.heading}; dashed: one picture for both"
        figure.suptitle(title, fontsize=10)
        for name in formats:
            figure.savefig(out / f"human_expected.{name}", dpi=150, metadata=NO_DATES[name])


def _draw_expected(axes, pair: tuple[str, str], equals: Sequence[EqualValue]) -> None:
    for number, equal in enumerate(equals):
        colour = STYLES[number % len(STYLES)][0]
        axes.plot(
            [0, 1], [equal.expected_bpp(0.0), equal.expected_bpp(1.0)], color=colour,
            linewidth=1.6, label=f"{equal.value:.1f} dB",
        )  # fmt: skip
        axes.axhline(equal.anchor_bpp, color=colour, linestyle="--", linewidth=1.0)
        if 0 <= equal.break_even_share <= 1:
            axes.plot([equal.break_even_share], [equal.anchor_bpp], color=colour, marker="o")
    axes.set_title(" against ".join(pair), loc="left", fontsize=10)
    axes.set_xlabel("share of pictures that are looked at")
    axes.set_ylabel("bits per pixel")
    axes.legend(fontsize=8)
    axes.grid(True, color="#dddddd", linewidth=0.7)


def _draw(axes, vision: HumanVision, metric: str) -> None:
    for number, curve in enumerate(vision.curves):
        rates = curve.rates(metric)
        if not rates:
            continue
        colour, marker, line = STYLES[number % len(STYLES)]
        values = [value if METRICS[metric].higher_is_better else -value for _, value in rates]
        axes.plot(
            [bpp for bpp, _ in rates], values, color=colour, marker=marker, linestyle=line,
            linewidth=1.6, markersize=5, label=legend_label(curve.name),
        )  # fmt: skip
    bits_axis(axes)
    better = "" if METRICS[metric].higher_is_better else ", lower is better"
    axes.set_title(label_of(metric) + better, loc="left", fontsize=10)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
