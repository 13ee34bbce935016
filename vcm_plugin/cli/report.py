# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin report` do? Tables, BD-rates and plots of run folders."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from vcm_plugin.cli.common import data_root_of, print_report, refuse_overwriting
from vcm_plugin.cli.options import command, positive


def add(commands) -> None:
    """The parser of the command."""
    parser = command(commands, "report", "tables, BD-rates and plots from run folders")
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="run folders, one per codec"
    )
    parser.add_argument(
        "--anchor",
        action="append",
        required=True,
        metavar="NAME",
        help="codec that the others are compared with; may be repeated",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--format",
        nargs="+",
        choices=["csv", "json", "png", "svg", "pdf", "xlsx", "html", "docx", "md", "tex"],
        help="(csv json png svg html); xlsx and docx need the extra `report`: pip install "
        "'.[report]'",
    )
    parser.add_argument(
        "--viewer-pictures",
        type=positive,
        default=48,
        metavar="N",
        help="html: pictures in its viewer, evenly spaced over the test set (%(default)s)",
    )
    parser.add_argument(
        "--data-root", type=Path, metavar="DIR", help="html: holds the test set ($VCM_DATA)"
    )
    parser.set_defaults(body=body)


def body(options: Namespace) -> None:
    """Tables, BD-rates and plots of run folders."""
    from vcm_plugin.report import ViewerOptions

    refuse_overwriting(options.output, *options.runs)
    viewer = ViewerOptions(options.viewer_pictures, data_root_of(options))
    print_report(options.runs, options.anchor, options.output, options.format, viewer)
