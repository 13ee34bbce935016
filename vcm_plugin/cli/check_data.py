# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin check-data` do? It says what of a condition's data is missing."""

from __future__ import annotations

from argparse import Namespace

from vcm_plugin.cli.common import data_root_of
from vcm_plugin.cli.options import add_data_root, command
from vcm_plugin.errors import InputError


def add(commands) -> None:
    """The parser of the command."""
    parser = command(
        commands,
        "check-data",
        "what of a test condition's data is missing here, by file",
        "Looks for the pictures or sequences, the annotations and the detector's weights of a test "
        "condition, and prints a line for each file that is missing or not what it should be.",
    )
    parser.add_argument("condition", metavar="CONDITION", help="a name such as sfu_hw, or a YAML")
    add_data_root(parser)
    parser.set_defaults(body=body)


def body(options: Namespace) -> None:
    """What of a condition's data is missing; raises InputError where something is."""
    from vcm_plugin.ctc.codecs import load_condition
    from vcm_plugin.testsets.check import missing_data

    condition = load_condition(options.condition)
    count = 0
    for line in missing_data(condition, data_root_of(options) or condition.folder):
        print(line)
        count += 1
    if count:
        raise InputError(f"{condition.name}: {count} files or folders are missing or wrong")
    print(f"{condition.name}: everything is there")
