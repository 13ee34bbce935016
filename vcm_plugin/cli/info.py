# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin info` do? It says what the header of a bitstream says, in words."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from vcm_plugin.cli.common import naming, read_bitstream
from vcm_plugin.cli.options import command


def add(commands) -> None:
    """The parser of the command."""
    parser = command(commands, "info", "what the header of a bitstream says, in words")
    parser.add_argument("bitstream", type=Path, metavar="FILE")
    parser.set_defaults(body=body)


def body(options: Namespace) -> None:
    """What the header of a bitstream says, in words."""
    from vcm_plugin.ctc.codecs import describe_bitstream

    with naming(options.bitstream):
        lines = describe_bitstream(read_bitstream(options.bitstream))
    print("\n".join(lines))
