# SPDX-License-Identifier: BSD-3-Clause
"""What is a document before it is a file? Blocks that DOCX, Markdown, LaTeX and HTML render."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "\N{EM DASH}"  # in place of a value that there is not
LONG = 24  # characters; a longer text is broken over lines, and set flush left
PADDING = 3.0  # characters, of both sides of a cell
WHOLE = 32  # rows; a table of no more is not parted by the end of a page
KEPT = 3  # rows of a longer one that stay with its head, and with its notes
_BLANKS = {0x0B: " ", 0x0C: " ", 0x1C: " ", 0x1D: " ", 0x1E: " ", 0x1F: " ", 0x85: " "}
_NOT_IN_XML = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Column:
    """One column of a table; `spec` is a format specification such as ".2f".

    heat: its numbers are gains (above 0) and losses, which a page shades.
    """

    key: str
    title: str
    spec: str = ""
    heat: bool = False

    def text(self, value: Any) -> str:
        """A value as every format shows it; two numbers are an interval.

        >>> Column("gain", "gain", "+.1f").text(-0.04), Column("bits", "bits", ",d").text(1234567)
        ('0.0', '1,234,567')
        """
        if value is None:
            return MISSING
        if isinstance(value, str):
            return value
        if isinstance(value, Sequence):
            return " .. ".join(self.text(item) for item in value)
        text = format(value, self.spec)
        return text.lstrip("+-") if not text.strip("+-0.") else text  # no zero has a sign


@dataclass(frozen=True)
class Table:
    """Rows of raw values, and the columns in which they are shown.

    A table without a title is a part of the text: it has no caption, no number and no head row.
    sheet: its name in a spreadsheet, where the title is no name of a sheet.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()
    sheet: str = ""

    def texts(self) -> list[list[str]]:
        """Every row as it is shown."""
        return [[c.text(row.get(c.key)) for c in self.columns] for row in self.rows]

    def shares(self, characters: int = 110) -> list[float]:
        """Shares of a page that is so many characters wide: every column has room for its longest
        word, up to LONG; what is left goes to still longer words, and then to where a text takes
        most lines."""
        widths, words, texts_of = [], [], []
        for title, *texts in zip([c.title for c in self.columns], *self.texts(), strict=True):
            whole = " ".join([title, *texts]).replace(" .. ", "....")  # an interval stays whole
            word = max(map(len, whole.split()), default=0)
            widths.append(min(word, LONG) + PADDING)
            words.append(min(word, 3 * LONG) + PADDING)
            texts_of.append(max([(len(title) + 3) // 2, *map(len, texts)]))
        _serve(widths, words, characters - sum(widths))
        _even_lines(widths, texts_of, int(characters - sum(widths)))
        return [width / sum(widths) for width in widths]

    def keeps(self, number: int) -> bool:
        """Whether row `number` stays on the page of the next, or the last one on that of a note."""
        rows = len(self.rows)
        if number == rows - 1:
            return bool(self.notes)
        return rows <= WHOLE or number < KEPT - 1 or number >= rows - KEPT

    def is_numeric(self, column: Column) -> bool:
        """Whether a column is set flush right: a number has a format specification."""
        return bool(column.spec)


def _serve(widths: list[float], wanted: Sequence[float], spare: float) -> None:
    """Widen columns to what they want, as far as the spare characters go."""
    needs = [max(0.0, want - width) for want, width in zip(wanted, widths, strict=True)]
    by_need = sorted(range(len(needs)), key=needs.__getitem__)
    for served, number in enumerate(by_need):
        extra = min(needs[number], max(0.0, spare) / (len(by_need) - served))
        widths[number] += extra
        spare -= extra


def _even_lines(widths: list[float], texts: Sequence[int], spare: int) -> None:
    """Give the spare characters, one by one, to the column whose text takes most lines."""
    for _ in range(spare):
        lines = [math.ceil(text / (w - PADDING)) for text, w in zip(texts, widths, strict=True)]
        worst = max(lines)
        if worst <= 1:
            return
        needs = [(text - w, n) for n, (text, w) in enumerate(zip(texts, widths, strict=True))]
        widths[min(needs[n] for n in range(len(needs)) if lines[n] == worst)[1]] += 1


class Footnotes:
    """Reasons why there is no value: a cell shows a number, which a note under the table explains.

    >>> notes = Footnotes()
    >>> notes.mark("no overlap"), notes.mark("two points"), notes.mark("no overlap")
    ('— (1)', '— (2)', '— (1)')
    >>> notes.texts
    ('(1) no overlap', '(2) two points')
    """

    def __init__(self):
        self.reasons: list[str] = []

    def mark(self, reason: str) -> str:
        """What stands in the place of the value."""
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f"{MISSING} ({self.reasons.index(reason) + 1})"

    def value(self, value: float | None, reason: str | None) -> float | str:
        """A value, or a mark for why there is none."""
        return self.mark(reason or "not measured") if value is None else value

    @property
    def texts(self) -> tuple[str, ...]:
        """The notes."""
        return tuple(f"({n}) {reason}" for n, reason in enumerate(self.reasons, start=1))


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 1


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A picture as PNG bytes; `name` is its file name where the format keeps it in a file."""

    name: str
    png: bytes
    caption: str
    width_cm: float = 12.5  # two plots and their captions on a page


@dataclass(frozen=True)
class Front:
    """What stands above the title of an input document: the committee, line by line, the number of
    the document, and place and date of the meeting; None where one is not filled in."""

    committee: tuple[str, ...]
    number: str | None
    meeting: str | None

    @property
    def lines(self) -> tuple[str, ...]:
        """The lines that are filled in, below those of the committee."""
        named = f"{self.committee[-1]} {self.number}" if self.number else None
        return tuple(line for line in (named, self.meeting) if line)


Block = Heading | Paragraph | Bullets | Table | Figure | Front


@dataclass(frozen=True)
class Document:
    """What every format renders; its texts are `cleaned`.

    header: of every page. author, subject, keywords: properties of the file.
    """

    title: str
    blocks: tuple[Block, ...]
    header: str = ""
    author: str = ""
    subject: str = ""
    keywords: str = ""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, cleaned(getattr(self, field.name)))


def cleaned(value: Any) -> Any:
    """A value whose texts, however deep, hold only what XML, and so DOCX, XLSX, SVG and HTML, can
    hold: a vertical tab or form feed becomes a blank, another control character U+FFFD.

    >>> cleaned({"title": "one\\x0btwo\\x00"})
    {'title': 'one two\N{REPLACEMENT CHARACTER}'}
    """
    if isinstance(value, str):
        return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", value.translate(_BLANKS))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **{name: cleaned(v) for name, v in fields.items()})
    if isinstance(value, Mapping):
        return {cleaned(key): cleaned(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(map(cleaned, value))
    return value
