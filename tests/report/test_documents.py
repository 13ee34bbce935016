# SPDX-License-Identifier: BSD-3-Clause
"""Do reports on paper hold the tables, and human vision where it was measured, in every format?"""

from dataclasses import replace

import docx
import openpyxl
import pytest
from test_human_vision import result_of
from test_report import ANCHORS, QUICK
from test_tables import runs  # noqa: F401 (a fixture)
from test_web import cells_of, embedded

from vcm_plugin.cli.main import main
from vcm_plugin.report import tables, write_document
from vcm_plugin.report.document import Table
from vcm_plugin.report.human_tables import human_tables
from vcm_plugin.report.human_vision import human_vision
from vcm_plugin.report.paper import to_document
from vcm_plugin.report.sheets import with_numbers
from vcm_plugin.report.viewer import ViewerOptions
from vcm_plugin.report.web import write_web
from vcm_plugin.report.xlsx import write_xlsx


@pytest.fixture(scope="module")
def report(runs):  # noqa: F811
    """A report whose runs also measured human vision."""
    ours = {f"1+{q}": (100 * 2**q, 50, 60.0, 20.0 + q) for q in range(4)}
    vvc = {str(40 - q): (200 * 2**q, None, 40.0 + 5 * q, 20.0 + q) for q in range(6)}
    vision = human_vision({"ours": result_of(ours), "vvc": result_of(vvc)}, ["vvc"])
    return replace(tables.build_report(runs, ANCHORS, QUICK), human_vision=vision)


def test_docx_read_back_equals_the_tables(report, tmp_path):
    document = to_document(report)
    write_document(document, tmp_path / "report", ["docx", "md", "tex"])
    blocks = [block for block in document.blocks if isinstance(block, Table)]
    grids = docx.Document(tmp_path / "report.docx").tables
    assert len(grids) == len(blocks) and any("Human vision" in b.title for b in blocks)
    for grid, table in zip(grids, blocks, strict=True):
        found = [[cell.text for cell in row.cells] for row in grid.rows]
        assert found == [[c.title for c in table.columns], *table.texts()]
    assert (tmp_path / "report.tex").read_text().startswith(r"\documentclass")
    assert "| ours 1 |" in (tmp_path / "report.md").read_text()


def test_human_vision_is_in_every_format(report, tmp_path):
    human = human_tables(report.human_vision)
    assert [table.title for table in human] == [
        "Human vision: rate points",
        "Human vision: total bits at equal value",
        "Human vision: BD-rate",
    ]
    write_xlsx(report, tmp_path / "report.xlsx")
    book = openpyxl.load_workbook(tmp_path / "report.xlsx")
    for table in human:
        sheet, shown = book[table.sheet], with_numbers(table)
        for number, row in enumerate(shown.rows, start=3):
            for place, column in enumerate(shown.columns, start=1):
                stored, value = sheet.cell(number, place).value, row.get(column.key)
                same = pytest.approx(value, rel=1e-15) if isinstance(value, float) else value
                assert stored == same
    write_web(report, tmp_path / "report.html", ViewerOptions())
    page = (tmp_path / "report.html").read_text()
    found = {tuple(text for text, _ in cells[0]): cells for cells in cells_of(page)}
    for table in human:
        cells = found[tuple(column.title for column in table.columns)]
        assert [[text for text, _ in row] for row in cells[1:]] == table.texts()
    curves = {curve["name"]: curve for curve in embedded(page)["curves"]}
    assert [point[1] for point in curves["ours 1"]["points"]["psnr"]] == [20.0, 21.0, 22.0, 23.0]


def test_the_command_writes_every_format(runs, tmp_path, capsys):  # noqa: F811
    words = ["report", *runs, "--anchor", "vvc_remote", "-o", tmp_path, "--format"]
    assert main([str(word) for word in (*words, "xlsx", "html", "docx", "pdf")]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"report.xlsx", "report.html", "report.docx", "rd_box_ap.pdf"} <= names
    assert (tmp_path / "rd_box_ap.pdf").read_bytes().startswith(b"%PDF")
    assert "BD-rate" in capsys.readouterr().out


def test_a_missing_package_is_named_before_anything_is_computed(runs, tmp_path, monkeypatch):  # noqa: F811
    from vcm_plugin.errors import InputError
    from vcm_plugin.report import write as package

    monkeypatch.setitem(package.NEEDS, "xlsx", "no_such_package")
    with pytest.raises(InputError, match=r"needs the package no_such_package, .*\[report\]"):
        package.write_report(runs, [], tmp_path / "out", ["xlsx"])
    assert not (tmp_path / "out").exists()
