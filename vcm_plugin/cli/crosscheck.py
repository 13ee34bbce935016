# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin crosscheck` do? Somebody else's package -> a verdict."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from vcm_plugin.cli.common import data_root_of, progress_bars, refuse_overwriting
from vcm_plugin.cli.options import add_device, command, positive
from vcm_plugin.errors import InputError


def add(commands) -> None:
    """The parser of the command."""
    parser = command(
        commands,
        "crosscheck",
        "somebody else's package: a verdict per rate point, and what to ask the proponent",
        "Checks the manifest, decodes every bitstream here, compares features, detections, sizes "
        "and accuracy with the claims, and computes the BD-rates again. Exit code 0: confirmed; 3: "
        "confirmed with remarks (a step that had to be skipped is one); 1: not confirmed; 2: bad "
        "input.",
    )
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="of `vcm-plugin package`")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--weights",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="weights that are not bundled, known by their sha256: a file of the codec or the "
        "detector, the folder of a human layer or of its prior; may be repeated",
    )
    parser.add_argument(
        "--data-root", type=Path, metavar="DIR", help="holds the test set ($VCM_DATA)"
    )
    parser.add_argument("--encode", action="store_true", help="also encode every picture again")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of torch (as the condition says)"
    )
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes (1)")
    add_device(parser)
    parser.set_defaults(body=body)


def body(options: Namespace) -> int:
    """A package -> a verdict; returns its exit code."""
    from vcm_plugin.crosscheck.check import CheckOptions, crosscheck, write_crosscheck
    from vcm_plugin.crosscheck.document import occasion_in_words
    from vcm_plugin.crosscheck.findings import EXIT_CODES, OK, STEPS
    from vcm_plugin.report import require

    refuse_overwriting(options.output, options.package, *options.weights)
    require("docx")
    for path in options.weights:
        if not path.exists():
            raise InputError(f"{path}: expected a file or a folder of weights, found none")
        if path.is_dir() and not any((path / part).is_dir() for part in ("hvcn", "unet")):
            raise InputError(
                f"{path}: expected the folder of a human layer (with hvcn/) or of its prior (with "
                "unet/), found neither in it; name the folder that scripts/train_hvcn.py wrote"
            )
    check_options = CheckOptions(
        tuple(options.weights), data_root_of(options), options.encode, options.threads,
        options.jobs, options.device,
    )  # fmt: skip
    with progress_bars() as progress:
        check = crosscheck(options.package, check_options, progress)
    write_crosscheck(check, options.output)
    for finding in check.findings:
        if finding.status != OK:
            where = " ".join(word for word in (finding.run, finding.rate_point) if word)
            print(f"{finding.step} {finding.status}: {where}: {finding.text}")
    if check.first_failure:
        step = check.first_failure.step
        print(f"first failing step: {step} ({STEPS[step][0]})")
        print(f"ask the proponent {STEPS[step][1]}")
    print(*occasion_in_words(check), sep="\n")
    print(f"report: {options.output / 'crosscheck.html'}, on one page: verdict.pdf")
    print(f"{options.package}: {check.verdict}")
    return EXIT_CODES[check.verdict]
