# SPDX-License-Identifier: BSD-3-Clause
"""Which tables does a report write as CSV? Rate-accuracy, BD-rate, near-lossless and summaries."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vcm_plugin.files import read_json
from vcm_plugin.report import human
from vcm_plugin.report.layout import bd_rate_rows, near_lossless_rows, point_rows
from vcm_plugin.report.tables import Point, Report, Run

DATASET_TASKS = {"box_ap": "detection", "mask_ap": "segmentation"}


def write_csv(report: Report, out: Path) -> None:
    """Write rd.csv, bd_rate.csv and near_lossless.csv, and summary_<run>.csv where times exist."""
    _write(out / "rd.csv", point_rows(report))
    _write(out / "bd_rate.csv", bd_rate_rows(report))
    _write(out / "near_lossless.csv", near_lossless_rows(report))
    if report.human_vision.curves:
        _write(out / "human_vision.csv", human.point_rows(report.human_vision))
        _write(out / "human_equal_value.csv", human.equal_rows(report.human_vision))
        _write(out / "human_bd_rate.csv", human.bd_rate_rows(report.human_vision))
    for run in report.runs:
        if (run.folder / "timings.json").is_file() and "+" not in run.points[0].rate_point:
            _write(out / f"summary_{run.name}.csv", summary_rows(run))


def summary_rows(run: Run) -> list[dict[str, Any]]:
    """The summary table of the test conditions: pictures at 100 % size, times in seconds (sums)."""
    seconds = read_json(run.folder / "timings.json")["points"]
    remote = run.result["codec_identity"].get("kind") == "picture"
    return [
        {
            "Dataset": f"{run.result['dataset']['name']}-{task}",
            "qp": qp(point),
            "avg_bpp": point.bpp,
            "end_accuracy": point.accuracy[metric],
            **stages(seconds, point.rate_point, remote),
        }
        for metric, task in DATASET_TASKS.items()
        for point in sorted(run.points, key=qp)
        if metric in point.accuracy and point.size == "100"
    ]


def qp(point: Point) -> int:
    """The integer QP of a rate point of the report."""
    return qp_of(point.codec, point.rate_point)


def qp_of(codec: str, rate_point: str) -> int:
    """The integer QP of a rate point; a scale s stands for 32 + 6 log2(s)."""
    value = rate_point.partition("@")[0]
    if codec.startswith(("vvc", "vtm", "msfc")):
        return int(value)
    return round(32 + 6 * math.log2(float(value)))


def stages(seconds: Mapping[str, Any], rate_point: str, remote: bool) -> dict[str, float]:
    """The columns of times of the reporting layout: sums in seconds."""
    spent = {stage: values["sum"] for stage, values in seconds[rate_point].items()}
    coding = {stage: spent[stage] for stage in ("encode", "decode")}
    if remote:
        return {**coding, "nn_task": spent["nn_part1"] + spent["nn_part2"]}
    once = seconds["uncompressed"].get("nn_part1", {}).get("sum")  # shared by all rate points
    return {"nn_part_1": spent.get("nn_part1", once), **coding, "nn_part_2": spent["nn_part2"]}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        names = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, fieldnames=list(names))
        writer.writeheader()
        writer.writerows(rows)
