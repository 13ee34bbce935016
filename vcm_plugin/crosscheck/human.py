# SPDX-License-Identifier: BSD-3-Clause
"""Are claimed measures of decoded pictures true? By their own lines, and by what is found here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vcm_plugin.crosscheck.claims import Claims, Lines, accuracy_of, finding
from vcm_plugin.crosscheck.findings import SKIPPED, Difference, Finding, PointCheck, close
from vcm_plugin.crosscheck.package import Limits
from vcm_plugin.ctc.results import UNCOMPRESSED
from vcm_plugin.metrics.pictures import SET_METRICS, Value, picture_measures
from vcm_plugin.report.titles import AP_METRICS

STEP = "human_vision"
SAME = 1e-6  # measures of the same lines, whose distances of sets are sums in another order
PAINTED = tuple(f"painted_{metric}" for metric in AP_METRICS)
BITS = ("machine_bits", "human_bits")


def claimed_points(claims: Claims) -> set[str]:
    """The rate points that claim measures of decoded pictures."""
    return {name for name, point in claims.points.items() if point.human_vision is not None}


def check_human_vision(claims: Claims, points: Sequence[str]) -> Iterator[Finding]:
    """The claimed measures of a rate point are those of its lines, to the last digits."""
    for point in sorted(claimed_points(claims) & set(points)):
        claimed = claims.points[point].human_vision or {}
        measured = _measures(claims, claims.records[point], claims.records[UNCOMPRESSED])
        problems = [
            f"claimed {key} is {claimed.get(key)}, that of the claimed lines is {measured.get(key)}"
            for key in dict.fromkeys((*claimed, *measured))
            if not close(claimed.get(key), measured.get(key), SAME)
        ]
        text = "the claimed measures of the decoded pictures are those of their lines"
        yield finding(STEP, problems, text, claims.name, point)


def compare_human_vision(
    claims: Claims, point: str, decoded: Lines, sources: Lines, limits: Limits, row: PointCheck
) -> Iterator[Finding]:
    """The claimed measures of a rate point against those of the pictures decoded here.

    sources: the uncompressed pictures here. row: of the report, gets the differences.
    """
    if point not in claimed_points(claims):
        return
    if not sources:
        yield Finding(STEP, SKIPPED, "the pictures are not here", claims.name, point)
        return
    measured = _measures(claims, decoded, sources)
    claimed = {
        key: value
        for key, value in (claims.points[point].human_vision or {}).items()
        if isinstance(value, int | float) and (key in PAINTED or not key.startswith("painted_"))
    }
    row.human_vision = {
        key: Difference.between(value, measured[key])
        for key, value in claimed.items()
        if isinstance(measured.get(key), int | float)
    }
    lacking = [key for key in claimed if key not in row.human_vision]
    if lacking:
        text = f"not measured here: {', '.join(lacking)}; `vcm-plugin doctor` says what is missing"
        yield Finding(STEP, SKIPPED, text, claims.name, point)
    problems = [
        f"{key} is claimed as {pair.claimed:.6g} and is {pair.found:.6g} here"
        for key, pair in row.human_vision.items()
        if abs(pair.difference) > _limit(key, pair.claimed, limits)
    ]
    text = f"{len(row.human_vision)} measures of the decoded pictures are found here"
    yield finding(STEP, problems, text, claims.name, point)


def _measures(claims: Claims, records: Lines, sources: Lines) -> dict[str, Value]:
    """What a run would state of these lines."""
    ids = claims.entry_ids
    measured = picture_measures([records[i] for i in ids], [sources[i] for i in ids])
    painted = accuracy_of(claims, records, "painted")
    return measured | {f"painted_{name}": value for name, value in painted.items()}


def _limit(key: str, claimed: float, limits: Limits) -> float:
    """How far a measure found here may be from the claimed one."""
    if key in BITS:
        return 0.0
    if key in PAINTED:
        return limits.accuracy_points
    if key in SET_METRICS:
        return limits.set_distance_percent / 100 * abs(claimed)
    return {"psnr": limits.psnr_db, "vmaf": limits.vmaf_points}.get(key, limits.similarity)
