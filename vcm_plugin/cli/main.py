# SPDX-License-Identifier: BSD-3-Clause
"""The command `vcm-plugin`: its parser, and which exit code comes back."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn, TextIO

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
    published,
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
    published,
    doctor,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character shows its code
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:  # warnings of other packages, in this process and in its workers
        os.environ["PYTHONWARNINGS"] = "ignore"
        warnings.simplefilter("ignore")
    try:
        return _run(arguments)
    except InputError as error:
        return _refused(str(error))
    except KeyboardInterrupt:
        print("vcm-plugin: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone
        _discard_output()
        return DONE
    except OSError as error:  # a file or folder that cannot be written
        if error.filename is None:
            _discard_output()
        return _refused(f"{str(error.filename or 'standard output')[-200:]}: {error.strerror}")
    except MemoryError:
        return _refused("memory has run out: give fewer --jobs, or a machine with more of it")


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        os.getcwd()
    except OSError:
        raise InputError("the working directory is gone: change to one that exists") from None
    code = options.body(options)
    if sys.stdout is not None:
        sys.stdout.flush()  # here a full disk can still be told
    return DONE if code is None else code


class _Parser(argparse.ArgumentParser):
    """A wrong option is refused in one line, as other bad input is, not with all options before it;
    help that cannot be written is an error, which argparse itself passes over."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.partition(" ")[2]
        shown = f"vcm-plugin {command} --help" if command else "vcm-plugin --help"
        self.exit(_refused(f"{command}: {message}; see {shown}".removeprefix(": ")))

    def _print_message(self, message: str, file: TextIO | None = None) -> None:
        print(message or "", end="", file=file or sys.stderr, flush=True)


def _refused(text: str) -> int:
    """Say in one line what is wrong; the exit code of bad input."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    with suppress(OSError):
        print(f"vcm-plugin: error: {line}", file=sys.stderr)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # what was printed before does not fit either
        _discard_output()
    return BAD_INPUT


def _discard_output() -> None:
    """Send what is still to be printed nowhere, so that the interpreter does not fail over it."""
    with suppress(OSError, ValueError):  # ValueError: not a stream with a number
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
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
