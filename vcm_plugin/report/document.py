# SPDX-License-Identifier: BSD-3-Clause
"""What is a document before it is a file? Blocks that DOCX, Markdown, LaTeX and HTML render."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "\N{EM DASH}"  # in place of a value that there is not
LONG = 24  # characters; a longer text is broken over lines, and set flush left
PADDING = 4.0  # characters, of both sides of a cell
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
        """A value as every format shows it; two numbers are an interval."""
        if value is None:
            return MISSING
        if isinstance(value, str):
            return value
        if isinstance(value, Sequence):
            return " .. ".join(self.text(item) for item in value)
        return format(value, self.spec)


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
        word, and what is left goes where texts are longer."""
        least, more = [], []
        for texts in zip([column.title for column in self.columns], *self.texts(), strict=True):
            whole = " ".join(texts).replace(" .. ", "....")  # an interval stays on one line
            word = min(max(map(len, whole.split()), default=0), LONG)
            least.append(word + PADDING)
            more.append(min(max(map(len, texts)), 3 * LONG) - word)
        spare = max(0.0, characters - sum(least)) / max(1, sum(more))
        widths = [width + spare * extra for width, extra in zip(least, more, strict=True)]
        return [width / sum(widths) for width in widths]

    def is_numeric(self, column: Column) -> bool:
        """Whether a column is set flush right: a number has a format specification."""
        return bool(column.spec)


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
    width_cm: float = 14.5


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
