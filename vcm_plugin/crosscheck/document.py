# SPDX-License-Identifier: BSD-3-Clause
"""How does a cross-check read? Its verdict, points and findings as a document."""

from __future__ import annotations

from collections.abc import Iterator

from vcm_plugin.crosscheck.findings import OK, STEPS, CrossCheck, Finding
from vcm_plugin.report.document import Bullets, Column, Document, Heading, Paragraph, Table
from vcm_plugin.report.titles import IN_FIGURES, label_of, main_metrics, title_of


def to_document(check: CrossCheck) -> Document:
    """Verdict, what to ask the proponent, rate points, BD-rates, findings, limits, machines."""
    blocks = [Heading("Verdict"), Paragraph(f"{check.proposal}: {check.verdict}.")]
    blocks += [Paragraph(line) for line in occasion_in_words(check)]
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


def occasion_in_words(check: CrossCheck) -> Iterator[str]:
    """Which package, when, where and how: a line each."""
    it = check.occasion
    if not it.package:
        return
    yield f"Package {it.package}, {it.bytes:,} bytes, sha256 {it.sha256}."
    how = f"Checked on {it.date} UTC in {it.seconds:g} s, {it.jobs} process{'es' * (it.jobs > 1)}"
    if it.threads:
        how += f" of {it.threads} thread{'s' * (it.threads > 1)}"
    device = check.environment.get("device")
    yield f"{how}{f', on {device}' if device else ''}."


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
        Column("rate_point", "rate points"), Column("text", "what was found"),
    )  # fmt: skip
    order = list(STEPS)
    odd = [vars(finding) for finding in check.findings if finding.status != OK]
    odd.sort(key=lambda row: order.index(row["step"]))
    return Table("Findings", columns, (*odd, *_good(check)))


def _good(check: CrossCheck) -> Iterator[dict[str, str]]:
    """What was found to be good, a row per step and run with the rate points that it is about;
    crosscheck.json has it by rate point."""
    good: dict[tuple[str, str], list[Finding]] = {}
    for finding in (finding for finding in check.findings if finding.status == OK):
        good.setdefault((finding.step, finding.run), []).append(finding)
    order = list(STEPS)
    for (step, run), findings in sorted(good.items(), key=lambda item: order.index(item[0][0])):
        points = dict.fromkeys(f.rate_point for f in findings if f.rate_point)
        texts = dict.fromkeys(finding.text for finding in findings)
        more = f"; and {len(texts) - 2} more, see crosscheck.json" if len(texts) > 2 else ""
        yield {"step": step, "status": OK, "run": run, "rate_point": ", ".join(points) or "all",
               "text": "; ".join(list(texts)[:2]) + more}  # fmt: skip


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
