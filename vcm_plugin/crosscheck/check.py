# SPDX-License-Identifier: BSD-3-Clause
"""Is somebody else's package true? A package -> findings, a verdict per rate point and overall."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from vcm_plugin.crosscheck import claims as claimed_by
from vcm_plugin.crosscheck.document import to_document
from vcm_plugin.crosscheck.findings import FAILED, CrossCheck, Finding, Occasion
from vcm_plugin.crosscheck.package import load_limits, open_package
from vcm_plugin.crosscheck.rates import check_bd_rates
from vcm_plugin.crosscheck.run import CheckOptions, Progress, RunCheck
from vcm_plugin.crosscheck.verdict_page import write_verdict_page
from vcm_plugin.errors import InputError
from vcm_plugin.files import sha256_of_file, write_json
from vcm_plugin.report.docx_file import write_docx
from vcm_plugin.report.pages import write_html

__all__ = ["CheckOptions", "crosscheck", "write_crosscheck"]


def crosscheck(
    package: Path,
    options: CheckOptions,
    progress: Progress = lambda stage, done, total: None,
) -> CrossCheck:
    """Check a package in a temporary folder; raises InputError for what is no package at all."""
    begun, date = time.monotonic(), datetime.now(timezone.utc)
    check = _crosscheck(package, options, progress)
    check.occasion = Occasion(
        package.name, sha256_of_file(package), package.stat().st_size, f"{date:%Y-%m-%d %H:%M}",
        round(time.monotonic() - begun, 1), options.jobs, check.threads,
    )  # fmt: skip
    return check


def write_crosscheck(check: CrossCheck, out: Path) -> None:
    """Write crosscheck.json, crosscheck.html, crosscheck.docx, and verdict.pdf, one page."""
    document = to_document(check)
    write_json(out / "crosscheck.json", check.to_dict())
    write_html(document, out / "crosscheck.html")
    write_docx(document, out / "crosscheck.docx")
    write_verdict_page(check, out / "verdict.pdf")


def _crosscheck(package: Path, options: CheckOptions, progress: Progress) -> CrossCheck:
    limits = load_limits()
    with tempfile.TemporaryDirectory() as folder:
        opened = open_package(package, Path(folder), limits)
        check = CrossCheck(
            proposal=opened.manifest["proposal"],
            anchors=list(opened.manifest["anchors"]),
            environment={},
            claimed_environment={},
            limits=dataclasses.asdict(limits),
        )
        if not check.add(claimed_by.check_manifest(opened)):
            return check
        try:
            runs = claimed_by.read_claims(opened)
        except InputError as error:
            reason = str(error).replace(f"{folder}/", "")
            check.add([Finding("bitstreams", FAILED, reason)])
            return check
        check.key = runs[check.proposal].result.key
        check.claimed_environment = runs[check.proposal].result.environment
        points_here = {
            name: RunCheck(claims, opened, options, limits, check, progress).run()
            for name, claims in runs.items()
        }
        check.add(check_bd_rates(opened, runs, points_here, check, limits))
        return check
