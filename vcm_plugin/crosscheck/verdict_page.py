# SPDX-License-Identifier: BSD-3-Clause
"""What does a chair get to see of a cross-check? Its verdict on one page, as PDF.

Whatever was checked, it is one page: of long tables the rows that are worst, and how many are left
out. All of it stands in crosscheck.html and crosscheck.docx.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from vcm_plugin.crosscheck.document import occasion_in_words
from vcm_plugin.crosscheck.findings import (
    CONFIRMED,
    NOT_CONFIRMED,
    STEPS,
    WITH_REMARKS,
    CrossCheck,
    PointCheck,
)
from vcm_plugin.report.document import cleaned
from vcm_plugin.report.figures import INK, NO_DATES, SETTINGS, Figure, rc_context
from vcm_plugin.report.titles import main_metrics, title_of

INCHES = (8.27, 11.69)  # A4
LEFT, RIGHT, TOP, BOTTOM = 0.09, 0.93, 0.95, 0.05  # shares of the page
POINTS, RATES, REMARKS = 26, 8, 6  # rows that a page has room for
# A symbol beside the word, so that it is read without colour, too.
SIGNS = {
    CONFIRMED: ("\N{CHECK MARK}", "#1f7a5a"),
    WITH_REMARKS: ("\N{CHECK MARK} !", "#9a6a00"),
    NOT_CONFIRMED: ("\N{MULTIPLICATION X}", "#a3261b"),
}
COMPARED = ("vcm_plugin", "torch", "python", "device")  # of the environments


def write_verdict_page(check: CrossCheck, path: Path) -> None:
    """Write the page."""
    with rc_context(SETTINGS | {"pdf.fonttype": 42}):
        page = _Page()
        page.text(cleaned(f"Cross-check of {check.proposal}"), 17, weight="bold")
        sign, colour = SIGNS[check.verdict]
        page.text(f"{sign}  {check.verdict}", 21, weight="bold", color=colour, gap=0.3)
        for number, line in enumerate(occasion_in_words(check)):
            page.text(cleaned(line), 8, gap=0 if number else 1)
        _reason(page, check)
        _points(page, check)
        _rates(page, check)
        _environments(page, check)
        page.text("Differences are found less claimed; features in standard deviations.", 8, gap=1)
        page.text("All findings: crosscheck.html, crosscheck.docx, crosscheck.json.", 8)
        page.figure.savefig(path, format="pdf", metadata=NO_DATES["pdf"])


class _Page:
    """A page that is written from its top on."""

    def __init__(self):
        self.figure = Figure(figsize=INCHES)
        self.y = TOP

    def text(self, text: str, size: float, gap: float = 0.0, **style) -> None:
        """A paragraph; gap: lines that are left free before it."""
        wide = int((RIGHT - LEFT) * INCHES[0] * 72 / (0.56 * size))
        height = 1.35 * size / 72 / INCHES[1]
        self.y -= gap * height
        for line in textwrap.wrap(text, wide) or [""]:
            self.y -= height
            self.figure.text(LEFT, self.y, line, fontsize=size, **{"color": INK} | style)

    def table(self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns as wide as their texts; flush left, head row in bold."""
        if not rows:
            return
        self.text(title, 10.5, gap=1, weight="bold")
        widths = [max(len(row[n]) for row in (heads, *rows)) + 2 for n in range(len(heads))]
        size = min(8.0, (RIGHT - LEFT) * INCHES[0] * 72 / (0.6 * sum(widths)))
        step = 1.45 * size / 72 / INCHES[1]
        for row in (heads, *rows):
            self.y -= step
            at = LEFT
            for text, width in zip(row, widths, strict=True):
                weight = "bold" if row is heads else "normal"
                self.figure.text(at, self.y, text, fontsize=size, weight=weight, color=INK)
                at += (RIGHT - LEFT) * width / max(sum(widths), 1)


def _reason(page: _Page, check: CrossCheck) -> None:
    """The first failing step, or the remarks."""
    first = check.first_failure
    if first:
        where = " ".join(word for word in (first.run, first.rate_point) if word)
        page.text(f"First failing step: {first.step} ({STEPS[first.step][0]}).", 10, gap=1)
        page.text(cleaned(_short(f"{where}: {first.text}" if where else first.text)), 9)
        page.text(f"Ask the proponent {STEPS[first.step][1]}.", 9)
    remarks = [f for f in check.findings if f.status in ("remark", "skipped")]
    for finding in remarks[:REMARKS]:
        words = f"{finding.step}, {finding.status}: {finding.run} {finding.text}"
        page.text(cleaned(_short(words)), 8.5, gap=0.3)
    if len(remarks) > REMARKS:
        page.text(f"and {len(remarks) - REMARKS} more remarks", 8.5)


def _points(page: _Page, check: CrossCheck) -> None:
    """Bits and accuracy of each rate point, claimed and found."""
    shown = main_metrics({metric for point in check.points for metric in point.accuracy or ()})
    heads = ["run", "rate point", "verdict", "bits claimed", "bits found", "features"]
    for metric in shown:
        heads += [title_of(metric), "difference"]
    worst = sorted(check.points, key=lambda point: _badness(check, point))[:POINTS]
    kept = [point for point in check.points if any(point is one for one in worst)]
    rows = [_point(check, point, shown) for point in kept]
    left = len(check.points) - len(kept)
    title = "Rate points" + (f" (the worst {len(kept)} of {len(check.points)})" if left else "")
    page.table(title, heads, rows)


def _point(check: CrossCheck, point: PointCheck, shown: Sequence[str]) -> list[str]:
    row = [point.run, point.rate_point, check.verdict_of_point(point.run, point.rate_point)]
    row += [_number(point.bits, ",d"), _number(point.found_bits, ",d")]
    row.append(_number(point.feature_deviation, ".1e"))
    for metric in shown:
        pair = (point.accuracy or {}).get(metric)
        row += [_number(pair and pair.claimed, ".2f"), _number(pair and pair.difference, "+.4f")]
    return row


def _badness(check: CrossCheck, point: PointCheck) -> tuple:
    """Sorts what failed first, then what is farthest from the claims."""
    order = [NOT_CONFIRMED, WITH_REMARKS, CONFIRMED]
    apart = max((abs(pair.difference) for pair in (point.accuracy or {}).values()), default=0.0)
    return order.index(check.verdict_of_point(point.run, point.rate_point)), -apart


def _rates(page: _Page, check: CrossCheck) -> None:
    """The claimed BD-rates beside those that were found."""
    main = main_metrics({rate.metric for rate in check.bd_rates})
    rates = [rate for rate in check.bd_rates if rate.metric in main] or check.bd_rates
    rows = [
        [f"{rate.test} against {rate.anchor}", title_of(rate.metric), rate.method,
         _number(rate.claimed, "+.2f"), _number(rate.found, "+.2f")]
        for rate in rates[:RATES]
    ]  # fmt: skip
    left = len(check.bd_rates) - len(rows)
    more = f" ({left} more in crosscheck.html)" if left else ""
    heads = ["BD-rate of", "metric", "method", "claimed (%)", "found here (%)"]
    page.table(f"BD-rates{more}", heads, rows)


def _environments(page: _Page, check: CrossCheck) -> None:
    rows = [
        [name, *(_short(str(side.get(name, "")), 48) for side in sides)]
        for sides in [(check.claimed_environment, check.environment)]
        for name in COMPARED
        if any(name in side for side in sides)
    ]
    page.table("Where", ["", "of the run", "here"], rows)


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def _short(text: str, most: int = 330) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
