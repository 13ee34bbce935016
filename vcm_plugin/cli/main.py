# SPDX-License-Identifier: BSD-3-Clause
"""The command `vcm-plugin`: its parser, and which exit code comes back."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

import vcm_plugin
from vcm_plugin.cli import (
    check_data,
    crosscheck,
    decode,
    demo,
    doctor,
    encode,
    info,
    package,
    proposal,
    report,
    run,
    tables,
    train,
)
from vcm_plugin.errors import InputError

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130

DESCRIPTION = """\
Feature coding for machines: run the common test conditions on real codecs, from pictures to
BD-rates. `vcm-plugin demo` shows the whole loop on the built-in test set."""

EPILOG = """\
exit codes: 0 done (crosscheck: confirmed); crosscheck: 1 not confirmed, 3 confirmed with remarks;
2 bad input, one line on stderr says what was expected and what repairs it;
130 interrupted, the same command goes on where it stopped"""
COMMANDS = (
    demo,
    run,
    check_data,
    report,
    tables,
    proposal,
    package,
    crosscheck,
    encode,
    decode,
    info,
    train,
    doctor,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    if not sys.warnoptions:  # warnings of other packages, in this process and in its workers
        os.environ["PYTHONWARNINGS"] = "ignore"
        warnings.simplefilter("ignore")

    try:
        code = options.body(options)
    except InputError as error:
        print(f"vcm-plugin: error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("vcm-plugin: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone
        code = DONE
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # a file or folder that cannot be written
        print(f"vcm-plugin: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return BAD_INPUT
    return DONE if code is None else code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vcm-plugin",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=vcm_plugin.__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    commands.required = True
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
