# SPDX-License-Identifier: BSD-3-Clause
"""How does a document become a Word file?"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import docx
from docx.enum.section import WD_ORIENT
from docx.enum.text import WD_ALIGN_PARAGRAPH
from docx.oxml import OxmlElement
from docx.oxml.ns import qn
from docx.shared import Cm, Pt

from vcm_plugin.report.document import (
    LONG,
    Bullets,
    Document,
    Figure,
    Heading,
    Paragraph,
    Table,
)

# From so many columns on, so many points, and the characters that a page then has room for.
SIZES = ((9, 6.5, 135), (8, 7.0, 125), (0, 8.5, 102))
PAGE_CM = 17.0  # between the margins
FONT = "Arial"  # or Liberation Sans, which is as wide, where there is no Arial
EPOCH = datetime(2000, 1, 1)  # the same report gives the same file


def write_docx(document: Document, path: Path) -> None:
    """Write a document; A4, numbered captions, tables with repeated head rows."""
    file = docx.Document()
    _page(file)
    file.core_properties.title, file.core_properties.author = document.title, ""
    file.core_properties.created = file.core_properties.modified = EPOCH
    file.add_heading(document.title, level=0)
    tables = figures = 0
    for block in document.blocks:
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


def _add_table(file, table: Table, number: int) -> None:
    points, room = next(size[1:] for size in SIZES if len(table.columns) >= size[0])
    size = Pt(points)
    if table.title:
        caption = file.add_paragraph(f"Table {number}: {table.title}", style="Caption")
        caption.paragraph_format.keep_with_next = True
        grid = file.add_table(rows=1, cols=len(table.columns), style="Light Grid Accent 1")
        titles = [column.title for column in table.columns]
        _fill(grid.rows[0], titles, [False] * len(titles), size)
        marker = OxmlElement("w:tblHeader")
        marker.set(qn("w:val"), "true")
        grid.rows[0]._tr.get_or_add_trPr().append(marker)
    else:
        grid = file.add_table(rows=0, cols=len(table.columns), style="Table Grid")
    right = [bool(column.spec) for column in table.columns]
    for texts in table.texts():
        row = grid.add_row()
        row._tr.get_or_add_trPr().append(OxmlElement("w:cantSplit"))
        _fill(row, texts, right, size)
    grid.autofit = False
    for column, share in zip(grid.columns, table.shares(room), strict=True):
        column.width = width = Cm(PAGE_CM * share)  # LibreOffice reads the column, Word the cells
        for cell in column.cells:
            cell.width = width
    for note in table.notes:
        paragraph = file.add_paragraph(note)
        paragraph.paragraph_format.space_before = paragraph.runs[0].font.size = Pt(8.5)
    file.add_paragraph()


def _fill(row, texts: Sequence[str], right: Sequence[bool], size: Pt) -> None:
    for cell, text, flush in zip(row.cells, texts, right, strict=True):
        paragraph = cell.paragraphs[0]
        paragraph.add_run(text).font.size = size
        if flush and len(text) < LONG:  # a refusal reads better flush left
            paragraph.alignment = WD_ALIGN_PARAGRAPH.RIGHT


def _add_figure(file, figure: Figure, number: int) -> None:
    file.add_picture(io.BytesIO(figure.png), width=Cm(figure.width_cm))
    file.paragraphs[-1].alignment = WD_ALIGN_PARAGRAPH.CENTER
    file.paragraphs[-1].paragraph_format.keep_with_next = True
    file.add_paragraph(f"Figure {number}: {figure.caption}", style="Caption")
