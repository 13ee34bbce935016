# SPDX-License-Identifier: BSD-3-Clause
"""How an external program is run: the one place that does it, and that checks its exit status."""

from __future__ import annotations

import errno
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from vcm_plugin.errors import InputError

FFMPEG_REPAIR = "install imageio-ffmpeg 0.8 or later, or point IMAGEIO_FFMPEG_EXE to an FFmpeg"
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


def feed(command: Sequence[str | Path], chunks: Iterable[bytes], *, repair: str = "") -> None:
    """Run a program that reads its stdin piece by piece; no more than one piece is held.

    repair: the sentence that tells what to do where the program is missing. Raises ProcessError.
    """
    with tempfile.TemporaryFile() as log:
        process = _start(command, repair, stdin=subprocess.PIPE, stdout=log, stderr=log)
        try:
            for chunk in chunks:
                process.stdin.write(chunk)
            process.stdin.close()
        except BrokenPipeError:  # the program has ended: its exit status and its log say why
            pass
        except BaseException:
            process.kill()
            process.wait()
            raise
        _require_success(process, log)


def blocks(command: Sequence[str | Path], size: int, *, repair: str = "") -> Iterator[bytes]:
    """The stdout of a program in blocks of `size` bytes, the last one maybe shorter, as it comes.

    The program is ended where no more blocks are asked for. Raises ProcessError.

    >>> list(blocks(["echo", "ten bits"], 4))
    [b'ten ', b'bits', b'\\n']
    """
    with tempfile.TemporaryFile() as log:
        process = _start(
            command, repair, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
        try:
            while block := process.stdout.read(size):
                yield block
        except BaseException:  # GeneratorExit, where no more is wanted
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()
        _require_success(process, log)


def _start(command: Sequence[str | Path], repair: str, **pipes) -> subprocess.Popen[bytes]:
    words = [str(word) for word in command]
    try:
        return subprocess.Popen(words, **pipes)
    except (OSError, ValueError) as error:
        raise ProcessError(_start_failure(words[0], error, repair)) from None


def _require_success(process: subprocess.Popen[bytes], log) -> None:
    status = process.wait()
    if status != 0:
        log.seek(0)
        done = subprocess.CompletedProcess(process.args, status, b"", log.read())
        raise ProcessError(_exit_failure(Path(process.args[0]).name, done), status)


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
