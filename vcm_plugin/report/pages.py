# SPDX-License-Identifier: BSD-3-Clause
"""How does a page of HTML come about? By templates of this folder, in which texts are escaped."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vcm_plugin.report.document import Document, Table


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


def cells(table: Table) -> list[list[tuple[str, float | None]]]:
    """Every cell as it is shown, with its raw value where that is a number."""
    return [
        [
            (text, value if isinstance(value := row.get(column.key), int | float) else None)
            for column, text in zip(table.columns, texts, strict=True)
        ]
        for row, texts in zip(table.rows, table.texts(), strict=True)
    ]


def data_url(png: bytes) -> str:
    """A picture as a part of the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
