# SPDX-License-Identifier: BSD-3-Clause
"""How does a report become a spreadsheet that computes its BD-rates itself?

report.xlsx: a summary, a sheet per task with raw points, BD-rates and a native chart, further
tables, and the sheet "BD-rate formulas": for every curve and metric the PCHIP of log10(rate) over
accuracy in cell formulas (no macros), for every comparison the difference of the areas under it.
Beside every live BD-rate stands the value that vcm-plugin computed. A program that does not
recalculate shows the live cells empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openpyxl import Workbook
from openpyxl.chart import ScatterChart, Series
from openpyxl.styles import Font
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.worksheet import Worksheet

from vcm_plugin.report import views
from vcm_plugin.report.document import Column, Table
from vcm_plugin.report.figures import STYLES
from vcm_plugin.report.human_tables import human_tables, value_or_reason
from vcm_plugin.report.sequence_tables import sequence_tables
from vcm_plugin.report.sheet_formulas import FORMULAS, Formulas, write_head
from vcm_plugin.report.tables import Comparison, Report
from vcm_plugin.report.titles import TASKS, label_of, task_of, title_of

TASK_SHEETS = {**TASKS, "": "Other"}
MARKERS = {"o": "circle", "s": "square", "^": "triangle", "D": "diamond", "v": "x", "P": "plus"}
NUMBER_FORMATS = {".2f": "0.00", "+.2f": "+0.00;-0.00", ".4f": "0.0000", "d": "0", ".0f": "0"}
BD_COLUMNS = (
    "test", "anchor", "metric", "BD-rate (%), live formula", "BD-rate (%), vcm-plugin",
    "95 % low", "95 % high", "after monotone fit (%), vcm-plugin", "95 % low", "95 % high",
)  # fmt: skip


def write_xlsx(report: Report, path: Path) -> None:
    """Write the spreadsheet of a report."""
    book = Workbook()
    book.remove(book.active)
    book.properties.creator = "vcm-plugin"
    summary = book.create_sheet("Summary")
    sheets = {task: book.create_sheet(TASK_SHEETS[task]) for task in views.tasks(report)}
    formulas = Formulas(book.create_sheet(FORMULAS), report.rules.min_overlap)
    for task, sheet in sheets.items():
        _write_task(sheet, report, task, formulas)
    _write_summary(summary, report, formulas)
    for table in (
        *sequence_tables(report), views.near_lossless(report), *human_tables(report.human_vision),
        views.complexity(report), views.published(report), views.surveyed(report),
        views.environment(report),
    ):  # fmt: skip
        if table.rows:
            _write_table(book.create_sheet(table.title.replace(":", ",")[:31]), table)
    for sheet in book:
        _dress(sheet)
    book.save(path)


def _write_summary(sheet: Worksheet, report: Report, formulas: Formulas) -> None:
    sheet["A1"] = f"{report.condition}: {report.dataset.name}"
    sheet["A1"].font = Font(bold=True, size=14)
    facts = {
        "pictures": report.dataset.pictures,
        "anchors": ", ".join(report.anchors),
        "BD-rate": "PCHIP of log10(rate) over accuracy; negative = fewer bits at equal accuracy",
        "least common accuracy": report.rules.min_overlap,
        "95 % intervals": f"bootstrap over pictures, {report.rules.resamples} resamples",
    }
    for row, (name, value) in enumerate(facts.items(), start=2):
        sheet.cell(row, 1, name)
        sheet.cell(row, 2, value)
    _write_bd_rates(sheet, 9, report.comparisons, formulas)


def _write_task(sheet: Worksheet, report: Report, task: str, formulas: Formulas) -> None:
    """Raw points, BD-rates of this task's metrics, a chart of each of them."""
    table = views.points(report, task)
    _write_table(sheet, table)
    bits, bpp = (1 + [c.key for c in table.columns].index(key) for key in ("bits", "bpp"))
    cells = {}
    for row, point in enumerate(report.points, start=4):  # 1: title, 2: heads, 3: uncompressed
        rate = f"{get_column_letter(bits)}{row}/{point.pixels}"
        sheet.cell(row, bpp, f"={rate}").number_format = "0.0000"
        for column, shown in enumerate(table.columns, start=1):
            place = f"'{sheet.title}'!${get_column_letter(column)}${row}"
            cells[point.codec, point.rate_point, shown.key] = place
    metrics = [m for m in report.ap_metrics if task_of(m) == task]
    for curve in report.curves:
        for metric in metrics:
            formulas.add_curve(curve, metric, cells)
    comparisons = [c for c in report.comparisons if c.metric in metrics]
    for comparison in comparisons:
        formulas.add_comparison(comparison)
    below = len(report.points) + 6
    _write_bd_rates(sheet, below, comparisons, formulas)
    below += len(comparisons) + 4
    for number, metric in enumerate(metrics if report.curves else ()):
        chart = _chart(report, metric, formulas)
        sheet.add_chart(chart, f"{get_column_letter(1 + 8 * (number % 2))}{below}")
        below += 26 * (number % 2)


def _write_table(sheet: Worksheet, table: Table) -> None:
    sheet.cell(1, 1, table.title).font = Font(bold=True, size=14)
    write_head(sheet, 2, [column.title for column in table.columns])
    for number, row in enumerate(table.rows, start=3):
        for place, column in enumerate(table.columns, start=1):
            _write_value(sheet.cell(number, place), column, row.get(column.key))
    for number, note in enumerate(table.notes, start=len(table.rows) + 4):
        sheet.cell(number, 1, note).font = Font(italic=True)


def _write_value(cell, column: Column, value) -> None:
    if value is None or isinstance(value, (str, int, float)):
        cell.value = value
        cell.number_format = NUMBER_FORMATS.get(column.spec, "General")
        if isinstance(value, str):
            cell.data_type = "s"  # a text that begins with "=" is no formula
    else:
        cell.value = column.text(value)


def _write_bd_rates(
    sheet: Worksheet, top: int, comparisons: Sequence[Comparison], formulas: Formulas
) -> None:
    if not comparisons:
        return
    sheet.cell(top, 1, "BD-rate").font = Font(bold=True, size=14)
    write_head(sheet, top + 1, BD_COLUMNS)
    for row, each in enumerate(comparisons, start=top + 2):
        live = formulas.results[each.test, each.anchor, each.metric]
        raw, fit = (value_or_reason(result) for result in (each.raw, each.fit))
        low_high = (interval.low_high for interval in (each.raw_interval, each.fit_interval))
        (low, high), (fit_low, fit_high) = (pair or (None, None) for pair in low_high)
        names = (each.test, each.anchor, title_of(each.metric))
        values = (*names, live, raw, low, high, fit, fit_low, fit_high)
        for place, value in enumerate(values, start=1):
            cell = sheet.cell(row, place, value)
            if place > 3:
                cell.number_format = NUMBER_FORMATS["+.2f"]


def _chart(report: Report, metric: str, formulas: Formulas) -> ScatterChart:
    """bpp (logarithmic) against accuracy, one series per curve."""
    chart = ScatterChart(style=13, scatterStyle="lineMarker")
    chart.title = f"{report.condition}: {label_of(metric)}"
    chart.x_axis.title, chart.y_axis.title = "bits per pixel (log)", label_of(metric)
    chart.x_axis.scaling.logBase = 10
    chart.x_axis.number_format = "General"
    chart.x_axis.tickLblPos = "low"
    chart.x_axis.delete = chart.y_axis.delete = False
    chart.width, chart.height, chart.legend.position = 20, 12, "b"
    for number, curve in enumerate(report.curves):
        rates, accuracies = formulas.columns(curve.name, metric)
        series = Series(accuracies, rates, title=curve.name)
        colour, marker, _ = STYLES[number % len(STYLES)]
        series.marker.symbol, series.marker.size = MARKERS[marker], 7
        series.marker.graphicalProperties.solidFill = colour[1:]
        series.graphicalProperties.line.solidFill = colour[1:]
        series.smooth = False
        chart.series.append(series)
    return chart


def _dress(sheet: Worksheet) -> None:
    """Widths of the columns; on paper, a landscape page as wide as the sheet."""
    for number in range(1, sheet.max_column + 1):
        widths = [
            min(len(str(cell.value)), 24)
            for cell in next(sheet.iter_cols(number, number, min_row=2))
            if cell.value is not None and not str(cell.value).startswith("=")
        ]
        sheet.column_dimensions[get_column_letter(number)].width = max([10, *widths]) + 2
    sheet.freeze_panes = "A3"
    sheet.page_setup.orientation, sheet.page_setup.fitToHeight = "landscape", 0
    sheet.sheet_properties.pageSetUpPr.fitToPage = True
