# SPDX-License-Identifier: BSD-3-Clause
"""What does a cross-check find, and which verdict follows? Steps, findings, verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vcm_plugin.ctc.typed_json import to_json

# step -> (what it holds, what to ask the proponent where it fails), in the order of the check
STEPS = {
    "manifest": (
        "every file is there with its sha256",
        "to send the package again, as `vcm-plugin package` made it",
    ),
    "config": (
        "the condition, the results and the weights belong together",
        "which condition and which weights (sha256) made these bitstreams, and to send them",
    ),
    "data": (
        "the test set here is the one that was used",
        "which pictures and annotations were used",
    ),
    "bitstreams": (
        "all are there, decode to their checksums, and have the claimed sizes",
        "for the bitstreams again, and for the version of vcm-plugin that made them",
    ),
    "features": (
        "the decoded features are the claimed ones",
        "for the machine, the PyTorch version and the thread count of the run",
    ),
    "predictions": (
        "the detections are the claimed ones",
        "for the detector's checkpoint and configuration, and its runtime",
    ),
    "accuracy": (
        "the claimed accuracy follows from the predictions, and is found here",
        "for the evaluation's log, and the predictions of the rate point",
    ),
    "human_vision": (
        "the claimed measures of the decoded pictures follow from their lines, and are found here",
        "for the decoded pictures, and the versions of piq and FFmpeg that measured them",
    ),
    "encoding": (
        "encoding again gives the same files, or files of the same size",
        "for the encoder's version and command line",
    ),
    "bd_rate": (
        "the claimed BD-rates follow from the rate points",
        "how the BD-rate was computed, and from which points",
    ),
}
OK, REMARK, FAILED = "ok", "remark", "failed"
SKIPPED, NOT_ASKED, NOT_APPLICABLE = "skipped", "not asked for", "not applicable"
CONFIRMED, WITH_REMARKS, NOT_CONFIRMED = "confirmed", "confirmed with remarks", "not confirmed"
EXIT_CODES = {CONFIRMED: 0, NOT_CONFIRMED: 1, WITH_REMARKS: 3}


@dataclass(frozen=True)
class Finding:
    """What a step found about a run, or about one of its rate points."""

    step: str
    status: str
    text: str
    run: str = ""
    rate_point: str = ""


@dataclass(frozen=True)
class Difference:
    """A claimed value and the one found here."""

    claimed: float
    found: float
    difference: float  # found less claimed

    @classmethod
    def between(cls, claimed: float, found: float) -> Difference:
        return cls(claimed, found, found - claimed)


@dataclass
class PointCheck:
    """How far one rate point as found here is from the claimed one; None is what was not compared.

    feature_deviation: largest difference of a layer's mean or spread, in the claimed spread.
    """

    run: str
    rate_point: str
    bits: int | None = None
    found_bits: int | None = None
    feature_deviation: float | None = None
    unmatched_percent: float | None = None  # of the detections
    accuracy: dict[str, Difference] | None = None
    human_vision: dict[str, Difference] | None = None


@dataclass
class BdRateCheck:
    """One claimed BD-rate, that of the claimed points, and that of what was found here."""

    test: str
    anchor: str
    metric: str
    method: str
    claimed: float | None
    recomputed: float | None
    found: float | None = None


@dataclass(frozen=True)
class Occasion:
    """Which package was checked, when, and how long it took.

    threads: of torch in each process; None where nothing was decoded.
    """

    package: str = ""  # name of the file
    sha256: str = ""
    bytes: int = 0
    date: str = ""  # UTC, as in 2026-11-26 06:10
    seconds: float = 0.0
    jobs: int = 1
    threads: int | None = None


@dataclass
class CrossCheck:
    """All findings, the measured differences of every rate point, and the verdicts."""

    proposal: str
    anchors: list[str]
    environment: dict[str, str]  # of this machine
    claimed_environment: dict[str, str]
    limits: dict[str, float]
    key: str = ""  # of the proposal's result
    occasion: Occasion = Occasion()
    threads: int | None = None  # of torch, once something is decoded
    findings: list[Finding] = field(default_factory=list)
    points: list[PointCheck] = field(default_factory=list)
    bd_rates: list[BdRateCheck] = field(default_factory=list)

    def add(self, findings: Iterable[Finding]) -> bool:
        """Keep findings; whether none of them is a failure."""
        new = list(findings)
        self.findings += new
        return all(finding.status != FAILED for finding in new)

    @property
    def verdict(self) -> str:
        return verdict_of(self.findings)

    @property
    def first_failure(self) -> Finding | None:
        """The failure of the earliest step."""
        steps = list(STEPS)
        failed = [finding for finding in self.findings if finding.status == FAILED]
        return min(failed, key=lambda finding: steps.index(finding.step), default=None)

    def verdict_of_point(self, run: str, rate_point: str) -> str:
        """The verdict of a rate point: what was found about it and its run, BD-rates aside."""
        about = [
            finding
            for finding in self.findings
            if finding.run in ("", run)
            and finding.rate_point in ("", rate_point)
            and finding.step != "bd_rate"
        ]
        return verdict_of(about)

    def to_dict(self) -> dict[str, Any]:
        """The content of crosscheck.json."""
        first = self.first_failure
        return {
            "format": "vcm-plugin cross-check",
            "version": 1,
            "verdict": self.verdict,
            "exit_code": EXIT_CODES[self.verdict],
            "first_failing_step": first and first.step,
            "ask_the_proponent": first and STEPS[first.step][1],
            "occasion": vars(self.occasion),
            "proposal": self.proposal,
            "key": self.key,
            "anchors": self.anchors,
            "points": [
                to_json(point) | {"verdict": self.verdict_of_point(point.run, point.rate_point)}
                for point in self.points
            ],
            "bd_rates": [vars(rate) for rate in self.bd_rates],
            "findings": [vars(finding) for finding in self.findings],
            "limits": self.limits,
            "environment": self.environment,
            "claimed_environment": self.claimed_environment,
        }


def verdict_of(findings: Iterable[Finding]) -> str:
    """A failure is not confirmed; a remark or a step that was skipped is a remark."""
    statuses = {finding.status for finding in findings}
    if FAILED in statuses:
        return NOT_CONFIRMED
    return WITH_REMARKS if statuses & {REMARK, SKIPPED} else CONFIRMED


def differences(claimed: Any, found: Any, name: str = "") -> Iterable[tuple[str, Any, Any]]:
    """(key, claimed, found) of every leaf in which two JSON-able values differ."""
    if isinstance(claimed, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys((*claimed, *found)):
            place = f"{name}.{key}".strip(".")
            yield from differences(claimed.get(key), found.get(key), place)
    elif claimed != found:
        yield name, claimed, found


def close(claimed: Any, found: Any, tolerance: float) -> bool:
    """Whether two numbers are equal but for a tolerance, relative above 1; or two other values."""
    if not (isinstance(claimed, float | int) and isinstance(found, float | int)):
        return claimed == found
    return abs(claimed - found) <= tolerance * max(1.0, abs(found))
