# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin proposal` do? An input document in MPEG form."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from vcm_plugin.cli.common import refuse_overwriting
from vcm_plugin.cli.options import command


def add(commands) -> None:
    """The parser of the command."""
    parser = command(
        commands,
        "proposal",
        "an input document in MPEG form from runs and a YAML of the author",
        "Header, abstract with the headline numbers, technical description with syntax tables, "
        "test conditions, results, complexity, training, cross-check and references. Every number "
        "comes from the tables; what is not filled in is listed at the end.",
    )
    parser.add_argument(
        "config", type=Path, metavar="CONFIG", help="a YAML like cfg/proposal/example.yaml"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help=".docx, .md or .tex"
    )
    parser.set_defaults(body=body)


def body(options: Namespace) -> None:
    """An input document in MPEG form."""
    from vcm_plugin.report.proposal import write_proposal

    refuse_overwriting(options.output, options.config)
    unfilled = write_proposal(options.config, options.output)
    print(f"proposal: {options.output}")
    if unfilled:
        print(f"not filled in, and listed at its end: {', '.join(unfilled)}")
