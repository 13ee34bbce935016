# SPDX-License-Identifier: BSD-3-Clause
"""How an external program is run: the one place that does it, and that checks its exit status.

A program ends with this process, also where this one is killed: a shell reads which programs run,
and ends those that still do when our end of its pipe closes. (Linux can do that by prctl in the
child, for which Python must fork: with 1.6 GB in memory that took 0.3 s a program, this 0.1 ms.)
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vcm_plugin.errors import InputError

FFMPEG_REPAIR = "install imageio-ffmpeg 0.8 or later, or point IMAGEIO_FFMPEG_EXE to an FFmpeg"
_SHELL = "/bin/sh"
_WATCH = """\
pids=
while read -r state pid; do
    left=
    for each in $pids; do [ "$each" = "$pid" ] || left="$left $each"; done
    pids=$left
    [ $state = off ] || pids="$pids $pid"
done
for each in $pids; do kill -9 "$each"; done
"""
_WATCHDOG: dict[str, Any] = {}  # the shell, and the process that it is of: a fork has its own
_WATCHDOG_LOCK = threading.Lock()
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
    statuses: Sequence[int] = (0,),
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end and return it with its stdout and stderr as bytes.

    stdin: what the program reads; nothing where it is None.
    repair: the sentence that tells what to do where the program is missing.
    statuses: the exit statuses of success.

    Raises ProcessError, which quotes the end of the log, where the exit status is another one.

    >>> run(["echo", "ten bits"]).stdout
    b'ten bits\\n'
    """
    words = [str(word) for word in command]
    name = Path(words[0]).name
    source = subprocess.DEVNULL if stdin is None else subprocess.PIPE
    pipes = {"stdin": source, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with _started(words, repair, **pipes) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout_seconds)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{name} did not end within {timeout_seconds:g} seconds") from None
    done = subprocess.CompletedProcess(words, process.returncode, stdout, stderr)
    if done.returncode not in statuses:
        raise ProcessError(_exit_failure(name, done), done.returncode)
    return done


def feed(command: Sequence[str | Path], chunks: Iterable[bytes], *, repair: str = "") -> None:
    """Run a program that reads its stdin piece by piece; no more than one piece is held.

    repair: the sentence that tells what to do where the program is missing. Raises ProcessError.
    """
    with tempfile.TemporaryFile() as log:
        pipes = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log}
        with _started(command, repair, **pipes) as process:
            try:
                for chunk in chunks:
                    process.stdin.write(chunk)
                process.stdin.close()
            except BrokenPipeError:  # the program has ended: its exit status and its log say why
                pass
            _require_success(process, log)


def blocks(command: Sequence[str | Path], size: int, *, repair: str = "") -> Iterator[bytes]:
    """The stdout of a program in blocks of `size` bytes, the last one maybe shorter, as it comes.

    The program is ended where no more blocks are asked for. Raises ProcessError.

    >>> list(blocks(["echo", "ten bits"], 4))
    [b'ten ', b'bits', b'\\n']
    """
    with tempfile.TemporaryFile() as log:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": log}
        with _started(command, repair, **pipes) as process:
            while block := process.stdout.read(size):
                yield block
            _require_success(process, log)


@contextmanager
def _started(
    command: Sequence[str | Path], repair: str, **pipes
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs; it is ended where the block is left before it has ended by itself."""
    words = [str(word) for word in command]
    try:
        process = subprocess.Popen(words, **pipes)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ProcessError(_start_failure(words[0], error, repair)) from None
    with _watched(process.pid):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    with suppress(BrokenPipeError):  # what it did not read
                        pipe.close()
            process.wait()


@contextmanager
def _watched(pid: int) -> Iterator[None]:
    """Have the watchdog end a program where this process ends before it."""
    _tell_watchdog(f"on {pid}\n")
    try:
        yield
    finally:
        _tell_watchdog(f"off {pid}\n")


def _tell_watchdog(line: str) -> None:
    """Write to the watchdog of this process, which is started with its first program."""
    with _WATCHDOG_LOCK, suppress(OSError):  # no shell here: programs run without a watchdog
        if _WATCHDOG.get("of") != os.getpid():
            silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            shell = subprocess.Popen(
                [_SHELL, "-c", _WATCH], stdin=subprocess.PIPE, start_new_session=True, **silent
            )
            _WATCHDOG.update({"of": os.getpid(), "shell": shell})
        _WATCHDOG["shell"].stdin.write(line.encode())
        _WATCHDOG["shell"].stdin.flush()


def _require_success(process: subprocess.Popen[bytes], log) -> None:
    status = process.wait()
    if status != 0:
        log.seek(0)
        done = subprocess.CompletedProcess(process.args, status, b"", log.read())
        raise ProcessError(_exit_failure(Path(process.args[0]).name, done), status)


def usable_cpus() -> int:
    """CPUs that this process may use: as many programs run side by side without waiting."""
    known = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def ffmpeg_program() -> str:
    """Path of the FFmpeg that imageio-ffmpeg brings or finds."""
    import imageio_ffmpeg

    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise ProcessError(f"no FFmpeg was found ({error}); {FFMPEG_REPAIR}") from None


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
