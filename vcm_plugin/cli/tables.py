# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin tables` do? The tables that MPEG receives."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from vcm_plugin.cli.common import refuse_overwriting
from vcm_plugin.cli.options import command


def add(commands) -> None:
    """The parser of the command."""
    parser = command(
        commands,
        "tables",
        "the tables that MPEG receives, from runs of its test sets",
        "Writes summary.csv of every data set, sequence and rate point and final_<SET>.csv in the "
        "layout of CompressAI-Vision: from one run of sequences, or from both tasks of MPEG-OIV6. "
        "Its column qp is an integer that stands for a rate point; rate_points_<SET>.csv says for "
        "which.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="of one codec")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.set_defaults(body=body)


def body(options: Namespace) -> None:
    """summary.csv and final_<SET>.csv of runs of one codec."""
    from vcm_plugin.report.ctc_tables import write_ctc_tables

    refuse_overwriting(options.output, *options.runs)
    print(f"tables: {write_ctc_tables(options.runs, options.output)}")
