# SPDX-License-Identifier: BSD-3-Clause
"""What does `vcm-plugin package` do? A run and its anchors as one zip."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from vcm_plugin.cli.common import refuse_overwriting
from vcm_plugin.cli.options import command


def add(commands) -> None:
    """The parser of the command."""
    parser = command(
        commands,
        "package",
        "a run and its anchors as one zip for a cross-checker",
        "Bitstreams, predictions, results, condition, environment, the sha256 of the weights, and "
        "a manifest with the sha256 of every file. No absolute paths, no host names.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the run of the proposal")
    parser.add_argument(
        "--anchor",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="run of an anchor, for the BD-rate; may be repeated",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="ZIP")
    parser.set_defaults(body=body)


def body(options: Namespace) -> None:
    """A run and its anchors as one zip."""
    from vcm_plugin.crosscheck.package import make_package

    refuse_overwriting(options.output, options.run, *options.anchor)
    manifest = make_package(options.run, options.anchor, options.output)
    size = options.output.stat().st_size
    print(f"{options.output}: {len(manifest['files'])} files, {size / (1 << 20):.1f} MiB")
