# SPDX-License-Identifier: BSD-3-Clause
"""Which tables does every document show? A `Report` as tables of raw values with their formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vcm_plugin.ctc.results import UNCOMPRESSED, StageSeconds
from vcm_plugin.metrics.bd_rate import BitsAt
from vcm_plugin.report.document import Column, Table
from vcm_plugin.report.human_tables import human_tables, value_or_reason
from vcm_plugin.report.layout import bd_rate_cell, near_lossless_cell, point_rows
from vcm_plugin.report.sequence_tables import sequence_tables
from vcm_plugin.report.survey import surveyed_for
from vcm_plugin.report.tables import NearLossless, Report
from vcm_plugin.report.titles import TASKS, spec_of, task_of, title_of

POINT_KEYS = ("codec", "rate_point", "pictures", "bits", "pixels", "bpp", "kbps")
COSTS = ("encode_kmac", "decode_kmac", "parameters")


def point_metrics(report: Report, task: str | None = None) -> list[str]:
    """Every accuracy that was measured, of one task where it is given."""
    return [key for key in report.metrics if task is None or task_of(key) == task]


def tasks(report: Report) -> list[str]:
    """The tasks that were measured; "" stands for what is no accuracy of a detector."""
    return list(dict.fromkeys(task_of(metric) for metric in point_metrics(report)))


def points(report: Report, task: str | None = None) -> Table:
    """Rate and every measured value of every rate point, the uncompressed pictures first."""
    measured = point_metrics(report, task)
    first = {"codec": "uncompressed", "pictures": report.dataset.pictures}
    columns = (
        Column("codec", "codec"),
        Column("rate_point", "rate point"),
        Column("bits", "bits", "d"),
        Column("bpp", "bpp", ".4f"),
        *([Column("kbps", "kbps", ".2f")] if report.dataset.sequences else []),
        *(Column(metric, title_of(metric), spec_of(metric)) for metric in measured),
    )
    rows = ({**first, **report.uncompressed}, *point_rows(report))
    name = TASKS.get(task, "Rate and accuracy" if task is None else "Other")
    return Table(f"{name}: rate points", columns, rows, _hull_notes(report))


def main_points(report: Report) -> Table:
    """The same with the metrics that curves are compared on only: what fits on paper."""
    whole = points(report)
    kept = tuple(c for c in whole.columns if not c.key.endswith("75"))
    kept = tuple(c for c in kept if c.key in (*POINT_KEYS, *report.ap_metrics))
    return Table("Rate and accuracy in percent", kept, whole.rows, whole.notes)


def bd_rates(report: Report, metrics: Sequence[str] | None = None) -> Table:
    """BD-rate of every test curve against every anchor; a refusal is a cell with its reason."""
    columns = (
        Column("test", "test"),
        Column("anchor", "anchor"),
        Column("metric", "metric"),
        Column("percent", "BD-rate (%)", "+.2f"),
        Column("interval95", "95 % interval", "+.1f"),
        Column("fit_percent", "after monotone fit (%)", "+.2f"),
        Column("fit_interval95", "95 % interval", "+.1f"),
        Column("overlap", "common accuracy", ".1f"),
    )
    rows = []
    for comparison in report.comparisons:
        if metrics is not None and comparison.metric not in metrics:
            continue
        raw = bd_rate_cell(comparison.raw, comparison.raw_interval)
        fit = bd_rate_cell(comparison.fit, comparison.fit_interval)
        rows.append({
            "test": comparison.test,
            "anchor": comparison.anchor,
            "metric": title_of(comparison.metric),
            "percent": value_or_reason(comparison.raw),
            "interval95": raw["interval95"],
            "fit_percent": value_or_reason(comparison.fit),
            "fit_interval95": fit["interval95"],
            "overlap": raw["overlap"] or fit["overlap"],
        })  # fmt: skip
    notes = (
        "A negative BD-rate means fewer bits at equal accuracy. The intervals are 95 % bootstrap "
        f"intervals over the pictures ({report.rules.resamples} resamples, seed "
        f"{report.rules.seed}).",
        *_encoder_notes(report),
    )
    return Table("BD-rate", columns, tuple(rows), notes)


def near_lossless(report: Report) -> Table:
    """Bits per pixel at a stated loss below uncompressed."""
    columns = (
        Column("curve", "curve"),
        Column("metric", "metric"),
        Column("accuracy", "at accuracy", ".2f"),
        Column("bpp", "bpp", ".4f"),
        Column("fit_bpp", "bpp after monotone fit", ".4f"),
    )
    rows = tuple(
        {
            "curve": point.curve,
            "metric": title_of(point.metric),
            "accuracy": point.accuracy,
            "bpp": _bpp_or_reason(point, point.raw),
            "fit_bpp": _bpp_or_reason(point, point.fit),
        }
        for point in report.near_lossless
    )
    loss = report.rules.near_lossless
    return Table(f"Rate at {loss:g} point below uncompressed", columns, rows)


def complexity(report: Report) -> Table:
    """Arithmetic, parameters, seconds per picture and peak memory, with the machine."""
    columns = (
        Column("codec", "codec"),
        Column("rate_point", "rate point"),
        Column("encode_kmac", "encoder kMAC per pixel", ".2f"),
        Column("decode_kmac", "decoder kMAC per pixel", ".2f"),
        Column("parameters", "parameters", "d"),
        Column("encode", "encode (s)", ".4f"),
        Column("decode", "decode (s)", ".4f"),
        Column("nn_part1", "NN-Part1 (s)", ".4f"),
        Column("nn_part2", "NN-Part2 (s)", ".4f"),
        Column("peak_memory_mib", "peak memory (MiB)", ".0f"),
    )
    rows = []
    for run in report.runs:
        if run.timings is None:
            continue
        costs = run.timings.complexity
        for point in run.points:
            rows.append({
                "codec": run.name,
                "rate_point": point.rate_point,
                **{key: getattr(costs, key, None) for key in COSTS},
                **seconds_per_picture(run.timings.points, point.rate_point, point.pictures),
                "peak_memory_mib": costs and costs.peak_memory_bytes / (1 << 20),
            })  # fmt: skip
    return Table("Complexity", columns, tuple(rows), _machine_notes(report))


def seconds_per_picture(
    seconds: Mapping[str, Mapping[str, StageSeconds]], rate_point: str, pictures: int
) -> dict[str, float | None]:
    """Mean seconds of each stage; NN-Part1 of split inference runs once for all rate points."""
    stages = ("encode", "decode", "nn_part1", "nn_part2")
    spent = {**seconds.get(UNCOMPRESSED, {}), **seconds.get(rate_point, {})}
    return {name: spent[name].sum / pictures if name in spent else None for name in stages}


def environment(report: Report) -> Table:
    """Versions and device of every run, one column each."""
    names = [run.name for run in report.runs]
    keys = dict.fromkeys(key for run in report.runs for key in run.result.environment)
    columns = (Column("what", ""), *(Column(name, name) for name in names))
    rows = tuple(
        {"what": key, **{run.name: run.result.environment.get(key) for run in report.runs}}
        for key in keys
    )
    return Table("Environment", columns, rows)


def published(report: Report) -> Table:
    """Published rate points of the same test set and metric; nobody ran them here."""
    columns = (
        Column("codec", "codec"),
        Column("rate_point", "rate point"),
        Column("bpp", "bpp", ".4f"),
        Column("metric", "metric"),
        Column("value", "value", ".2f"),
        Column("source", "source"),
    )
    rows = [
        {
            "codec": reference.codec,
            "rate_point": point.rate_point,
            "bpp": point.bpp,
            "metric": title_of(metric),
            "value": value,
            "source": reference.source,
        }
        for reference in report.published
        for point in reference.points
        for metric, value in point.accuracy.items()
        if metric in report.metrics
    ]
    return Table("Published, not run here", columns, tuple(rows))


def surveyed(report: Report) -> Table:
    """What the survey of the field states of the same data set and tasks, beside the run; nobody
    ran it here, and no plot shows it."""
    measured = {task_of(metric) for metric in report.metrics}
    columns = (
        Column("codec", "method"),
        Column("coding_class", "class"),
        Column("bpp", "bpp", ".4f"),
        Column("metric", "metric, as stated"),
        Column("value", "value, as stated"),
        Column("source", "source"),
    )
    rows = (vars(point) for point in surveyed_for(report.dataset.name, measured))
    return Table("Published in the survey, not run here", columns, tuple(rows))


def all_tables(report: Report) -> list[Table]:
    """Every table that has rows, in the order of the documents."""
    tables = [
        points(report), bd_rates(report), *sequence_tables(report), near_lossless(report),
        *human_tables(report.human_vision), complexity(report), published(report),
        surveyed(report), environment(report),
    ]  # fmt: skip
    return [table for table in tables if table.rows]


def _bpp_or_reason(point: NearLossless, result: BitsAt) -> float | str:
    cell = near_lossless_cell(point, result)
    return f"none: {cell['reason']}" if cell["bpp"] is None else cell["bpp"]


def _hull_notes(report: Report) -> tuple[str, ...]:
    notes = tuple(
        f"The rate points of {run.name} are those of the table {table}."
        for run in report.runs
        if (table := run.result.codec_identity.get("qp_table"))
    )
    hulls = [curve.name for curve in report.curves if curve.hull]
    if not hulls:
        return notes
    return (
        *notes,
        f"The curve of {', '.join(hulls)} is the convex hull over all picture sizes.",
    )


def _encoder_notes(report: Report) -> tuple[str, ...]:
    """Which runs are coded by another encoder than the anchors of MPEG's tables."""
    names: dict[str, list[str]] = {}
    for run in report.runs:
        inner = run.result.codec_identity.get("inner_codec", {})
        if inner.get("encoder", "").startswith("VVenC"):
            names.setdefault(f"{inner['encoder']}, preset {inner['preset']}", []).append(run.name)
    return tuple(
        f"{', '.join(runs)}: coded by {encoder}. The anchors of MPEG's tables are coded by VTM; "
        "docs/sequences.md says how far it is apart."
        for encoder, runs in names.items()
    )


def _machine_notes(report: Report) -> tuple[str, ...]:
    devices = dict.fromkeys(
        f"{run.name}: {run.result.environment.get('device', 'device not recorded')}, "
        f"{run.result.test.threads_per_job} thread(s)"
        for run in report.runs
    )
    return (
        "Seconds are means over the pictures, on " + "; ".join(devices) + ". kMAC are thousand "
        "multiply-accumulates per source pixel, counted as they run on the first picture at the "
        "last rate point; a codec that runs outside PyTorch has none. Peak memory is that of one "
        "process with its detector and its largest encoder.",
    )
