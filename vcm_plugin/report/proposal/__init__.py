# SPDX-License-Identifier: BSD-3-Clause
"""What does a proposal consist of? Runs and a YAML -> an input document in MPEG form.

Every number comes from the tables of the report; what the author did not fill in is listed at the
end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from vcm_plugin import settings
from vcm_plugin.ctc.codecs import CODECS, load_condition
from vcm_plugin.environment import PACKAGE
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json
from vcm_plugin.metrics.bd_rate import BdRate
from vcm_plugin.report import costs, made, require, views, write_document
from vcm_plugin.report.document import (
    Block,
    Bullets,
    Column,
    Document,
    Front,
    Heading,
    Paragraph,
    Table,
)
from vcm_plugin.report.paper import figures
from vcm_plugin.report.proposal.config import ProposalConfig, load_config
from vcm_plugin.report.proposal.figure import architecture
from vcm_plugin.report.proposal.references import references
from vcm_plugin.report.proposal.specification import clauses
from vcm_plugin.report.runs import read_runs
from vcm_plugin.report.sequence_tables import sequence_tables
from vcm_plugin.report.tables import Report, compare_runs
from vcm_plugin.report.titles import title_of

SUFFIXES = (".docx", ".md", ".tex")
COMMITTEE = (
    "INTERNATIONAL ORGANISATION FOR STANDARDISATION",
    "ORGANISATION INTERNATIONALE DE NORMALISATION",
    "ISO/IEC JTC 1/SC 29/WG 4",
)
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
    blocks: list[Block] = [_front(config), _header(config), Heading("Abstract")]
    blocks += _abstract(report)
    blocks += [Heading("Technical description")]
    blocks += [Paragraph(text) for text in config.description]
    blocks += [architecture(run.name), *clauses(run.result.codec)]
    blocks += [Heading("Test conditions"), *made.tables(report)]
    blocks += [Paragraph(text) for text in made.lacking(report)]
    blocks += [Heading("Results"), *figures(report), views.bd_rates(report)]
    blocks += [views.main_points(report), *sequence_tables(report), views.near_lossless(report)]
    blocks += [Heading("Complexity"), *(t for t in costs.tables(report) if t.rows)]
    blocks += [Heading("Training"), *_training(config, trained)]
    blocks += [Heading("Cross-check"), Paragraph(_crosscheck(config, report))]
    blocks += [Heading("Conclusion"), *_conclusion(config, report)]
    blocks += [Heading("Recommendation"), Paragraph(_said(config.recommendation))]
    listed = list(dict.fromkeys([*config.references, *references(report)]))
    blocks += [Heading("References")]
    blocks += [Paragraph(f"[{n}] {text}") for n, text in enumerate(listed, start=1)]
    blocks += [Heading("Annex: more results, and the test condition")]
    blocks += [*views.appendix_tables(report), _conditions(report)]
    blocks += [Heading("Not filled in"), _left(unfilled)]
    front = _front(config)
    return Document(
        config.title, tuple(blocks), "  ".join([front.committee[-1], config.number or ""]).strip(),
        "; ".join(config.authors), f"Proposal, {report.heading}", "feature coding, BD-rate",
    ), unfilled  # fmt: skip


def _front(config: ProposalConfig) -> Front:
    """The committee, the number of the document, place and date of the meeting."""
    meeting = ", ".join(text for text in (config.place, config.date) if text)
    return Front(config.committee or COMMITTEE, config.number, meeting or None)


def _conclusion(config: ProposalConfig, report: Report) -> Iterator[Paragraph]:
    """What the author concludes, or else what was measured and no more."""
    if config.conclusion:
        yield Paragraph(config.conclusion)
        return
    yield Paragraph("The author has not filled in a conclusion. What was measured:")
    yield from list(_abstract(report))[1:]


def _said(text: str | None) -> str:
    return text or "Not filled in."


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
        f"{report.name} ({data.name}, {report.scope})."
    )
    for anchor in report.anchors:
        cells = [
            f"{title_of(found.metric)} {_percent(found.raw)}"
            for found in report.main_comparisons
            if (found.test, found.anchor) == (run.name, anchor)
            and found.metric in report.main_metrics
        ]
        if cells:
            yield Paragraph(f"BD-rate against {anchor}: {'; '.join(cells)}.")


def _percent(result: BdRate) -> str:
    return f"{result.percent:+.2f} %" if result.percent is not None else f"none ({result.reason})"


def _conditions(report: Report) -> Table:
    """Every key of the condition that one of the runs has read, as they keep it."""
    columns = Column("key", "key"), Column("value", "value")
    path = report.runs[0].folder / "condition.yaml"
    facts = {}
    if path.is_file():
        load_condition(path)  # raises InputError for one that was edited into something else
        facts = yaml.safe_load(path.read_text(encoding="utf-8"))
    unread = _keys_of_others(report)
    rows = tuple(
        {"key": key, "value": ", ".join(map(str, v)) if isinstance(v, list) else str(v)}
        for key, v in facts.items()
        if key.removesuffix("_source") not in unread
    )
    return Table(f"Test condition {report.name}", columns, rows)


def _keys_of_others(report: Report) -> set[str]:
    """The keys of codecs that nobody ran."""
    ran = {run.result.codec for run in report.runs}
    keys = {name: set(settings.types_of(known)) for name, known in CODECS.items()}
    read = {key for name in ran for key in keys.get(name, ())}
    return {key for of_codec in keys.values() for key in of_codec} - read


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
