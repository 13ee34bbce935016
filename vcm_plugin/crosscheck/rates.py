# SPDX-License-Identifier: BSD-3-Clause
"""Do the claimed BD-rates follow from the claimed points, and from what was found here?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vcm_plugin.crosscheck.claims import EXACT, Claims
from vcm_plugin.crosscheck.findings import (
    FAILED,
    NOT_APPLICABLE,
    OK,
    SKIPPED,
    CrossCheck,
    Finding,
    close,
)
from vcm_plugin.crosscheck.package import Limits, Package
from vcm_plugin.ctc.results import load_result
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json, write_json
from vcm_plugin.report.layout import bd_rate_rows
from vcm_plugin.report.tables import Rules, build_report

KEYS = ("test", "anchor", "metric", "method")


def check_bd_rates(
    package: Package,
    runs: Mapping[str, Claims],
    found: Mapping[str, Mapping[str, Mapping[str, Any]]],
    check: CrossCheck,
    limits: Limits,
) -> Iterator[Finding]:
    """The claimed BD-rates against those of the claimed points, and of the points found here."""
    if not check.anchors:
        yield Finding("bd_rate", NOT_APPLICABLE, "the package holds no anchor")
        return
    try:
        claimed = {_key(row): row for row in _claimed_rates(package)}
        recomputed = _bd_rates(list(package.runs.values()), check)
    except (InputError, KeyError, TypeError) as error:
        yield Finding("bd_rate", FAILED, f"cannot be recomputed: {error}")
        return
    problems = []
    for key in dict.fromkeys((*claimed, *recomputed)):
        theirs = claimed.get(key, {}).get("percent")
        ours = recomputed.get(key, {}).get("percent")
        check.bd_rates.append(
            {**dict(zip(KEYS, key, strict=True)), "claimed": theirs, "recomputed": ours}
        )
        if key not in claimed or not close(theirs, ours, EXACT):
            problems.append(f"{' '.join(key)}: claimed {theirs}, the claimed points give {ours}")
    text = "; ".join(problems[:3]) or f"{len(claimed)} BD-rates follow from the claimed points"
    yield Finding("bd_rate", FAILED if problems else OK, text)
    yield from _compare_found_rates(package, runs, found, check, limits)


def _compare_found_rates(package, runs, found, check: CrossCheck, limits: Limits):
    """BD-rates of the accuracy and bits that were found here."""
    folders = []
    for name, claims in runs.items():
        if any(not found[name].get(point) for point in claims.points):
            yield Finding("bd_rate", SKIPPED, "some rate points do not decode here")
            return
        result = json.loads(json.dumps(claims.result))
        for stored in result["points"]:
            stored |= found[name][stored["rate_point"]]
        folder = package.folder / "found" / name
        write_json(folder / "result.json", result)
        folders.append(folder)
    worst = 0.0
    rates = _bd_rates(folders, check)
    for row in check.bd_rates:
        row["found"] = rates[tuple(row[key] for key in KEYS)]["percent"]
        if row["found"] is not None and row["recomputed"] is not None:
            scale = max(1.0, abs(row["recomputed"]) / 100)
            worst = max(worst, abs(row["found"] - row["recomputed"]) / scale)
    text = f"BD-rates of what was found here differ by at most {worst:.4f}"
    yield Finding("bd_rate", OK if worst <= limits.bd_rate_points else FAILED, text)


def _bd_rates(folders: Sequence[Path], check: CrossCheck) -> dict[tuple, dict[str, Any]]:
    first = load_result(folders[0])["test"]
    rules = Rules(min_overlap=first["min_overlap"], resamples=1)
    report = build_report(folders, check.anchors, rules)
    tests = (check.proposal, f"{check.proposal}_100")
    return {_key(row): row for row in bd_rate_rows(report) if row["test"] in tests}


def _claimed_rates(package: Package) -> list[dict[str, Any]]:
    claims = read_json(package.folder / "claims.json")
    return claims["bd_rate"]


def _key(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row[key] for key in KEYS)
