# SPDX-License-Identifier: BSD-3-Clause
"""Does the spreadsheet hold the tables, and do its own formulas find our BD-rates?"""

import formulas
import numpy as np
import openpyxl
import pytest
from test_report import ANCHORS, QUICK
from test_tables import runs, write_run  # noqa: F401 (runs is a fixture)

from vcm_plugin.metrics.bd_rate import Interval, bd_rate
from vcm_plugin.report import tables, views, xlsx
from vcm_plugin.report.curves import Curve, Point
from vcm_plugin.report.human_tables import value_or_reason
from vcm_plugin.report.sheet_formulas import FORMULAS, Formulas
from vcm_plugin.report.titles import task_of, title_of


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):  # noqa: F811
    report = tables.build_report(runs, ANCHORS, QUICK)
    path = tmp_path_factory.mktemp("xlsx") / "report.xlsx"
    xlsx.write_xlsx(report, path)
    return report, path


def live_rates(path):
    """(test, anchor, metric) -> BD-rate as the formulas of the summary compute it."""
    sheet = openpyxl.load_workbook(path)["Summary"]
    values = formulas.ExcelModel().loads(str(path)).finish().calculate()
    book = f"'[{path.name}]SUMMARY'!".upper()
    upper = {name.upper(): cells for name, cells in values.items()}
    return {
        (row[0].value, row[1].value, row[2].value): upper[f"{book}D{row[0].row}"].value[0, 0]
        for row in sheet.iter_rows(min_row=11)
    }


def same(stored, value):
    """Equal, but for the last of the 16 digits that the file format keeps."""
    return stored == (pytest.approx(value, rel=1e-15) if isinstance(value, float) else value)


def test_live_bd_rates_equal_ours(written):
    report, path = written
    live = live_rates(path)
    assert len(live) == len(report.comparisons) > 8
    refused = 0
    for found in report.comparisons:
        value = live[found.test, found.anchor, title_of(found.metric)]
        if found.raw.percent is None:
            refused += 1
            assert value == "refused"
        else:
            assert value == pytest.approx(found.raw.percent, abs=1e-9)
    assert refused < len(live)


def test_another_number_gives_another_bd_rate(written, tmp_path):
    report, path = written
    found = next(c for c in report.comparisons if c.raw.percent is not None)
    curves = {curve.name: curve for curve in report.curves}
    point = curves[found.test].chosen(found.metric)[1]
    book = openpyxl.load_workbook(path)
    sheet = book[xlsx.TASK_SHEETS[task_of(found.metric)]]
    row = next(
        row for row in sheet.iter_rows(min_row=4)
        if [cell.value for cell in row[:2]] == [point.codec, point.rate_point]
    )  # fmt: skip
    assert row[2].value == point.bits
    row[2].value = point.bits * 1.05
    book.save(tmp_path / "edited.xlsx")
    test = [
        (p.bpp * (1.05 if p is point else 1), p.accuracy[found.metric])
        for p in curves[found.test].chosen(found.metric)
    ]
    expected = bd_rate(curves[found.anchor].rate_accuracy(found.metric), test).percent
    key = found.test, found.anchor, title_of(found.metric)
    assert live_rates(tmp_path / "edited.xlsx")[key] == pytest.approx(expected, abs=1e-9)
    assert abs(expected - found.raw.percent) > 0.1


def test_every_number_read_back_equals_the_tables(written):
    report, path = written
    book = openpyxl.load_workbook(path)
    for task in views.tasks(report):
        table = views.points(report, task)
        sheet = book[xlsx.TASK_SHEETS[task]]
        for number, row in enumerate(table.rows, start=3):
            for place, column in enumerate(table.columns, start=1):
                if column.key != "bpp":  # a formula, checked with the BD-rates
                    assert same(sheet.cell(number, place).value, row.get(column.key))
    summary = book["Summary"]
    for row, found in zip(summary.iter_rows(min_row=11), report.comparisons, strict=True):
        raw, fit = (i.low_high or (None, None) for i in (found.raw_interval, found.fit_interval))
        values = value_or_reason(found.raw), *raw, value_or_reason(found.fit), *fit
        assert all(same(cell.value, value) for cell, value in zip(row[4:], values, strict=True))
    complexity = views.complexity(report)
    for number, row in enumerate(complexity.rows, start=3):
        for place, column in enumerate(complexity.columns, start=1):
            assert same(book["Complexity"].cell(number, place).value, row.get(column.key))


def test_each_task_has_native_charts_of_its_curves(written):
    report, path = written
    for name in ("Detection", "Instance segmentation"):
        charts = openpyxl.load_workbook(path)[name]._charts
        assert len(charts) == 2
        assert all(len(chart.series) == len(report.curves) for chart in charts)


def test_a_text_that_looks_like_a_formula_stays_a_text(runs, tmp_path):  # noqa: F811
    run = write_run(tmp_path / "a", codec="=1+1", pictures=3, points={"22": 1, "32": 3})
    report = tables.build_report([run], [], QUICK)
    xlsx.write_xlsx(report, tmp_path / "a.xlsx")
    cell = openpyxl.load_workbook(tmp_path / "a.xlsx")["Detection"]["A4"]
    assert (cell.value, cell.data_type) == ("=1+1", "s")


def test_curves_of_random_points_agree_with_scipy(tmp_path):
    """The cells follow PCHIP at its corners too: steep ends, and four to eight points."""
    rng = np.random.default_rng(5)
    from openpyxl import Workbook

    for count in (4, 5, 8):
        book = Workbook()
        raw = book.active
        raw.title = "Raw"
        sheet = Formulas(book.create_sheet(FORMULAS), 0.0)
        curves, cells, row = {}, {}, 1
        for name in ("anchor", "test"):
            rates = np.cumsum(np.ceil(rng.lognormal(3, 2, count))).astype(int)
            accuracies = np.cumsum(rng.lognormal(0, 2, count))
            accuracies -= accuracies[0]
            accuracies *= rng.uniform(60, 80) / accuracies[-1]
            points = []
            for k, (bits, value) in enumerate(zip(rates, accuracies, strict=True)):
                points.append(Point(name, str(k), 1, int(bits), 100, {"box_ap": value}))
                raw.cell(row, 1, int(bits) / 100)
                raw.cell(row, 2, float(value))
                cells[name, str(k), "bpp"] = f"Raw!$A${row}"
                cells[name, str(k), "box_ap"] = f"Raw!$B${row}"
                row += 1
            curves[name] = Curve(name, tuple(points), hull=False)
            sheet.add_curve(curves[name], "box_ap", cells)
        result = bd_rate(*(c.rate_accuracy("box_ap") for c in curves.values()))
        assert result.percent is not None
        empty = Interval(None, 0, 0)
        sheet.add_comparison(
            tables.Comparison("test", "anchor", "box_ap", result, empty, result, empty)
        )
        path = tmp_path / f"{count}.xlsx"
        book.save(path)
        found = formulas.ExcelModel().loads(str(path)).finish().calculate()
        cell = f"'[{count}.XLSX]{FORMULAS.upper()}'!T3"
        value = {k.upper(): v for k, v in found.items()}[cell].value[0, 0]
        assert value == pytest.approx(result.percent, rel=1e-9)
