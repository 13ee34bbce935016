# SPDX-License-Identifier: BSD-3-Clause
"""How does a cross-check read? Its verdict, points and findings as a document."""

from __future__ import annotations

from collections.abc import Iterator

from vcm_plugin.crosscheck.findings import OK, STEPS, CrossCheck
from vcm_plugin.report.document import Bullets, Column, Document, Heading, Paragraph, Table
from vcm_plugin.report.titles import IN_FIGURES, label_of, main_metrics, title_of


def to_document(check: CrossCheck) -> Document:
    """Verdict, what to ask the proponent, rate points, BD-rates, findings, limits, machines."""
    blocks = [Heading("Verdict"), Paragraph(f"{check.proposal}: {check.verdict}.")]
    first = check.first_failure
    if first:
        holds, ask = STEPS[first.step]
        where = " ".join(word for word in (first.run, first.rate_point) if word)
        blocks.append(
            Paragraph(f"First failing step: {first.step} ({holds}). {where}: {first.text}")
        )
        blocks.append(Paragraph(f"Ask the proponent {ask}."))
    remarks = [f for f in check.findings if f.status in ("remark", "skipped")]
    if remarks:
        blocks.append(Bullets(tuple(f"{f.step}, {f.status}: {f.run} {f.text}" for f in remarks)))
    for table in (_points(check), *_human_vision(check), _bd_rates(check), _findings(check)):
        if table.rows:
            blocks += [Heading(table.title), table]
    blocks += [Heading("What was accepted, and where"), _limits(check), _environment(check)]
    return Document(f"Cross-check of {check.proposal}", tuple(blocks))


def _points(check: CrossCheck) -> Table:
    shown = main_metrics({metric for point in check.points for metric in point.accuracy or ()})
    columns = [
        Column("run", "run"), Column("rate_point", "rate point"), Column("verdict", "verdict"),
        Column("bits", "bits claimed", "d"), Column("found_bits", "found", "d"),
        Column("feature_deviation", "features", ".1e"),
        Column("unmatched_percent", "detections unmatched (%)", ".3f"),
    ]  # fmt: skip
    for metric in shown:
        columns += [
            Column(f"{metric}.claimed", f"{title_of(metric)} claimed", ".4f"),
            Column(f"{metric}.difference", "found less claimed", "+.4f"),
        ]
    rows = []
    for point in check.points:
        verdict = check.verdict_of_point(point.run, point.rate_point)
        flat = {**vars(point), "verdict": verdict}
        for metric, pair in (point.accuracy or {}).items():
            flat |= {f"{metric}.{key}": value for key, value in vars(pair).items()}
        rows.append(flat)
    return Table("Rate points", tuple(columns), tuple(rows))


def _human_vision(check: CrossCheck) -> Iterator[Table]:
    """The measures of the decoded pictures that reports show; crosscheck.json holds all of them."""
    for title, key, spec in (
        ("Human vision, claimed", "claimed", ".4f"),
        ("Human vision, found here less claimed", "difference", "+.1e"),
    ):
        measures = [Column(name, label_of(name), spec) for name in IN_FIGURES]
        columns = (Column("run", "run"), Column("rate_point", "rate point"), *measures)
        rows = tuple(
            {"run": point.run, "rate_point": point.rate_point}
            | {name: getattr(pair, key) for name, pair in point.human_vision.items()}
            for point in check.points
            if point.human_vision is not None
        )
        yield Table(title, columns, rows)


def _bd_rates(check: CrossCheck) -> Table:
    columns = (
        Column("test", "test"), Column("anchor", "anchor"), Column("metric", "metric"),
        Column("method", "method"), Column("claimed", "claimed (%)", "+.4f"),
        Column("recomputed", "of the claimed points", "+.4f"),
        Column("found", "of what was found here", "+.4f"),
    )  # fmt: skip
    return Table("BD-rates", columns, tuple(vars(rate) for rate in check.bd_rates))


def _findings(check: CrossCheck) -> Table:
    columns = (
        Column("step", "step"), Column("status", "status"), Column("run", "run"),
        Column("rate_point", "rate point"), Column("text", "what was found"),
    )  # fmt: skip
    order = list(STEPS)
    odd = [vars(finding) for finding in check.findings if finding.status != OK]
    odd.sort(key=lambda row: order.index(row["step"]))
    return Table("Findings", columns, (*odd, *_good(check)))


def _good(check: CrossCheck) -> Iterator[dict[str, str]]:
    """What was found to be good, a row per step and run; crosscheck.json has it by rate point."""
    texts: dict[tuple[str, str], list[str]] = {}
    for finding in (finding for finding in check.findings if finding.status == OK):
        texts.setdefault((finding.step, finding.run), []).append(finding.text)
    for (step, run), of_step in sorted(
        texts.items(), key=lambda item: list(STEPS).index(item[0][0])
    ):
        distinct = list(dict.fromkeys(of_step))
        more = f"; and {len(distinct) - 2} more like these" if len(distinct) > 2 else ""
        yield {"step": step, "status": OK, "run": run, "rate_point": "",
               "text": "; ".join(distinct[:2]) + more}  # fmt: skip


def _limits(check: CrossCheck) -> Table:
    columns = Column("name", "limit"), Column("value", "value", "g")
    rows = tuple({"name": name, "value": value} for name, value in check.limits.items())
    return Table("Limits (cfg/crosscheck.yaml)", columns, rows)


def _environment(check: CrossCheck) -> Table:
    columns = Column("name", ""), Column("claimed", "of the run"), Column("here", "here")
    names = dict.fromkeys((*check.claimed_environment, *check.environment))
    rows = tuple(
        {
            "name": name,
            "claimed": check.claimed_environment.get(name),
            "here": check.environment.get(name),
        }
        for name in names
    )
    return Table("Environment", columns, rows)
