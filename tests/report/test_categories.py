# SPDX-License-Identifier: BSD-3-Clause
"""Does a report show in which categories a codec loses, and with the right numbers?"""

import csv

import openpyxl
import pytest
from test_report import QUICK
from test_tables import edited, runs  # noqa: F401 (runs is a fixture)

from vcm_plugin.report import categories, views, write_report
from vcm_plugin.report.pages import cells

NAMES = ("gear", "leaf")


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("categories")

    def change(result):
        result["uncompressed"]["categories"] = {n: {"box_ap": 80.0, "mask_ap": 70.0} for n in NAMES}
        for number, point in enumerate(result["points"], start=1):
            point["categories"] = {
                "gear": {"box_ap": 80.0 - number, "mask_ap": 70.0},
                "leaf": {"box_ap": 80.0 - 2 * number, "mask_ap": 71.0},
            }

    both = [edited(run, folder / run.name, change) for run in runs]
    formats = ["csv", "xlsx", "html", "md"]
    return write_report(both, ["vvc_remote"], folder / "out", formats, QUICK), folder / "out"


def test_the_worst_category_stands_on_top_below_all_together(written):
    report, _ = written
    table = next(
        t
        for t in categories.losses(report)
        if t.title.startswith("vvc_feature: gain or loss of box")
    )
    assert [row["category"] for row in table.rows] == ["all together", "leaf", "gear"]
    names = [column.key for column in table.columns[2:]]
    result = report.runs[0].result
    for row, step in zip(table.rows[1:], (2, 1), strict=True):
        for number, point in enumerate(result.points, start=1):
            assert row[point.rate_point] == -step * number
    bits = [result.point(name).bits for name in names]
    assert bits == sorted(bits, reverse=True)
    assert [column.text(table.rows[1][column.key]) for column in table.columns[1:3]] == [
        "80.0",
        "-2.0",
    ]


def test_losses_are_orange_and_gains_blue_the_more_the_darker(written):
    report, out = written
    loss, gain = (
        next(t for t in categories.losses(report) if f"of {what}" in t.title)
        for what in ("box AP", "mask AP")
    )
    shades = [cell.shade for cell in cells(loss)[1][2:]]
    assert all(shade.startswith("rgba(213, 94, 0") for shade in shades)
    opacity = [float(shade.split()[-1].rstrip(")")) for shade in shades]
    assert opacity == sorted(opacity) and opacity[-1] > opacity[0]
    assert cells(gain)[-1][2].shade.startswith("rgba(0, 114, 178")
    assert not cells(loss)[1][1].shade  # the accuracy itself is neither
    assert "rgba(213, 94, 0" in (out / "report.html").read_text()


def test_csv_and_spreadsheet_hold_every_category_at_every_point(written):
    report, out = written
    with (out / "categories.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    points = sum(len(run.result.points) for run in report.runs)
    assert len(rows) == 2 * (points + 1)
    assert rows[0] == {"codec": "uncompressed", "rate_point": "", "category": "gear",
                       "box_ap": "80.0", "mask_ap": "70.0"}  # fmt: skip
    sheet = openpyxl.load_workbook(out / "report.xlsx")["Categories"]
    read = [row[0].value for row in sheet.iter_rows(min_row=3) if row[0].value]
    assert len(read) == len(rows)


def test_paper_has_at_most_eight_rate_points_the_ends_among_them(written):
    report, _ = written
    whole, thin = (categories.losses(report, most)[-1] for most in (99, 3))
    assert len(thin.columns) == 5 < len(whole.columns)
    assert (thin.columns[2], thin.columns[-1]) == (whole.columns[2], whole.columns[-1])
    assert all(
        len(table.columns) <= 10 for table in views.appendix_tables(report) if "gain" in table.title
    )


def test_runs_without_categories_have_no_such_tables(runs, tmp_path):  # noqa: F811
    report = write_report(runs, ["vvc_remote"], tmp_path, ["csv"], QUICK)
    assert categories.losses(report) == [] and categories.rows(report) == []
    assert (tmp_path / "categories.csv").read_text().strip() == ""
