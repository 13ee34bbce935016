# SPDX-License-Identifier: BSD-3-Clause
"""How does a report look as plain data? The layout of report.json, and the rows of the tables."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from vcm_plugin.ctc.results import RunResult
from vcm_plugin.ctc.typed_json import to_json
from vcm_plugin.metrics.bd_rate import BdRate, BitsAt, Interval
from vcm_plugin.metrics.rate import bpp
from vcm_plugin.report import categories, made
from vcm_plugin.report.human_tables import human_dict
from vcm_plugin.report.sequence_tables import point_kbps
from vcm_plugin.report.tables import Comparison, NearLossless, Report

FORMAT = "vcm-plugin report"
VERSION = 1


def write_json(report: Report, out: Path) -> None:
    """Write report.json."""
    text = json.dumps(report_dict(report), indent=1, allow_nan=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")


def report_dict(report: Report) -> dict[str, Any]:
    """The layout of report.json: points, curves, BD-rates, near-lossless bits, environment.

    `bd_rate[test][anchor][metric]` is the raw figure; `monotone_fit` in it is the one after the
    monotone fit.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "condition": report.condition,
        "dataset": to_json(report.dataset),
        "skipped": to_json(report.skipped),
        "runs": {run.name: _run(run.result) for run in report.runs},
        "anchors": list(report.anchors),
        "rules": dataclasses.asdict(report.rules),
        "made": made.rows(report),
        "lacking": made.lacking(report),
        "uncompressed": report.uncompressed,
        "points": point_rows(report),
        "curves": _curves(report),
        "categories": categories.rows(report),
        "bd_rate": _bd_rate(report),
        "near_lossless": _near_lossless(report),
        "human_vision": human_dict(report.human_vision),
        "environment": report.environment,
    }


def point_rows(report: Report) -> list[dict[str, Any]]:
    """One flat row per run and rate point."""
    return [
        {
            "codec": point.codec,
            "rate_point": point.rate_point,
            "pictures": point.pictures,
            "bits": point.bits,
            "pixels": point.pixels,
            "bpp": point.bpp,
            **_kbps(report, point.bits),
            **{metric: point.accuracy[metric] for metric in report.metrics},
        }
        for point in report.points
    ]


def _kbps(report: Report, bits: int) -> dict[str, float]:
    """kbps of a rate point on sequences; nothing on pictures."""
    rate = point_kbps(report, bits)
    return {} if rate is None else {"kbps": rate}


def bd_rate_rows(report: Report) -> list[dict[str, Any]]:
    """One flat row per test, anchor, metric and method."""
    rows = []
    for comparison in report.comparisons:
        names = {key: getattr(comparison, key) for key in ("test", "anchor", "metric")}
        for result, interval in (
            (comparison.raw, comparison.raw_interval),
            (comparison.fit, comparison.fit_interval),
        ):
            cell = bd_rate_cell(result, interval)
            cell["overlap_low"], cell["overlap_high"] = cell.pop("overlap") or (None, None)
            cell["low95"], cell["high95"] = cell.pop("interval95") or (None, None)
            rows.append({**names, **cell})
    return rows


def near_lossless_rows(report: Report) -> list[dict[str, Any]]:
    """One flat row per curve, metric and method."""
    return [
        {"curve": point.curve, "metric": point.metric, **near_lossless_cell(point, result)}
        for point in report.near_lossless
        for result in (point.raw, point.fit)
    ]


def bd_rate_cell(result: BdRate, interval: Interval) -> dict[str, Any]:
    """One BD-rate with its interval over pictures."""
    return {
        "percent": result.percent,
        "method": result.method,
        "overlap": result.overlap,
        "interval95": interval.low_high,
        "reason": result.reason,
        "interval_reason": interval.reason,
        "resamples_used": interval.used,
        "resamples": interval.resamples,
    }


def near_lossless_cell(point: NearLossless, result: BitsAt) -> dict[str, Any]:
    """Bits of the whole test set at the near-lossless accuracy."""
    bits = None if result.bits is None else round(result.bits)
    return {
        "accuracy": point.accuracy,
        "bits": bits,
        "bpp": None if bits is None else bpp(bits, point.pixels),
        "method": result.method,
        "reason": result.reason,
    }


def _run(result: RunResult) -> dict[str, Any]:
    kept = ("codec", "key", "codec_identity", "model_identity", "expected", "uncompressed")
    return {key: to_json(getattr(result, key)) for key in kept}


def _curves(report: Report) -> dict[str, Any]:
    """Which rate points make each curve; for a hull that depends on the metric."""
    return {
        curve.name: {
            "codec": curve.points[0].codec,
            "kind": "convex hull" if curve.hull else "all points",
            "rate_points": {
                metric: [point.rate_point for point in curve.chosen(metric)]
                for metric in report.ap_metrics
            },
        }
        for curve in report.curves
    }


def _bd_rate(report: Report) -> dict[str, Any]:
    matrix: dict[str, Any] = {}
    for comparison in report.comparisons:
        row = matrix.setdefault(comparison.test, {}).setdefault(comparison.anchor, {})
        row[comparison.metric] = _comparison(comparison)
    return matrix


def _comparison(comparison: Comparison) -> dict[str, Any]:
    fit = bd_rate_cell(comparison.fit, comparison.fit_interval)
    return {**bd_rate_cell(comparison.raw, comparison.raw_interval), "monotone_fit": fit}


def _near_lossless(report: Report) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    for point in report.near_lossless:
        fit = near_lossless_cell(point, point.fit)
        cell = {**near_lossless_cell(point, point.raw), "monotone_fit": fit}
        curves.setdefault(point.curve, {})[point.metric] = cell
    return curves
