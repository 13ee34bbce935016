# SPDX-License-Identifier: BSD-3-Clause
"""Do names that mean something in mathtext, legends, XML or LaTeX come out as they are?"""

import shutil
import zipfile
from xml.etree import ElementTree

import openpyxl
import pytest
from test_tables import runs  # noqa: F401 (a fixture)

from vcm_plugin.report import tables, write_report
from vcm_plugin.report.document import Document, Heading, Paragraph, cleaned
from vcm_plugin.report.docx_file import write_docx
from vcm_plugin.report.text_files import latex_text

NAMES = ["base", "cost_$5_vs_$6", "_mine", "<b>&amp;'\"", "ver\x0btab", "bell\x07\x1b[31m", "=1+1",
         "100%_#{x}~^", "Bäume 木", "\ufffe\uffff"]  # fmt: skip


@pytest.fixture(scope="module")
def written(runs, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("names")
    copies = []
    for name in NAMES:
        copies.append(folder / name)
        shutil.copytree(runs[0], copies[-1])
    out = folder / "report"
    formats = ["csv", "json", "png", "svg", "xlsx", "html", "docx"]
    rules = tables.Rules(resamples=4)
    return write_report(copies, ["base", "ver\x0btab"], out, formats, rules=rules), out


def test_every_name_is_in_the_report_in_a_form_that_can_be_written(written):
    report, _ = written
    names = {run.name for run in report.runs}
    assert len(names) == len(NAMES) and {*NAMES[:4], "ver tab", *NAMES[6:9]} <= names
    assert "bell\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[31m" in names
    assert report.anchors == ("base", "ver tab")


def test_plots_show_every_name_and_are_sound(written):
    report, out = written
    for path in out.glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        ElementTree.fromstring(text)
        for name in ("cost_$5_vs_$6", "_mine", "base", "ver tab"):
            assert name in text, name  # matplotlib writes the text beside its outlines
    assert all(path.stat().st_size > 1000 for path in out.glob("*.png"))


def test_office_files_can_be_opened(written):
    _, out = written
    (book,) = out.glob("*.xlsx")
    texts = {c.value for sheet in openpyxl.load_workbook(book) for row in sheet for c in row}
    assert {"_mine", "cost_$5_vs_$6", "ver tab"} <= texts
    for path in [*out.glob("*.docx"), book]:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".xml"):
                    ElementTree.fromstring(archive.read(name))


def test_texts_of_a_document_are_made_sound(tmp_path):
    document = Document("one\x0btwo\x00", (Heading("a\x0cb"), Paragraph("\ud800\uffff <b>")))
    assert document.title == "one two\N{REPLACEMENT CHARACTER}"
    assert document.blocks[0].text == "a b"
    write_docx(document, tmp_path / "a.docx")
    assert cleaned("plain\n\ttext") == "plain\n\ttext"


def test_latex_escapes_every_special_character():
    assert latex_text("$5_#%&{}~^\\") == (
        r"\$5\_\#\%\&\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
