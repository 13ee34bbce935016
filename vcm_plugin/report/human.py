# SPDX-License-Identifier: BSD-3-Clause
"""How does human vision look in a report? Rows for CSV and JSON, and one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from vcm_plugin.report.human_vision import COMPARED, EqualValue, HumanComparison, HumanVision
from vcm_plugin.report.plots import NO_DATES, SETTINGS, STYLES, bits_axis
from vcm_plugin.report.tables import Report

TITLES = {
    "psnr": "PSNR (dB)", "psnr_y": "PSNR Y (dB)", "psnr_u": "PSNR U (dB)",
    "psnr_v": "PSNR V (dB)", "psnr_yuv": "PSNR YUV 6:1:1 (dB)", "ssim": "SSIM",
    "ms_ssim": "MS-SSIM", "vmaf": "VMAF", "vmaf_neg": "VMAF NEG", "vif": "VIF",
    "gmsd": "GMSD", "haarpsi": "HaarPSI", "lpips": "LPIPS", "dists": "DISTS", "fid": "FID",
    "kid": "KID", "kid_detector": "KID (detector)", "painted_box_ap": "box AP on pictures",
}  # fmt: skip
SHOWN = ("psnr", "ms_ssim", "vmaf_neg", "haarpsi", "kid_detector", "painted_box_ap")
EQUAL = ("psnr", "ms_ssim", "vmaf_neg", "haarpsi")  # the measures of the table at equal value


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
        vars(found) | {"percent": found.percent, "break_even_share": found.break_even_share}
        for found in vision.equal
    ]


def bd_rate_rows(vision: HumanVision) -> list[dict[str, Any]]:
    """One flat row per test curve, anchor curve and measure."""
    return [
        {
            "test": found.test,
            "anchor": found.anchor,
            "metric": found.metric,
            "percent": found.result.percent,
            **dict(zip(("overlap_low", "overlap_high"), _overlap(found))),
            "reason": found.result.reason,
        }
        for found in vision.comparisons
    ]


def _overlap(found: HumanComparison) -> tuple[float | None, float | None]:
    """The values of the measure that both curves cover."""
    if found.result.overlap is None:
        return None, None
    sign = 1.0 if COMPARED[found.metric] else -1.0
    low, high = sorted(sign * value for value in found.result.overlap)
    return low, high


def human_dict(vision: HumanVision) -> dict[str, Any]:
    """The part `human_vision` of report.json."""
    return {
        "points": point_rows(vision),
        "equal_value": equal_rows(vision),
        "bd_rate": bd_rate_rows(vision),
    }


def shown_metrics(vision: HumanVision) -> list[str]:
    """Those of SHOWN that were measured."""
    return [metric for metric in SHOWN if any(curve.rates(metric) for curve in vision.curves)]


def write_human_plot(report: Report, out: Path, formats: Sequence[str]) -> None:
    """Write human_vision.<format>: one panel per measure that was measured."""
    vision = report.human_vision
    shown = shown_metrics(vision)
    if not shown or not formats:
        return
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(12.0, 3.6 * -(-len(shown) // 3)), layout="constrained")
        panels = figure.subplots(-(-len(shown) // 3), 3, squeeze=False).flat
        for axes, metric in zip(panels, shown):
            _draw(axes, vision, metric)
        for axes in list(panels):  # what is left of the last row
            axes.set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
        pictures = report.dataset.get("pictures", "")
        figure.suptitle(f"Human vision, {report.condition}: {pictures} pictures", fontsize=11.5)
        for name in formats:
            figure.savefig(out / f"human_vision.{name}", dpi=150, metadata=NO_DATES[name])


def write_expected_plot(report: Report, out: Path, formats: Sequence[str]) -> None:
    """Write human_expected.<format>: bits over the share of pictures that anybody looks at, beside
    one picture for both of the same PSNR and machine accuracy."""
    found = [
        equal for equal in report.human_vision.equal
        if equal.metric == "psnr" and equal.break_even_share is not None
    ]  # fmt: skip
    tests = list(dict.fromkeys(equal.test for equal in found))
    if not tests or not formats:
        return
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(5.6 * len(tests), 4.2), layout="constrained")
        for axes, test in zip(figure.subplots(1, len(tests), squeeze=False).flat, tests):
            _draw_expected(axes, test, [equal for equal in found if equal.test == test])
        figure.suptitle("Expected bits; dashed: one picture for both", fontsize=11.5)
        for name in formats:
            figure.savefig(out / f"human_expected.{name}", dpi=150, metadata=NO_DATES[name])


def _draw_expected(axes, test: str, found: Sequence[EqualValue]) -> None:
    for number, equal in enumerate(found):
        colour = STYLES[number % len(STYLES)][0]
        axes.plot(
            [0, 1], [equal.expected_bpp(0.0), equal.expected_bpp(1.0)], color=colour,
            linewidth=1.6, label=f"{equal.value:.1f} dB",
        )  # fmt: skip
        axes.axhline(equal.anchor_bpp, color=colour, linestyle="--", linewidth=1.0)
        if 0 <= equal.break_even_share <= 1:
            axes.plot([equal.break_even_share], [equal.anchor_bpp], color=colour, marker="o")
    axes.set_title(test, loc="left", fontsize=10)
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
        values = [value if COMPARED[metric] else -value for _, value in rates]
        axes.plot(
            [bpp for bpp, _ in rates], values, color=colour, marker=marker, linestyle=line,
            linewidth=1.6, markersize=5, label=curve.name,
        )  # fmt: skip
    bits_axis(axes)
    better = "" if COMPARED[metric] else ", lower is better"
    axes.set_title(TITLES[metric] + better, loc="left", fontsize=10)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
