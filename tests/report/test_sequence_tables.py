# SPDX-License-Identifier: BSD-3-Clause
"""Do reports of sequences show kbps and BD-rate per class, in every format, as `tables` counts?"""

import json
import shutil

import pytest
from openpyxl import load_workbook
from table_script import rows_of

from vcm_plugin.ctc.results import load_result
from vcm_plugin.metrics.bd_rate import bd_rate
from vcm_plugin.report import views, write_report
from vcm_plugin.report.ctc_tables import write_ctc_tables
from vcm_plugin.report.sequence_tables import class_bd_rates, parts_of, sequence_points
from vcm_plugin.report.tables import build_report

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def pair(sfu, tmp_path_factory):
    """The same run twice; the second needs half the bits."""
    other = tmp_path_factory.mktemp("half") / "half"
    shutil.copytree(sfu, other)
    stored = json.loads((other / "result.json").read_text())
    for point in stored["points"]:
        point["bits"] //= 2
        point["per_picture"]["bits"] = [n // 2 for n in point["per_picture"]["bits"]]
    (other / "result.json").write_text(json.dumps(stored))
    return [sfu, other]


def test_kbps_are_those_of_the_tables(sfu, tmp_path):
    rows = rows_of(write_ctc_tables([sfu], tmp_path))
    result = load_result(sfu)
    for number, point in enumerate(sorted(result.points, key=lambda p: -p.bits)):
        parts = {part.sequence or part.group: part for part in parts_of(result, point)}
        for row in rows[number::4]:
            part = parts[row["Dataset"]]
            assert part.kbps == pytest.approx(float(row["bitrate (kbps)"]))
            assert part.accuracy["box_ap"] == pytest.approx(float(row["end_accuracy"]))
        seconds = sum(s.frames / s.fps for s in result.dataset.sequences)
        assert parts["all"].kbps == pytest.approx(point.bits / seconds / 1000, rel=1e-6)


def test_bd_rate_of_each_class(pair):
    report = build_report(pair, ["run"])
    table = class_bd_rates(report)
    groups = [row["group"] for row in table.rows]
    assert groups == ["CLASS-C", "CLASS-D", "all"]
    result = load_result(pair[0])
    for row in table.rows:
        curve = []
        for point in result.points:
            (part,) = [
                p for p in parts_of(result, point) if p.group == row["group"] and not p.sequence
            ]
            curve.append((part.kbps, part.accuracy["box_ap"]))
        expected = bd_rate(sorted(curve), sorted((r / 2, a) for r, a in curve), min_overlap=5.0)
        if expected.percent is None:
            assert isinstance(row["percent"], str)
        else:
            assert row["percent"] == pytest.approx(expected.percent, abs=0.2)


def test_every_format_shows_kbps(pair, tmp_path):
    report = write_report(pair, ["run"], tmp_path, ["csv", "json", "xlsx", "docx", "html"])
    assert "kbps" in [column.key for column in views.points(report).columns]
    rows = sequence_points(report).rows
    assert len(rows) == 2 * 4 * (3 + 2 + 1)
    book = load_workbook(tmp_path / "report.xlsx")
    titles = book.sheetnames
    assert "BD-rate per class" in titles and "Sequences" in titles
    sheet = book["Sequences"]
    heads = [cell.value for cell in sheet[2]]
    assert heads[:5] == ["codec", "rate point", "class", "sequence", "kbps"]
    assert sheet.cell(3, 5).value == pytest.approx(rows[0]["kbps"])
    text = (tmp_path / "report.html").read_text()
    assert "kbps" in text and "BD-rate per class" in text
