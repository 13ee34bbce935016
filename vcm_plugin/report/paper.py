# SPDX-License-Identifier: BSD-3-Clause
"""How does a report read on paper? Its tables and plots as a document."""

from __future__ import annotations

from vcm_plugin.report import human_tables, made, plots, views
from vcm_plugin.report.document import Block, Document, Figure, Heading, Paragraph
from vcm_plugin.report.tables import Report
from vcm_plugin.report.titles import METRICS, TASKS


def to_document(report: Report, drawn: plots.Drawn | None = None) -> Document:
    """Plots and tables, how they were made, and an appendix; drawn: as for `figures`."""
    blocks: list[Block] = [Heading("Results"), *figures(report, drawn), *views.paper_tables(report)]
    human = human_tables.human_tables(report.human_vision)
    if human:
        blocks += [Heading("Human vision"), human_tables.main_points(report.human_vision)]
        blocks += human[1:]
    blocks += [Heading("Test conditions"), *made.tables(report)]
    blocks += [Paragraph(text) for text in made.lacking(report)]
    appendix = views.appendix_tables(report)
    blocks += [Heading("Appendix"), *appendix] if appendix else []
    return Document(f"Report: {report.heading}", tuple(blocks), report.heading)


def figures(report: Report, drawn: plots.Drawn | None = None) -> list[Figure]:
    """The rate-accuracy plot of every task that was measured; drawn: by `plots.draw_all`, if it
    has been."""
    if not drawn or not all("png" in files for files in drawn.values()):
        drawn = plots.draw_all(report, ["png"])
    found = []
    for metric, files in drawn.items():
        task = TASKS[METRICS[metric].task]
        caption = f"{task}: rate against {METRICS[metric].label}; {report.heading}"
        found.append(Figure(f"rd_{metric}", files["png"], caption))
    return found
