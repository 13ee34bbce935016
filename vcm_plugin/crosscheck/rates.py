# SPDX-License-Identifier: BSD-3-Clause
"""Do the claimed BD-rates follow from the claimed points, and from what was found here?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vcm_plugin.crosscheck.claims import EXACT, Claims
from vcm_plugin.crosscheck.findings import (
    FAILED,
    NOT_APPLICABLE,
    OK,
    SKIPPED,
    BdRateCheck,
    CrossCheck,
    Finding,
    close,
)
from vcm_plugin.crosscheck.package import Limits, Package
from vcm_plugin.ctc.results import PointResult
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json
from vcm_plugin.report.layout import bd_rate_rows
from vcm_plugin.report.runs import Run, make_run
from vcm_plugin.report.tables import Rules, compare_runs

KEYS = ("test", "anchor", "metric", "method")


def check_bd_rates(
    package: Package,
    runs: Mapping[str, Claims],
    points_here: Mapping[str, Mapping[str, PointResult]],
    check: CrossCheck,
    limits: Limits,
) -> Iterator[Finding]:
    """The claimed BD-rates against those of the claimed points, and of the points found here."""
    if not check.anchors:
        yield Finding("bd_rate", NOT_APPLICABLE, "the package holds no anchor")
        return
    try:
        claimed = {_key(row): row for row in _claimed_rates(package)}
        runs_claimed = [make_run(name, c.folder, c.result) for name, c in runs.items()]
        recomputed = _bd_rates(runs_claimed, check)
    except (InputError, KeyError, TypeError) as error:
        yield Finding("bd_rate", FAILED, f"cannot be recomputed: {error}")
        return
    problems = []
    for key in dict.fromkeys((*claimed, *recomputed)):
        stated = claimed.get(key, {}).get("percent")
        computed = recomputed.get(key, {}).get("percent")
        check.bd_rates.append(BdRateCheck(*key, stated, computed))
        if key not in claimed or not close(stated, computed, EXACT):
            problems.append(
                f"{' '.join(key)}: claimed {stated}, the claimed points give {computed}"
            )
    refused = sum(row.get("percent") is None for row in claimed.values())
    counted = f"{len(claimed) - refused} BD-rates" + (f" and {refused} refusals" if refused else "")
    text = "; ".join(problems[:3]) or f"{counted} follow from the claimed points"
    yield Finding("bd_rate", FAILED if problems else OK, text)
    yield from _compare_rates_here(runs, points_here, check, limits)


def _compare_rates_here(
    runs: Mapping[str, Claims],
    points_here: Mapping[str, Mapping[str, PointResult]],
    check: CrossCheck,
    limits: Limits,
) -> Iterator[Finding]:
    """BD-rates of the accuracy and bits that were found here."""
    runs_here = []
    for name, claims in runs.items():
        if any(point not in points_here[name] for point in claims.points):
            yield Finding("bd_rate", SKIPPED, "some rate points do not decode here")
            return
        points = tuple(points_here[name][point] for point in claims.points)
        runs_here.append(make_run(name, claims.folder, replace(claims.result, points=points)))
    worst = 0.0
    rates = _bd_rates(runs_here, check)
    for row in check.bd_rates:
        row.found = rates[row.test, row.anchor, row.metric, row.method]["percent"]
        if row.found is not None and row.recomputed is not None:
            scale = max(1.0, abs(row.recomputed) / 100)
            worst = max(worst, abs(row.found - row.recomputed) / scale)
    text = f"BD-rates of what was found here differ by at most {worst:.4f}"
    yield Finding("bd_rate", OK if worst <= limits.bd_rate_points else FAILED, text)


def _bd_rates(runs: Sequence[Run], check: CrossCheck) -> dict[tuple, dict[str, Any]]:
    rules = Rules(min_overlap=runs[0].result.test.min_overlap, resamples=1)
    report = compare_runs(runs, check.anchors, rules)
    tests = (check.proposal, f"{check.proposal}_100")
    return {_key(row): row for row in bd_rate_rows(report) if row["test"] in tests}


def _claimed_rates(package: Package) -> list[dict[str, Any]]:
    claims = read_json(package.folder / "claims.json")
    return claims["bd_rate"]


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in KEYS)
