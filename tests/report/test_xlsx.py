# SPDX-License-Identifier: BSD-3-Clause
"""Does the spreadsheet hold the tables, and do its own formulas find our BD-rates?"""

import formulas
import numpy as np
import openpyxl
import pytest
from test_report import ANCHORS, QUICK
from test_tables import runs, write_run  # noqa: F401 (runs is a fixture)

from vcm_plugin.errors import InputError
from vcm_plugin.metrics.bd_rate import bd_rate
from vcm_plugin.report import costs, tables, views, xlsx
from vcm_plugin.report.document import Column, Table
from vcm_plugin.report.sheet_formulas import FORMULAS, Formulas, SheetPoint
from vcm_plugin.report.sheets import Book, with_numbers
from vcm_plugin.report.titles import METRICS, task_of, title_of


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):  # noqa: F811
    report = tables.build_report(runs, ANCHORS, QUICK)
    path = tmp_path_factory.mktemp("xlsx") / "report.xlsx"
    xlsx.write_xlsx(report, path)
    return report, path


def summary_rows(path, **options):
    """The rows of BD-rates in the summary."""
    sheet = openpyxl.load_workbook(path, **options)["Summary"]
    names = {title_of(metric) for metric in METRICS}
    return [row for row in sheet.iter_rows(min_row=11) if row[2].value in names]


def live_rates(path):
    """(test, anchor, metric) -> BD-rate as the formulas of the summary compute it."""
    values = formulas.ExcelModel().loads(str(path)).finish().calculate()
    book = f"'[{path.name}]SUMMARY'!".upper()
    upper = {name.upper(): cells for name, cells in values.items()}
    return {
        (row[0].value, row[1].value, row[2].value): upper[f"{book}D{row[0].row}"].value[0, 0]
        for row in summary_rows(path)
    }


def same(stored, value):
    """Equal, but for the last of the 16 digits that the file format keeps."""
    stored = None if stored == "" else stored
    return stored == (pytest.approx(value, rel=1e-15) if isinstance(value, float) else value)


def shown(value):
    """What a cell holds of a value: an empty text is an empty cell."""
    return None if value == "" else value


def test_live_bd_rates_equal_ours(written):
    report, path = written
    live = live_rates(path)
    assert len(live) == len(report.comparisons) > 8
    refused = 0
    for found in report.comparisons:
        value = live[found.test, found.anchor, title_of(found.metric)]
        if found.raw.percent is None:
            refused += 1
            assert value.startswith("— (")
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
        if [cell.value for cell in row[:2]] == [point.codec, int(point.rate_point[:2])]
        and row[3].value == point.bits
    )  # fmt: skip
    row[3].value = point.bits * 1.05
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
        table = with_numbers(views.points(report, task))
        sheet = book[xlsx.TASK_SHEETS[task]]
        for number, row in enumerate(table.rows, start=3):
            for place, column in enumerate(table.columns, start=1):
                if column.key != "bpp":  # a formula, checked with the BD-rates
                    assert same(sheet.cell(number, place).value, shown(row.get(column.key)))
    found = {tuple(cell.value for cell in row[:3]): row for row in summary_rows(path)}
    for each in report.comparisons:
        row = found[each.test, each.anchor, title_of(each.metric)]
        for place, result, interval in (
            (4, each.raw, each.raw_interval), (7, each.fit, each.fit_interval),
        ):  # fmt: skip
            low_high = interval.low_high or (None, None)
            assert [same(c.value, v) for c, v in zip(row[place + 1 :], low_high)] == [True, True]
            if result.percent is not None:
                assert same(row[place].value, result.percent)
    complexity = with_numbers(costs.seconds(report))
    for number, row in enumerate(complexity.rows, start=3):
        for place, column in enumerate(complexity.columns, start=1):
            assert same(
                book["Seconds per picture"].cell(number, place).value, shown(row.get(column.key))
            )


def test_a_program_that_does_not_recalculate_shows_the_same(written):
    """The values written beside the formulas are those that the formulas have."""
    report, path = written
    cached, stated = (openpyxl.load_workbook(path, data_only=only) for only in (True, False))
    values = formulas.ExcelModel().loads(str(path)).finish().calculate()
    upper = {name.upper(): cells for name, cells in values.items()}
    compared = 0
    for sheet in stated:
        for row in sheet.iter_rows():
            for cell in row:
                if cell.data_type != "f":
                    continue
                shown = cached[sheet.title][cell.coordinate].value
                name = f"'[{path.name}]{sheet.title}'!{cell.coordinate}".upper()
                computed = upper[name].value[0, 0]
                compared += 1
                if isinstance(shown, float | int):
                    assert shown == pytest.approx(computed, rel=1e-9, abs=1e-9), name
    assert compared > 300
    for row in summary_rows(path, data_only=True):
        if isinstance(row[3].value, float):
            assert row[3].value == pytest.approx(row[4].value, abs=1e-9)


def test_rate_points_are_numbers_and_sizes_have_a_column(written):
    sheet = openpyxl.load_workbook(written[1])["Detection"]
    heads = [cell.value for cell in sheet[2]]
    assert heads[:3] == ["codec", "rate point", "size (%)"]
    kinds = {type(row[1].value) for row in sheet.iter_rows(min_row=4, max_row=9)}
    assert kinds == {int}
    both = Table("t", (Column("rate_point", "rate point"),), ({"rate_point": "2.8+37@50"},))
    assert dict(with_numbers(both).rows[0]) == {"rate_point": 2.8, "human": 37, "size": 50}


def test_names_of_sheets_are_whole(written):
    report, path = written
    names = openpyxl.load_workbook(path).sheetnames
    assert "Near-lossless" in names and "How it was made" in names
    for table in views.data_tables(report):
        assert (table.sheet or table.title) in names


def test_a_name_that_would_be_cut_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a name of 1 to 31 characters"):
        Book(tmp_path / "a.xlsx", "t").sheet("a" * 32)


def test_the_template_has_the_anchor_left_and_the_test_right(runs, tmp_path):  # noqa: F811
    report = tables.build_report(runs, ["vvc_remote"], QUICK)
    xlsx.write_xlsx(report, tmp_path / "a.xlsx")
    book = openpyxl.load_workbook(tmp_path / "a.xlsx", data_only=True)
    sheet = book["vs vvc_remote, box AP"]
    heads = next(row for row in sheet.iter_rows() if row[2].value == "anchor: vvc_remote")
    assert heads[7].value == "test: vvc_feature"
    first = sheet[heads[0].row + 2]
    anchor = max((p for p in report.points if p.codec == "vvc_remote" and p.percent == 100),
                 key=lambda p: p.bits)  # fmt: skip
    test = max((p for p in report.points if p.codec == "vvc_feature"), key=lambda p: p.bits)
    assert [cell.value for cell in first[2:5]] == [
        int(anchor.rate_point), pytest.approx(anchor.bpp), pytest.approx(anchor.accuracy["box_ap"]),
    ]  # fmt: skip
    assert first[8].value == pytest.approx(test.bpp)
    plain = [
        sorted((p.bpp, p.accuracy["box_ap"]) for p in report.points
               if p.codec == name and p.percent == 100)
        for name in ("vvc_remote", "vvc_feature")
    ]  # fmt: skip
    expected = bd_rate(*plain, "pchip", report.rules.min_overlap).percent
    shown = first[12].value
    assert shown == (pytest.approx(expected, abs=1e-9) if expected is not None else shown)
    assert first[13].value == pytest.approx(100)  # both take 2.5 s at each rate point


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
    for count in (4, 5, 8):
        path = tmp_path / f"{count}.xlsx"
        book = Book(path, "random")
        raw = book.sheet("Raw")
        sheet = Formulas(book.sheet(FORMULAS), 0.0)
        curves, row = {}, 1
        for name in ("anchor", "test"):
            rates = np.cumsum(np.ceil(rng.lognormal(3, 2, count))) / 100
            accuracies = np.cumsum(rng.lognormal(0, 2, count))
            accuracies -= accuracies[0]
            accuracies *= rng.uniform(60, 80) / accuracies[-1]
            points = []
            for rate, value in zip(rates.tolist(), accuracies.tolist(), strict=True):
                raw.put(row, 1, rate)
                raw.put(row, 2, value)
                points.append(SheetPoint("", f"Raw!$A${row}", f"Raw!$B${row}", rate, value))
                row += 1
            sheet.add_curve(name, name, points)
            curves[name] = [(point.rate, point.accuracy) for point in points]
        result = bd_rate(curves["anchor"], curves["test"])
        assert result.percent is not None
        _, cached = sheet.add_comparison("test against anchor", "anchor", "test")
        assert cached == pytest.approx(result.percent, rel=1e-9)
        book.save()
        found = formulas.ExcelModel().loads(str(path)).finish().calculate()
        cell = f"'[{count}.XLSX]{FORMULAS.upper()}'!T3"
        value = {k.upper(): v for k, v in found.items()}[cell].value[0, 0]
        assert value == pytest.approx(result.percent, rel=1e-9)
