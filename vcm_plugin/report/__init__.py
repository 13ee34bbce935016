# SPDX-License-Identifier: BSD-3-Clause
"""Which files does a report consist of? `write_report` computes the tables once, then writes."""

from collections.abc import Sequence
from pathlib import Path

from vcm_plugin.errors import InputError
from vcm_plugin.report.csv_files import write_csv
from vcm_plugin.report.human import write_human_plot
from vcm_plugin.report.layout import write_json
from vcm_plugin.report.plots import write_plots
from vcm_plugin.report.terminal import rd_table_text, rd_tables
from vcm_plugin.tables import Report, Rules, build_report

__all__ = ["FORMATS", "rd_table_text", "rd_tables", "write_report"]

FORMATS = ("csv", "json", "png", "svg")


def write_report(
    runs: Sequence[Path],
    anchors: Sequence[str],
    out: Path,
    formats: Sequence[str] = FORMATS,
    rules: Rules | None = None,
) -> Report:
    """Compare runs with the anchors and write the report into the folder `out`.

    csv: rd.csv, bd_rate.csv, near_lossless.csv and the summary tables; json: report.json;
    png and svg: one plot of bpp against accuracy per task, rd_<metric>. Where human vision was
    measured, also human_vision.<format>, human_equal_value.csv and human_bd_rate.csv.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"report format {name}: expected one of {', '.join(FORMATS)}")
    report = build_report(runs, anchors, rules)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if "csv" in formats:
        write_csv(report, out)
    if "json" in formats:
        write_json(report, out)
    pictures = [name for name in formats if name in ("png", "svg")]
    write_plots(report, out, pictures)
    write_human_plot(report, out, pictures)
    return report
