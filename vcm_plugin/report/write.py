# SPDX-License-Identifier: BSD-3-Clause
"""Which files does a report consist of? `write_report` computes the tables once, then writes."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from vcm_plugin.errors import InputError
from vcm_plugin.report.csv_files import write_csv
from vcm_plugin.report.document import Document
from vcm_plugin.report.human_plot import write_expected_plot, write_human_plot
from vcm_plugin.report.layout import write_json
from vcm_plugin.report.paper import to_document
from vcm_plugin.report.plots import write_plots
from vcm_plugin.report.tables import Report, Rules, build_report
from vcm_plugin.report.text_files import write_latex, write_markdown
from vcm_plugin.report.viewer import ViewerOptions

FORMATS = ("csv", "json", "png", "svg", "html")  # for these everything is always there
PLOTS = ("png", "svg", "pdf")
# format -> the package that writes it, of the extra "report"
NEEDS = {"xlsx": "xlsxwriter", "docx": "docx"}
ALL_FORMATS = (*FORMATS, "pdf", *NEEDS, "md", "tex")


def write_report(
    runs: Sequence[Path],
    anchors: Sequence[str],
    out: Path,
    formats: Sequence[str] | None = None,
    rules: Rules | None = None,
    viewer: ViewerOptions | None = None,
) -> Report:
    """Compare runs with the anchors and write the report into the folder `out`.

    csv: rd.csv, bd_rate.csv, near_lossless.csv, categories.csv, conditions.csv and the summary
    tables; json: report.json;
    png, svg and pdf: one plot of bpp against accuracy per task, rd_<metric>; where human
    vision was measured, also human_vision.<format>, human_expected.<format> and CSV tables. xlsx:
    the spreadsheet report.xlsx; html: report.html with plots and a viewer; docx, md and tex: the
    tables and plots on paper. None: FORMATS. Raises InputError for an unknown format, and
    for one whose package is missing.
    """
    formats = FORMATS if formats is None else formats
    for name in formats:
        if name not in ALL_FORMATS:
            raise InputError(f"report format {name}: expected one of {', '.join(ALL_FORMATS)}")
        require(name)
    report = build_report(runs, anchors, rules)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if "csv" in formats:
        write_csv(report, out)
    if "json" in formats:
        write_json(report, out)
    plots = [name for name in formats if name in PLOTS]
    drawn = write_plots(report, out, plots)
    write_human_plot(report, out, plots)
    write_expected_plot(report, out, plots)
    if "xlsx" in formats:
        from vcm_plugin.report.xlsx import write_xlsx

        write_xlsx(report, out / "report.xlsx")
    if "html" in formats:
        from vcm_plugin.report.web import write_web

        files = sorted(path.name for path in out.glob("*.csv")) if "csv" in formats else []
        files += [f"report.{name}" for name in ("json", "xlsx") if name in formats]
        write_web(report, out / "report.html", viewer or ViewerOptions(), files)
    if {"docx", "md", "tex"} & set(formats):
        write_document(to_document(report, drawn), out / "report", formats)
    return report


def write_document(document: Document, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write a document as docx, md or tex beside each other; returns the files."""
    if "docx" in formats:
        from vcm_plugin.report.docx_file import write_docx

        write_docx(document, stem.with_suffix(".docx"))
    if "md" in formats:
        write_markdown(document, stem.with_suffix(".md"))
    if "tex" in formats:
        write_latex(document, stem.with_suffix(".tex"))
    return [stem.with_suffix(f".{name}") for name in ("docx", "md", "tex") if name in formats]


def require(name: str) -> None:
    """Raise InputError where the package that a format needs is not installed."""
    try:
        importlib.import_module(NEEDS.get(name, "json"))
    except ImportError as error:
        raise InputError(
            f"report format {name} needs the package {error.name}, found none: "
            "pip install '.[report]'"
        ) from error
