# SPDX-License-Identifier: BSD-3-Clause
"""How does a report read on paper? Its tables and plots as a document."""

from __future__ import annotations

import io

import matplotlib

from vcm_plugin.report import plots, views
from vcm_plugin.report.document import Block, Document, Figure, Heading, Paragraph
from vcm_plugin.report.tables import Report


def to_document(report: Report) -> Document:
    """All tables, and a plot per task."""
    pictures = report.dataset.get("pictures", report.points[0].pictures)
    text = f"Test set {report.dataset.get('name', '')}, {pictures} pictures."
    blocks: list[Block] = [Heading("Test conditions"), Paragraph(text), Heading("Results")]
    blocks += figures(report)
    narrow = [views.main_points(report), views.human_main_points(report)]
    shown = {table.title: table for table in narrow}
    tables = [narrow[0], *views.all_tables(report)[1:]]
    tables = [shown.get(table.title, table) for table in tables]
    blocks += [
        block for table in tables if table.rows for block in (Heading(table.title, 2), table)
    ]
    return Document(f"Report: {report.condition}", tuple(blocks))


def figures(report: Report) -> list[Figure]:
    """The rate-accuracy plot of every task that was measured."""
    found = []
    for metric in (m for m in plots.TASKS if m in report.uncompressed and report.curves):
        with matplotlib.rc_context(plots.SETTINGS), io.BytesIO() as file:
            plots.draw(report, metric).savefig(file, dpi=200, metadata=plots.NO_DATES["png"])
            png = file.getvalue()
        caption = f"{plots.TASKS[metric]}: rate against {views.title_of(metric)} (%)"
        found.append(Figure(f"rd_{metric}", png, caption))
    return found
