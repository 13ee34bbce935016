# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin demo` do? The proposal and both anchors on the built-in test set."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

from vcm_plugin.cli.common import print_report, run_test
from vcm_plugin.cli.options import add_run_options, command

DEMO_ANCHORS = ("vvc_feature", "vvc_remote")
DEMO_PROPOSAL = "diff_fchm"
DEMO_CONDITION, DEMO_HUMAN = "minictc", "minictc_human"
DEMO_HUMAN_POINT, DEMO_PICTURES = "2.8+42", 4


def add(commands) -> None:
    """The parser of the command."""
    parser = command(
        commands,
        "demo",
        "the proposal and both VVC anchors on the built-in test set: tables, plots, pictures",
        "Runs the feature anchor, the remote-inference anchor and Diff-FCHM's machine layer on the "
        "built-in test set (drawn by code, no download) and reports their rate-accuracy curves. "
        "Run it again after an interruption and it goes on.",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("runs/demo"), metavar="DIR", help="(%(default)s)"
    )
    parser.add_argument(
        "--condition",
        default=DEMO_CONDITION,
        metavar="NAME",
        help="another test condition with both anchors: a name or a YAML file (%(default)s)",
    )
    parser.set_defaults(jobs=min(2, os.cpu_count() or 1))
    add_run_options(parser)
    parser.set_defaults(body=body)


def body(options: Namespace) -> None:
    """Both anchors and the proposal on the built-in test set, then the report."""
    from vcm_plugin.ctc.codecs import load_condition, override

    condition = override(load_condition(options.condition), {"limit": options.limit})
    codecs = DEMO_ANCHORS
    if condition.codec_keys.get("diff_fchm_weights"):
        codecs += (DEMO_PROPOSAL,)
    else:
        print(f"{condition.name}: no diff_fchm_weights, so only the anchors are run")
    runs = [options.output / codec for codec in codecs]
    for codec, folder in zip(codecs, runs, strict=True):
        run_test(condition, codec, folder, options)
    print_report(runs, list(DEMO_ANCHORS), options.output / "report")
    if options.condition == DEMO_CONDITION:
        from vcm_plugin.report.human_demo import write_human_demo

        human = override(load_condition(DEMO_HUMAN), {"limit": options.limit})
        folder = options.output / "human"
        shown = write_human_demo(human, DEMO_HUMAN_POINT, DEMO_PICTURES, folder, options.device)
        print(f"human:  {shown}")
