# SPDX-License-Identifier: BSD-3-Clause
"""How an external program is run: the one place that does it, and that checks its exit status."""

from __future__ import annotations

import errno
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vcm_plugin.errors import InputError

LOG_CHARACTERS = 600  # of the end of a program's log that an error quotes


class ProcessError(InputError):
    """An external program is missing, could not be started, failed or was killed.

    exit_status: of the program; None where it did not start or did not end.
    """

    def __init__(self, message: str, exit_status: int | None = None):
        super().__init__(message)
        self.exit_status = exit_status


def run(
    command: Sequence[str | Path],
    *,
    stdin: bytes | None = None,
    repair: str = "",
    timeout_seconds: float | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return it with its stdout and stderr as bytes.

    stdin: what the program reads; nothing where it is None.
    repair: the sentence that tells what to do where the program is missing.

    Raises ProcessError, which quotes the end of the log, where the exit status is not 0.

    >>> run(["echo", "ten bits"]).stdout
    b'ten bits\\n'
    """
    words = [str(word) for word in command]
    name = Path(words[0]).name
    source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    try:
        done = subprocess.run(words, capture_output=True, timeout=timeout_seconds, **source)
    except subprocess.TimeoutExpired:
        raise ProcessError(f"{name} did not end within {timeout_seconds:g} seconds") from None
    except (OSError, ValueError) as error:
        raise ProcessError(_start_failure(words[0], error, repair)) from None
    if done.returncode != 0:
        raise ProcessError(_exit_failure(name, done), done.returncode)
    return done


def log_end(done: subprocess.CompletedProcess[bytes]) -> str:
    """The end of a program's log, in one line: of its stderr, or of its stdout where that is empty.

    >>> log_end(run(["echo", "written"]))
    'written'
    """
    log = done.stderr.strip() or done.stdout.strip()
    line = " | ".join(log.decode("utf-8", "replace").split("\n"))
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return line if len(line) <= LOG_CHARACTERS else "... " + line[-LOG_CHARACTERS:]


def _start_failure(program: str, error: Exception, repair: str) -> str:
    if isinstance(error, FileNotFoundError):
        fault = f"the program {program} was not found"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "no space left on the device: free some space and run again"
    else:
        reason = getattr(error, "strerror", None) or error
        fault = f"the program {program} could not be started ({reason})"
    return f"{fault}; {repair or 'install it or correct its path'}"


def _exit_failure(name: str, done: subprocess.CompletedProcess[bytes]) -> str:
    log = log_end(done) or "its log is empty"
    if "no space left on device" in log.lower():
        return f"no space left on the device while {name} wrote: free some space and run again"
    if done.returncode < 0:
        try:
            number = signal.Signals(-done.returncode).name
        except ValueError:
            number = f"signal {-done.returncode}"
        memory = ", as happens when memory runs out" if number == "SIGKILL" else ""
        return f"{name} was ended by {number}{memory}; the end of its log: {log}"
    return f"{name} failed with exit status {done.returncode}; the end of its log: {log}"
