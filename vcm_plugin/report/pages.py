# SPDX-License-Identifier: BSD-3-Clause
"""How does a page of HTML come about? By templates of this folder, in which texts are escaped."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vcm_plugin.rate_points import sort_value
from vcm_plugin.report.document import Column, Document, Table

STRONGEST = 40.0  # accuracy points that are shaded most


def render(template: str, **values: Any) -> str:
    """A page: every text is escaped, and JSON (`tojson`) cannot end the script that holds it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.globals |= {"cells": cells, "data_url": data_url}
    return environment.get_template(template).render(**values)


def write_html(document: Document, path: Path) -> None:
    """Write a document as one self-contained HTML page."""
    blocks = [(type(block).__name__, block) for block in document.blocks]
    path.write_text(render("document.html", document=document, blocks=blocks), encoding="utf-8")


@dataclass(frozen=True)
class Cell:
    """A cell as it is shown; sort: the number that it is sorted by, shade: its background."""

    text: str
    sort: float | None
    numeric: bool
    shade: str


def cells(table: Table) -> list[list[Cell]]:
    """Every cell of a table."""
    return [
        [
            _cell(column, row.get(column.key), text)
            for column, text in zip(table.columns, texts, strict=True)
        ]
        for row, texts in zip(table.rows, table.texts(), strict=True)
    ]


def _cell(column: Column, value: Any, text: str) -> Cell:
    number = value if isinstance(value, int | float) else None
    if column.key == "rate_point" and isinstance(value, str):
        number = sort_value(value)
    shade = _shade(value) if column.heat and isinstance(value, int | float) else ""
    return Cell(text, number, _is_numeric(column, value), shade)


def _is_numeric(column: Column, value: Any) -> bool:
    return isinstance(value, int | float) or bool(column.spec) or column.key == "rate_point"


def _shade(value: float) -> str:
    """Orange for a loss, blue for a gain, the more the darker; also for readers without colours."""
    part = min(1.0, abs(value) / STRONGEST)
    colour = "213, 94, 0" if value < 0 else "0, 114, 178"
    return f"rgba({colour}, {0.75 * part:.2f})"


def data_url(png: bytes) -> str:
    """A picture as a part of the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
