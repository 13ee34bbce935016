# SPDX-License-Identifier: BSD-3-Clause
"""Which tables does a report write as CSV? Rate-accuracy, BD-rate, near-lossless and summaries."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vcm_plugin.ctc.codecs import integer_qp
from vcm_plugin.ctc.coding import KINDS, Kind
from vcm_plugin.ctc.results import UNCOMPRESSED, StageSeconds
from vcm_plugin.errors import InputError
from vcm_plugin.report import categories, human_tables, made
from vcm_plugin.report.curves import Point
from vcm_plugin.report.layout import bd_rate_rows, near_lossless_rows, point_rows
from vcm_plugin.report.runs import Run
from vcm_plugin.report.tables import Report

DATASET_TASKS = {
    "box_ap": "detection",
    "mask_ap": "segmentation",
    "miou": "semantic segmentation",
    "mota": "tracking",
}


def write_csv(report: Report, out: Path) -> None:
    """Write rd.csv, bd_rate.csv, near_lossless.csv, categories.csv and conditions.csv, and
    summary_<run>.csv where times exist."""
    _write(out / "rd.csv", point_rows(report))
    _write(out / "conditions.csv", made.rows(report))
    _write(out / "categories.csv", categories.rows(report))
    _write(out / "bd_rate.csv", bd_rate_rows(report))
    _write(out / "near_lossless.csv", near_lossless_rows(report))
    if report.human_vision.curves:
        _write(out / "human_vision.csv", human_tables.point_rows(report.human_vision))
        _write(out / "human_equal_value.csv", human_tables.equal_rows(report.human_vision))
        _write(out / "human_bd_rate.csv", human_tables.bd_rate_rows(report.human_vision))
    for run in report.runs:
        if run.timings is not None and run.curves:
            _write(out / f"summary_{run.name}.csv", summary_rows(run))


def summary_rows(run: Run) -> list[dict[str, Any]]:
    """The summary table of the test conditions: pictures at 100 % size, times in seconds (sums).

    harness_qp: the integer that stands for the rate point in harnesses, which count in QPs.
    """
    if run.timings is None:
        raise InputError(f"{run.folder}: expected timings.json, found none; run it again")
    codec, kind = run.result.codec, KINDS[run.result.kind]

    def qp(point: Point) -> int:
        return integer_qp(codec, point.rate_point)

    return [
        {
            "Dataset": f"{run.result.dataset.name}-{task}",
            "rate_point": point.rate_point,
            "harness_qp": qp(point),
            "avg_bpp": point.bpp,
            "end_accuracy": point.accuracy[metric],
            **stages(run.timings.points, point.rate_point, kind),
        }
        for metric, task in DATASET_TASKS.items()
        for point in sorted(run.points, key=qp)
        if metric in point.accuracy and point.percent == 100
    ]


def stages(
    seconds: Mapping[str, Mapping[str, StageSeconds]], rate_point: str, kind: Kind
) -> dict[str, float | None]:
    """The columns of times of the reporting layout for a kind of codec: sums in seconds."""
    spent = {stage: values.sum for stage, values in seconds[rate_point].items()}
    coding = {stage: spent[stage] for stage in ("encode", "decode")}
    if not kind.takes_features:
        return {**coding, "nn_task": spent.get("nn_part1", 0.0) + spent["nn_part2"]}
    once = seconds[UNCOMPRESSED].get("nn_part1")  # shared by all rate points
    first = spent.get("nn_part1", once and once.sum)
    return {"nn_part_1": first, **coding, "nn_part_2": spent["nn_part2"]}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        names = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, fieldnames=list(names))
        writer.writeheader()
        writer.writerows(rows)
