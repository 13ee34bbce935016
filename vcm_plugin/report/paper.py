# SPDX-License-Identifier: BSD-3-Clause
"""How does a report read on paper? Its tables and plots as a document."""

from __future__ import annotations

import io

from vcm_plugin.report import human_tables, plots, views
from vcm_plugin.report.document import Block, Document, Figure, Heading, Paragraph
from vcm_plugin.report.figures import NO_DATES, SETTINGS, rc_context
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import METRICS, TASKS


def to_document(report: Report) -> Document:
    """All tables, and a plot per task."""
    text = f"Test set {report.dataset.name}, {report.dataset.pictures} pictures."
    blocks: list[Block] = [Heading("Test conditions"), Paragraph(text), Heading("Results")]
    blocks += figures(report)
    narrow = [views.main_points(report), human_tables.main_points(report.human_vision)]
    shown = {table.title: table for table in narrow}
    tables = [narrow[0], *views.all_tables(report)[1:]]
    tables = [shown.get(table.title, table) for table in tables]
    blocks += [
        block for table in tables if table.rows for block in (Heading(table.title, 2), table)
    ]
    return Document(f"Report: {report.condition}", tuple(blocks))


def figures(report: Report) -> list[Figure]:
    """The rate-accuracy plot of every task that was measured."""
    drawn = []
    for metric in plots.plotted(report):
        with rc_context(SETTINGS), io.BytesIO() as file:
            plots.draw(report, metric).savefig(file, dpi=200, metadata=NO_DATES["png"])
            png = file.getvalue()
        caption = f"{TASKS[METRICS[metric].task]}: rate against {METRICS[metric].label}"
        drawn.append(Figure(f"rd_{metric}", png, caption))
    return drawn
