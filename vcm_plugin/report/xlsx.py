# SPDX-License-Identifier: BSD-3-Clause
"""How does a report become a spreadsheet that computes its BD-rates itself?

report.xlsx: a summary with BD-rates, how it was made, a sheet per task with raw points, BD-rates
and native charts, one in the layout of MPEG's reporting template for each pair of test and anchor,
further tables, and the sheet "BD-rate formulas": for every curve and metric the PCHIP of
log10(rate) over accuracy in cell formulas (no macros), for every comparison the difference of the
areas under it. Beside every live BD-rate stands the value that vcm-plugin computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xlsxwriter.utility import xl_rowcol_to_cell

from vcm_plugin.report import made, views
from vcm_plugin.report.document import Footnotes
from vcm_plugin.report.figures import STYLES
from vcm_plugin.report.sequence_tables import sequence_tables
from vcm_plugin.report.sheet_formulas import FORMULAS, Formulas, SheetPoint
from vcm_plugin.report.sheets import Book, Sheet, with_numbers
from vcm_plugin.report.tables import Comparison, Report
from vcm_plugin.report.template_sheet import write_templates
from vcm_plugin.report.titles import TASKS, label_of, task_of, title_of

TASK_SHEETS = {**TASKS, "": "Other"}
MARKERS = {"o": "circle", "s": "square", "^": "triangle", "D": "diamond", "v": "x", "P": "plus"}
DASHES = ("solid", "dash", "dash_dot", "long_dash", "long_dash_dot", "round_dot")
BD_COLUMNS = (
    "test", "anchor", "metric", "BD-rate (%), live formula", "BD-rate (%), vcm-plugin",
    "95 % low", "95 % high", "after monotone fit (%), vcm-plugin", "95 % low", "95 % high",
)  # fmt: skip
Live = dict[tuple[str, str, str], tuple[str, Any]]  # comparison -> formula of a cell, its value


def write_xlsx(report: Report, path: Path) -> None:
    """Write the spreadsheet of a report."""
    book = Book(path, report.heading)
    summary = book.sheet("Summary")
    _write_made(book.sheet("How it was made"), report)
    sheets = {task: book.sheet(TASK_SHEETS[task]) for task in views.tasks(report)}
    templates = write_templates(book, report)
    formulas = Formulas(book.sheet(FORMULAS), report.rules.min_overlap)
    for template in templates:
        template.write(formulas)
    live: Live = {}
    for task, sheet in sheets.items():
        _write_task(sheet, report, task, formulas, live)
    _write_summary(summary, report, live)
    for table in (*sequence_tables(report), *views.data_tables(report)):
        if table.rows:
            book.sheet(table.sheet or table.title).write_table(with_numbers(table))
    book.save()


def _write_summary(sheet: Sheet, report: Report, live: Live) -> None:
    sheet.put(1, 1, f"{report.heading} ({report.dataset.name})", "title")
    facts = {
        "tested": report.scope,
        "anchors": ", ".join(report.anchors),
        "BD-rate": "PCHIP of log10(rate) over accuracy; negative = fewer bits at equal accuracy",
        "least common accuracy": report.rules.min_overlap,
        "95 % intervals": f"bootstrap over pictures, {report.rules.resamples} resamples",
    }
    for row, (name, value) in enumerate(facts.items(), start=3):
        sheet.put(row, 1, name)
        sheet.put(row, 2, value, "note")
    top = _write_bd_rates(sheet, 10, "BD-rate", report.main_comparisons, live)
    _write_bd_rates(
        sheet, top + 1, "BD-rate of anchors against anchors", report.anchor_comparisons, live
    )


def _write_made(sheet: Sheet, report: Report) -> None:
    sheet.put(1, 1, f"How it was made: {report.heading}", "title")
    sheet.write_head(2, ("what", "run", "value"))
    for row, fact in enumerate(made.rows(report), start=3):
        sheet.put(row, 1, fact["what"])
        sheet.put(row, 2, fact["run"] or "all")
        sheet.put(row, 3, fact["value"], "wrap")
    for row, text in enumerate(made.lacking(report), start=len(made.rows(report)) + 4):
        sheet.put(row, 1, text, "note")


def _write_task(sheet: Sheet, report: Report, task: str, formulas: Formulas, live: Live) -> None:
    """Raw points, BD-rates of this task's metrics, a chart of each of them."""
    table = with_numbers(views.points(report, task))
    sheet.write_table(table)
    keys = [column.key for column in table.columns]
    bits, bpp = (1 + keys.index(key) for key in ("bits", "bpp"))
    cells: dict[tuple[str, str, str], str] = {}
    for row, point in enumerate(report.points, start=4):  # 1: title, 2: heads, 3: uncompressed
        rate = f"={_place(row, bits)}/{point.pixels}"
        sheet.put(row, bpp, point.bpp, ".4f", formula=rate)
        for column, key in enumerate(keys, start=1):
            place = f"'{sheet.name}'!{_place(row, column, fixed=True)}"
            cells[point.codec, point.rate_point, key] = place
    metrics = [m for m in report.ap_metrics if task_of(m) == task]
    _add_curves(report, metrics, formulas, cells)
    for found in report.comparisons:
        if found.metric in metrics and found.raw.percent is not None:
            live[found.test, found.anchor, found.metric] = formulas.add_comparison(
                f"{found.test} against {found.anchor}, {title_of(found.metric)}",
                (found.anchor, found.metric), (found.test, found.metric),
            )  # fmt: skip
    below = len(report.points) + len(table.notes) + 6
    chosen = [c for c in report.main_comparisons if c.metric in metrics]
    below = _write_bd_rates(sheet, below, "BD-rate", chosen, live) + 1
    for number, metric in enumerate(metrics if report.curves else ()):
        chart = _chart(report, metric, formulas)
        sheet.file.insert_chart(below - 1, 8 * (number % 2), chart)
        below += 26 * (number % 2)


def _add_curves(
    report: Report, metrics: Sequence[str], formulas: Formulas, cells: dict[tuple, str]
) -> None:
    """The blocks of all curves; a hull keeps the points that are on it now."""
    for curve in report.curves:
        for metric in metrics:
            points = [
                SheetPoint(
                    p.rate_point,
                    cells[p.codec, p.rate_point, "bpp"],
                    cells[p.codec, p.rate_point, metric],
                    p.bpp,
                    p.accuracy[metric],
                )
                for p in curve.chosen(metric)
            ]
            formulas.add_curve((curve.name, metric), f"{curve.name}, {title_of(metric)}", points)


def _write_bd_rates(
    sheet: Sheet, top: int, title: str, comparisons: Sequence[Comparison], live: Live
) -> int:
    """A table of BD-rates; returns the row behind it."""
    if not comparisons:
        return top
    sheet.put(top, 1, title, "title")
    sheet.write_head(top + 1, BD_COLUMNS)
    notes = Footnotes()
    for row, each in enumerate(comparisons, start=top + 2):
        raw, fit = (notes.value(result.percent, result.reason) for result in (each.raw, each.fit))
        low_high = (interval.low_high for interval in (each.raw_interval, each.fit_interval))
        (low, high), (fit_low, fit_high) = (pair or (None, None) for pair in low_high)
        for place, value in enumerate((each.test, each.anchor, title_of(each.metric)), start=1):
            sheet.put(row, place, value)
        formula, value = live.get((each.test, each.anchor, each.metric), ("", raw))
        sheet.put(row, 4, value, "+.2f" if formula else "right", formula=formula)
        for place, value in enumerate((raw, low, high, fit, fit_low, fit_high), start=5):
            sheet.put(row, place, value, "right" if isinstance(value, str) else "+.2f")
    below = top + 3 + len(comparisons)
    for row, note in enumerate(notes.texts, start=below):
        sheet.put(row, 1, note, "note")
    return below + len(notes.texts)


def _chart(report: Report, metric: str, formulas: Formulas) -> Any:
    """bpp (logarithmic) against accuracy, one series per curve."""
    chart = formulas.sheet.book.file.add_chart({"type": "scatter", "subtype": "straight"})
    chart.set_title({"name": f"{report.heading}: {label_of(metric)}", "name_font": {"size": 11}})
    chart.set_x_axis({
        "name": "bits per pixel (log)", "log_base": 10, "label_position": "low",
        "num_format": "General", "major_gridlines": {"visible": True},
    })  # fmt: skip
    chart.set_y_axis({"name": label_of(metric), "num_format": "General"})
    chart.set_size({"width": 760, "height": 460})
    chart.set_legend({"position": "bottom"})
    for number, curve in enumerate(report.curves):
        rates, accuracies = formulas.columns((curve.name, metric))
        colour, marker, _ = STYLES[number % len(STYLES)]
        dash = DASHES[number % len(DASHES)]
        fill = {"fill": {"color": colour}, "border": {"color": colour}}
        chart.add_series({
            "name": curve.name, "categories": rates, "values": accuracies,
            "marker": {"type": MARKERS[marker], "size": 7, **fill},
            "line": {"color": colour, "width": 1.75, "dash_type": dash},
        })  # fmt: skip
    return chart


def _place(row: int, column: int, fixed: bool = False) -> str:
    return xl_rowcol_to_cell(row - 1, column - 1, row_abs=fixed, col_abs=fixed)
