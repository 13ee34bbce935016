# SPDX-License-Identifier: BSD-3-Clause
"""How does a report read on paper? Its tables and plots as a document."""

from __future__ import annotations

import io

from vcm_plugin.report import human_tables, made, plots, views
from vcm_plugin.report.document import Block, Document, Figure, Heading, Paragraph
from vcm_plugin.report.figures import NO_DATES, SETTINGS, rc_context
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import METRICS, TASKS


def to_document(report: Report) -> Document:
    """Plots and tables, how they were made, and an appendix."""
    blocks: list[Block] = [Heading("Results"), *figures(report), *views.paper_tables(report)]
    human = human_tables.human_tables(report.human_vision)
    if human:
        blocks += [Heading("Human vision"), human_tables.main_points(report.human_vision)]
        blocks += human[1:]
    blocks += [Heading("Test conditions"), *made.tables(report)]
    blocks += [Paragraph(text) for text in made.lacking(report)]
    appendix = views.appendix_tables(report)
    blocks += [Heading("Appendix"), *appendix] if appendix else []
    return Document(f"Report: {report.heading}", tuple(blocks))


def figures(report: Report) -> list[Figure]:
    """The rate-accuracy plot of every task that was measured."""
    drawn = []
    for metric in plots.plotted(report):
        with rc_context(SETTINGS), io.BytesIO() as file:
            plots.draw(report, metric).savefig(file, dpi=200, metadata=NO_DATES["png"])
            png = file.getvalue()
        task = TASKS[METRICS[metric].task]
        caption = f"{task}: rate against {METRICS[metric].label}; {report.heading}"
        drawn.append(Figure(f"rd_{metric}", png, caption))
    return drawn
