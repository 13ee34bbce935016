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
from vcm_plugin.ctc.results import UNCOMPRESSED, Complexity, StageSeconds
from vcm_plugin.report import costs, tables, write_document
from vcm_plugin.report.document import KEPT, MISSING, WHOLE, Column, Document, Table
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


def table_of(rows: int, notes: tuple[str, ...] = ()) -> Table:
    columns = Column("name", "name"), Column("bits", "bits", ",d")
    numbered = tuple({"name": f"row {n}", "bits": 1000 * n} for n in range(rows))
    return Table("A table", columns, numbered, notes)


@pytest.mark.parametrize("notes", ((), ("one", "two")))
def test_tables_are_parted_only_where_they_are_long(tmp_path, notes):
    short, long = table_of(WHOLE, notes), table_of(WHOLE + 1, notes)
    write_document(Document("d", (short, long)), tmp_path / "d", ["docx", "tex"])
    latex = (tmp_path / "d.tex").read_text()
    for table, grid in zip((short, long), docx.Document(tmp_path / "d.docx").tables, strict=True):
        kept = [
            row.cells[0].paragraphs[0].style.paragraph_format.keep_with_next for row in grid.rows
        ]
        rows = len(table.rows)
        ends = {rows - 1} if rows <= WHOLE else {*range(KEPT - 1, rows - KEPT), rows - 1}
        if notes:
            ends -= {rows - 1}
        assert [number for number, keeps in enumerate(kept[1:]) if not keeps] == sorted(ends)
        assert kept[0]
    kept_rows = sum(table.keeps(n) for table in (short, long) for n in range(len(table.rows)))
    kept_notes = 2 * max(0, len(notes) - 1)
    assert latex.count(" \\\\*\n") == kept_rows + kept_notes


def test_short_cells_stay_on_one_line_and_titles_take_no_more_than_they_need():
    columns = (
        Column("curve", "curve"), Column("metric", "metric"), Column("bpp", "bpp", ".4f"),
        Column("fit", "bpp after monotone fit", ".4f"), Column("note", "note"),
    )  # fmt: skip
    row = {
        "curve": "vvc_remote_100",
        "metric": "mask AP50",
        "bpp": 0.1,
        "fit": 0.2,
        "note": "x " * 90,
    }
    table = Table("t", columns, (row,))
    widths = [share * 102 for share in table.shares(102)]
    assert widths[0] >= len("vvc_remote_100") and widths[1] >= len("mask AP50")
    assert widths[3] < 22 and widths[4] == max(widths)


def test_every_cell_of_a_row_has_the_size_of_the_table(tmp_path):
    """An empty cell, too, else its row is higher than the others."""
    rows = ({"name": "", "bits": 1}, {"name": "a", "bits": None})
    table = Table("t", (Column("name", "name"), Column("bits", "bits", ",d")), rows)
    write_document(Document("d", (table,)), tmp_path / "d", ["docx"])
    (grid,) = docx.Document(tmp_path / "d.docx").tables
    styles = {cell.paragraphs[0].style.font.size for row in grid.rows for cell in row.cells}
    assert len(styles) == 1 and None not in styles


def test_complexity_has_both_parts_of_the_detector_and_says_what_has_no_count(report):
    cost = Complexity("37", 7.32, "n/a: no count of aten::cumsum", 4739305, 1 << 30, 30.3, 12.5)
    first = report.runs[0]
    run = replace(first, timings=replace(first.timings, complexity=cost))
    table = costs.complexity(replace(report, runs=(run,)))
    row = [run.name, "7.3", f"{MISSING} (1)", "30.3", "12.5", "4,739,305", "1,024"]
    assert table.texts() == [row]
    assert table.notes[-1] == "(1) n/a: no count of aten::cumsum"
    assert table in costs.tables(replace(report, runs=(run,)))


def test_what_makes_features_of_a_picture_has_no_first_part(report):
    """A codec of the kind `heads` takes a picture and gives features: neither end has NN-Part1."""
    point, stages = report.runs[0].points[0], ("encode", "decode", "nn_part1", "nn_part2")
    points = {
        UNCOMPRESSED: {"nn_part1": StageSeconds(8.0 * point.pictures)},
        point.rate_point: {stage: StageSeconds(1.0 * point.pictures) for stage in stages},
    }
    cost = Complexity("37", 7.0, 8.0, 1, 1 << 30, 30.0, 12.0)
    for kind, once, first, part in (
        ("heads", (), None, None), ("picture", ("nn_part1",), 1.0, 30.0), ("feature", (), 8.0, 30.0)
    ):  # fmt: skip
        run = report.runs[0]
        of_kind = {
            s: v for s, v in points[point.rate_point].items() if s != "nn_part1" or s in once
        }
        timings = replace(run.timings, complexity=cost, points=points | {point.rate_point: of_kind})
        result = replace(run.result, codec_identity={**run.result.codec_identity, "kind": kind})
        run = replace(run, points=(point,), timings=timings, result=result)
        made = replace(report, runs=(run,))
        assert costs.seconds(made).rows[0]["nn_part1"] == first
        assert costs.complexity(made).rows[0]["nn_part1_kmac"] == part
        anchor = replace(run, name="anchor")
        both = replace(report, runs=(run, anchor), anchors=("anchor",))
        assert costs.against_anchors(both).rows[0]["receiver_percent"] == 100
        receiver = costs._mean_seconds(run)["receiver"]
        assert receiver == (3.0 if kind == "picture" else 2.0)
