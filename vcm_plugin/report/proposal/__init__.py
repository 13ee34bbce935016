# SPDX-License-Identifier: BSD-3-Clause
"""What does a proposal consist of? Runs and a YAML -> an input document in MPEG form.

Every number comes from the tables of the report; what the author did not fill in is listed at the
end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.environment import PACKAGE
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json
from vcm_plugin.report import require, views, write_document
from vcm_plugin.report.document import (
    Block,
    Bullets,
    Column,
    Document,
    Heading,
    Paragraph,
    Table,
)
from vcm_plugin.report.paper import figures
from vcm_plugin.report.proposal.config import ProposalConfig, load_config
from vcm_plugin.report.proposal.figure import architecture
from vcm_plugin.report.proposal.specification import clauses
from vcm_plugin.report.runs import read_runs
from vcm_plugin.report.sequence_tables import sequence_tables
from vcm_plugin.report.tables import Report, compare_runs
from vcm_plugin.report.titles import title_of

SUFFIXES = (".docx", ".md", ".tex")
HEADER = ("number", "title", "source", "authors", "contact", "date", "status", "purpose", "group")


def write_proposal(config_path: Path, output: Path) -> list[str]:
    """Write the document `output` (.docx, .md or .tex); returns the keys that are not filled in."""
    if output.suffix not in SUFFIXES:
        raise InputError(f"{output}: expected a name that ends in {', '.join(SUFFIXES)}")
    require(output.suffix[1:])
    config = load_config(config_path)
    runs = read_runs([config.run, *config.anchors])
    report = compare_runs(runs, [run.name for run in runs[1:]])
    document, unfilled = to_document(config, report)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_document(document, output.with_suffix(""), [output.suffix[1:]])
    return unfilled


def to_document(config: ProposalConfig, report: Report) -> tuple[Document, list[str]]:
    """The document, and the keys that are not filled in."""
    run = report.runs[0]
    unfilled = config.unfilled()
    trained = _bundled_training(run.result.codec_identity.get("weights_sha256"))
    if trained:
        unfilled = [key for key in unfilled if key != "training"]
    blocks: list[Block] = [_header(config), Heading("Abstract"), *_abstract(report)]
    blocks += [Heading("Technical description")]
    blocks += [Paragraph(text) for text in config.description]
    blocks += [architecture(run.name), *clauses(run.result.codec)]
    blocks += [Heading("Test conditions"), _conditions(report), views.environment(report)]
    blocks += [Heading("Results"), *figures(report), views.main_points(report)]
    blocks += [views.bd_rates(report), *sequence_tables(report), views.near_lossless(report)]
    blocks += [table for table in (views.published(report), views.surveyed(report)) if table.rows]
    blocks += [Heading("Complexity"), views.complexity(report)]
    blocks += [Heading("Training"), *_training(config, trained)]
    blocks += [Heading("Cross-check"), Paragraph(_crosscheck(config, report))]
    blocks += [Heading("References")]
    blocks += [Paragraph(f"[{n}] {text}") for n, text in enumerate(config.references, start=1)]
    blocks += [Heading("Not filled in"), _left(unfilled)]
    return Document(config.title, tuple(blocks)), unfilled


def _header(config: ProposalConfig) -> Table:
    rows = []
    for key in HEADER:
        value = getattr(config, key)
        text = "; ".join(value) if isinstance(value, tuple) else value
        rows.append({"key": key.capitalize(), "value": text or None})
    return Table("", (Column("key", ""), Column("value", "")), tuple(rows))


def _abstract(report: Report) -> Iterator[Paragraph]:
    """The headline numbers, one sentence per anchor: each is a cell of the table of BD-rates."""
    run, data = report.runs[0], report.dataset
    yield Paragraph(
        f"This document proposes {run.name} and reports its results under the test condition "
        f"{report.condition} ({data.name}, {data.pictures} pictures)."
    )
    table = views.bd_rates(report, report.main_metrics)
    percent = next(column for column in table.columns if column.key == "percent")
    for anchor in report.anchors:
        cells = [
            f"{row['metric']} {percent.text(row['percent'])}"
            + (" %" if isinstance(row["percent"], float) else "")
            for row in table.rows
            if (row["test"], row["anchor"]) == (run.name, anchor)
        ]
        if cells:
            yield Paragraph(f"BD-rate against {anchor}: {'; '.join(cells)}.")


def _conditions(report: Report) -> Table:
    """Every key of the condition in which the runs were made, as they keep it."""
    columns = Column("key", "key"), Column("value", "value")
    path = report.runs[0].folder / "condition.yaml"
    facts = {"data set": report.dataset.name, "pictures": report.dataset.pictures}
    facts["uncompressed"] = ", ".join(
        f"{title_of(metric)} {report.uncompressed[metric]:.2f}" for metric in report.ap_metrics
    )
    if path.is_file():
        load_condition(path)  # raises InputError for one that was edited into something else
        facts |= yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = tuple(
        {"key": key, "value": ", ".join(map(str, v)) if isinstance(v, list) else str(v)}
        for key, v in facts.items()
    )
    return Table(f"Test condition {report.condition}", columns, rows)


def _bundled_training(sha256: str | None) -> dict | None:
    """What the index of the bundled weights says of these."""
    index = yaml.safe_load((PACKAGE / "weights" / "index.yaml").read_text(encoding="utf-8"))
    return next((entry for entry in index.values() if entry["sha256"] == sha256), None)


def _training(config: ProposalConfig, trained: dict | None) -> Iterator[Block]:
    if config.training:
        yield Paragraph(config.training)
    if trained:
        columns = Column("key", "key"), Column("value", "value")
        rows = tuple({"key": key, "value": str(value)} for key, value in trained.items())
        yield Table("Weights of the proposal", columns, rows)
    if not config.training and not trained:
        yield Paragraph("Not stated.")


def _crosscheck(config: ProposalConfig, report: Report) -> str:
    """What the cross-checker found, where it is about these results."""
    if config.crosscheck is None:
        return "These results have not been cross-checked yet."
    check, key = read_json(config.crosscheck), report.runs[0].result.key
    if not isinstance(check, dict) or check.get("format") != "vcm-plugin cross-check":
        raise InputError(f"{config.crosscheck}: expected the crosscheck.json of a cross-check")
    if check.get("key") != key:
        raise InputError(
            f"{config.crosscheck} is a cross-check of other results than those of {config.run}; "
            "name the one of this run, or none"
        )
    steps: dict[str, list[str]] = {}
    for finding in check["findings"]:
        steps.setdefault(finding["status"], []).append(finding["step"])
    listed = "; ".join(
        f"{status}: {', '.join(dict.fromkeys(names))}" for status, names in steps.items()
    )
    device = check["environment"].get("device", "an unnamed device")
    return f"Cross-check: {check['verdict']}, on {device}. Steps, {listed}."


def _left(unfilled: list[str]) -> Block:
    if not unfilled:
        return Paragraph("Nothing: every field of the template was filled in.")
    return Bullets(tuple(f"{key}: not filled in" for key in unfilled))
