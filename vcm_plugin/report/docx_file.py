# SPDX-License-Identifier: BSD-3-Clause
"""How does a document become a Word file?"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import docx
from docx.enum.section import WD_ORIENT
from docx.enum.style import WD_STYLE_TYPE
from docx.enum.text import WD_ALIGN_PARAGRAPH
from docx.oxml import OxmlElement
from docx.oxml.ns import qn
from docx.shared import Cm, Pt

from vcm_plugin.report.document import (
    LONG,
    Bullets,
    Document,
    Figure,
    Front,
    Heading,
    Paragraph,
    Table,
)

# From so many columns on, so many points, and the characters that a page then has room for.
SIZES = ((9, 6.5, 135), (8, 7.0, 125), (0, 8.5, 102))
PAGE_CM = 17.0  # between the margins
GRID = "Light Grid Accent 1"
FONT = "Arial"  # or Liberation Sans, which is as wide, where there is no Arial
EPOCH = datetime(2000, 1, 1)  # the same report gives the same file


def write_docx(document: Document, path: Path) -> None:
    """Write a document; A4, captions and pages numbered by fields, repeated head rows."""
    file = docx.Document()
    _page(file)
    _fonts(file)
    _head_and_foot(file, document)
    _properties(file, document)
    blocks = list(document.blocks)
    if blocks and isinstance(blocks[0], Front):
        _add_front(file, blocks.pop(0))
    file.add_heading(document.title, level=0)
    tables = figures = 0
    for block in blocks:
        if isinstance(block, Heading):
            file.add_heading(block.text, level=block.level)
        elif isinstance(block, Paragraph):
            file.add_paragraph(block.text)
        elif isinstance(block, Bullets):
            for item in block.items:
                file.add_paragraph(item, style="List Bullet")
        elif isinstance(block, Table):
            tables += bool(block.title)
            _add_table(file, block, tables)
        elif isinstance(block, Figure):
            figures += 1
            _add_figure(file, block, figures)
    file.save(path)


def _page(file) -> None:
    section = file.sections[0]
    section.orientation, section.page_width, section.page_height = (
        WD_ORIENT.PORTRAIT,
        Cm(21),
        Cm(29.7),
    )
    section.left_margin = section.right_margin = Cm(2)
    section.top_margin = section.bottom_margin = Cm(2)
    file.styles["Normal"].font.name, file.styles["Normal"].font.size = FONT, Pt(10)


def _fonts(file) -> None:
    """One font for everything, in place of those of the template's theme."""
    for fonts in file.styles.element.iter(qn("w:rFonts")):
        if fonts.get(qn("w:asciiTheme")):
            fonts.attrib.clear()
            for script in ("ascii", "hAnsi", "cs"):
                fonts.set(qn(f"w:{script}"), FONT)


def _cell_style(file, points: float, kept: bool) -> str:
    """The id of the paragraph style of cells; kept: on the page of the next paragraph."""
    name = f"Table {points:g}{' kept' if kept else ''}"
    if name not in file.styles:
        style = file.styles.add_style(name, WD_STYLE_TYPE.PARAGRAPH)
        style.base_style, style.font.size = file.styles["Normal"], Pt(points)
        style.paragraph_format.space_after = Pt(0)
        style.paragraph_format.line_spacing = 1.0
        style.paragraph_format.keep_with_next = kept
    return file.styles[name].style_id


def _properties(file, document: Document) -> None:
    properties = file.core_properties
    properties.title, properties.author = document.title[:255], document.author[:255]
    properties.subject, properties.keywords = document.subject[:255], document.keywords[:255]
    properties.comments, properties.language = "", "en-GB"
    properties.created = properties.modified = EPOCH


def _head_and_foot(file, document: Document) -> None:
    """The header of every page, and its number of how many."""
    section = file.sections[0]
    if document.header:
        section.header.paragraphs[0].text = document.header
        section.header.paragraphs[0].runs[0].font.size = Pt(8.5)
    foot = section.footer.paragraphs[0]
    foot.alignment = WD_ALIGN_PARAGRAPH.CENTER
    _add_field(foot, "PAGE", "1")
    foot.add_run(" / ")
    _add_field(foot, "NUMPAGES", "1")


def _add_front(file, front: Front) -> None:
    for line in front.committee:
        paragraph = file.add_paragraph()
        paragraph.alignment = WD_ALIGN_PARAGRAPH.CENTER
        paragraph.paragraph_format.space_after = Pt(0)
        paragraph.add_run(line).bold = True
    for number, line in enumerate(front.lines):
        paragraph = file.add_paragraph()
        paragraph.alignment = WD_ALIGN_PARAGRAPH.RIGHT
        paragraph.paragraph_format.space_before = Pt(0 if number else 12)
        paragraph.paragraph_format.space_after = Pt(0)
        paragraph.add_run(line).bold = True


def _add_field(paragraph, instruction: str, shown: str) -> None:
    """A field that Word counts itself, with what it shows until then."""
    field, run, text = (OxmlElement(name) for name in ("w:fldSimple", "w:r", "w:t"))
    field.set(qn("w:instr"), instruction)
    text.text = shown
    run.append(text)
    field.append(run)
    paragraph._p.append(field)


def _add_caption(file, kind: str, number: int, text: str):
    caption = file.add_paragraph(f"{kind} ", style="Caption")
    _add_field(caption, f"SEQ {kind} \\* ARABIC", str(number))
    caption.add_run(f": {text}")
    return caption


def _add_table(file, table: Table, number: int) -> None:
    points, room = next(size[1:] for size in SIZES if len(table.columns) >= size[0])
    styles = {kept: _cell_style(file, points, kept) for kept in (True, False)}
    if table.title:
        caption = _add_caption(file, "Table", number, table.title)
        caption.paragraph_format.keep_with_next = True
    grid = file.add_table(
        rows=0, cols=len(table.columns), style=GRID if table.title else "Table Grid"
    )
    grid.autofit = False
    for column, share in zip(grid.columns, table.shares(room), strict=True):
        column.width = Cm(PAGE_CM * share)  # which its cells take over when they are added
    if table.title:
        head, titles = grid.add_row(), [column.title for column in table.columns]
        _fill(head, titles, [False] * len(titles), styles[True])
        _mark(head, "w:tblHeader")
    right = [bool(column.spec) for column in table.columns]
    for place, texts in enumerate(table.texts()):
        row = grid.add_row()
        _mark(row, "w:cantSplit")
        _fill(row, texts, right, styles[table.keeps(place)])
    for place, note in enumerate(table.notes, start=1):
        paragraph = file.add_paragraph(note)
        paragraph.paragraph_format.space_before = Pt(3)
        paragraph.paragraph_format.space_after = Pt(0)
        paragraph.paragraph_format.keep_with_next = place < len(table.notes)
        paragraph.runs[0].font.size = Pt(8.5)
    file.add_paragraph()


def _mark(row, name: str) -> None:
    """A property of a row that is there or not."""
    row._tr.get_or_add_trPr().append(OxmlElement(name))


def _fill(row, texts: Sequence[str], right: Sequence[bool], style: str) -> None:
    for cell, text, flush in zip(row.cells, texts, right, strict=True):
        paragraph = cell.paragraphs[0]
        paragraph._p.style = style  # its id: by name it would be searched for at every cell
        paragraph.add_run(text)
        if flush and len(text) < LONG:  # a refusal reads better flush left
            paragraph.alignment = WD_ALIGN_PARAGRAPH.RIGHT


def _add_figure(file, figure: Figure, number: int) -> None:
    shape = file.add_picture(io.BytesIO(figure.png), width=Cm(figure.width_cm))
    shape._inline.docPr.set("descr", figure.caption)  # read out to who does not see it
    file.paragraphs[-1].alignment = WD_ALIGN_PARAGRAPH.CENTER
    file.paragraphs[-1].paragraph_format.keep_with_next = True
    _add_caption(file, "Figure", number, figure.caption)
