# SPDX-License-Identifier: BSD-3-Clause
"""How are cells of a spreadsheet written? Rows and columns from 1, formulas with their values.

XlsxWriter, since a formula that is read by a program that does not recalculate needs its value
beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from textwrap import wrap
from typing import Any

import xlsxwriter

from vcm_plugin.errors import InputError
from vcm_plugin.rate_points import has_layers, split_layers, value_and_percent
from vcm_plugin.report.document import Column, Table

EPOCH = datetime(2000, 1, 1)  # the same report gives the same file
WIDEST = 26  # characters, of a column
HEAD_WIDTH, LINE_HEIGHT = 12, 15.0  # characters, points
TEXT_WIDTH = 90  # of a column of running text
NAME_LENGTH = 31  # what a spreadsheet takes
STYLES = {
    "title": {"bold": True, "font_size": 14},
    "bold": {"bold": True},
    "note": {"italic": True},
    "head": {"bold": True, "bg_color": "#D9E2EC", "text_wrap": True, "valign": "top"},
    "wrap": {"text_wrap": True, "valign": "top"},
    "right": {"align": "right"},
    "group": {"bold": True, "bg_color": "#D9E2EC", "align": "center"},
}
NUMBER_FORMATS = {".0f": "0", ".1f": "0.0", ".2f": "0.00", ".3f": "0.000", ".4f": "0.0000",
                  "+.1f": "+0.0;-0.0", "+.2f": "+0.00;-0.00", "d": "0", ",d": "#,##0"}  # fmt: skip


class Book:
    """A workbook; `save` writes it."""

    def __init__(self, path: Path, title: str):
        options = {name: False for name in
                   ("strings_to_formulas", "strings_to_numbers", "strings_to_urls")}  # fmt: skip
        self.file = xlsxwriter.Workbook(str(path), options)
        self.file.set_properties({"title": title, "author": "vcm-plugin", "created": EPOCH})
        self.formats: dict[str, Any] = {}
        self.sheets: list[Sheet] = []

    def sheet(self, name: str) -> Sheet:
        """A new sheet. Raises InputError for a name that a spreadsheet would not take whole."""
        if not 0 < len(name) <= NAME_LENGTH or set(name) & set("[]:*?/\\"):
            raise InputError(
                f"sheet {name!r}: expected a name of 1 to {NAME_LENGTH} characters without []:*?/\\"
            )
        self.sheets.append(Sheet(self, name))
        return self.sheets[-1]

    def format_of(self, style: str) -> Any:
        """A style by its name, or a number format by its specification."""
        if style not in self.formats:
            values = STYLES.get(style) or {"num_format": NUMBER_FORMATS.get(style, "General")}
            self.formats[style] = self.file.add_format(values)
        return self.formats[style]

    def save(self) -> None:
        """Dress every sheet and write the file; raises OSError."""
        for sheet in self.sheets:
            sheet.dress()
        try:
            self.file.close()
        except xlsxwriter.exceptions.FileCreateError as error:
            raise OSError(str(error)) from error


class Sheet:
    """One sheet."""

    def __init__(self, book: Book, name: str):
        self.book, self.name = book, name
        self.file = book.file.add_worksheet(name)
        self.widths: dict[int, int] = {}

    def put(self, row: int, column: int, value: Any, style: str = "", formula: str = "") -> None:
        """A number, a text or None; formula: whose value that is. style: of STYLES, or the
        specification of a number."""
        shown = self.book.format_of(style) if style else None
        place = row - 1, column - 1
        if formula:
            value = "#DIV/0!" if isinstance(value, float) and not math.isfinite(value) else value
            self.file.write_formula(*place, formula, shown, value)
        elif isinstance(value, str):
            self.file.write_string(*place, value, shown)
        elif value is not None:
            self.file.write_number(*place, value, shown)
        elif shown is not None:
            self.file.write_blank(*place, None, shown)
        if style == "wrap":
            self.widths[column] = TEXT_WIDTH
        elif style not in ("title", "note", "bold"):
            length = len(value) if isinstance(value, str) else 9
            length = min(length, HEAD_WIDTH) if style == "head" else length  # heads are wrapped
            self.widths[column] = max(self.widths.get(column, 0), min(length, WIDEST))

    def write_head(self, row: int, titles: Sequence[str]) -> None:
        """The heads of a table in a row."""
        for place, title in enumerate(titles, start=1):
            self.put(row, place, title, "head")
        lines = max((len(wrap(title, HEAD_WIDTH)) for title in titles), default=1)
        self.file.set_row(row - 1, LINE_HEIGHT * lines)

    def write_table(self, table: Table, top: int = 1) -> int:
        """Title, heads, rows and notes; returns the row behind it."""
        self.put(top, 1, table.title, "title")
        self.write_head(top + 1, [column.title for column in table.columns])
        for number, row in enumerate(table.rows, start=top + 2):
            for place, column in enumerate(table.columns, start=1):
                self.write_value(number, place, column, row.get(column.key))
        below = top + 3 + len(table.rows)
        for number, note in enumerate(table.notes, start=below):
            self.put(number, 1, note, "note")
        return below + len(table.notes) + 1

    def write_value(self, row: int, place: int, column: Column, value: Any) -> None:
        """A cell of a table: a number as it is, anything else as documents show it."""
        if value is None or isinstance(value, str | int | float):
            mark = "right" if column.spec else ""
            self.put(row, place, value, mark if isinstance(value, str) else column.spec)
        else:
            self.put(row, place, column.text(value), "right")

    def dress(self) -> None:
        """Widths of the columns; on paper, a landscape page as wide as the sheet."""
        for column, width in self.widths.items():
            self.file.set_column(column - 1, column - 1, max(10, width) + 2)
        self.file.freeze_panes(2, 0)
        self.file.set_landscape()
        self.file.set_paper(9)  # A4
        self.file.fit_to_pages(1, 0)
        self.file.set_footer("&L&A&R&P / &N")


def with_numbers(table: Table) -> Table:
    """A table whose rate points are numbers, in columns of their own for the person's layer and
    for the size; labels of tables of QPs stay texts.

    >>> table = Table("t", (Column("rate_point", "rate point"),), ({"rate_point": "32@50"},))
    >>> [list(row.values()) for row in with_numbers(table).rows]
    [[32, None, 50]]
    """
    if not any(column.key == "rate_point" for column in table.columns):
        return table
    rows = []
    for row in table.rows:
        text = row.get("rate_point") or ""
        machine, human = split_layers(text) if has_layers(text) else (text, "")
        first, percent = value_and_percent(machine)
        second, human_percent = value_and_percent(human)
        size = percent or human_percent
        more = {"human": as_number(second), "size": int(size) if size.isdecimal() else None}
        rows.append({**row, "rate_point": as_number(first), **more})
    columns: list[Column] = []
    for column in table.columns:
        columns.append(column)
        if column.key == "rate_point":
            titles = {"human": "rate point of the human layer", "size": "size (%)"}
            columns += [
                Column(key, title)
                for key, title in titles.items()
                if any(row[key] is not None for row in rows)
            ]
    return replace(table, columns=tuple(columns), rows=tuple(rows))


def as_number(text: str) -> float | int | str | None:
    try:
        value = float(text)
    except ValueError:
        return text or None
    return int(value) if value == int(value) else value
