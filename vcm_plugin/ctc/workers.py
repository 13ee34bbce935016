# SPDX-License-Identifier: BSD-3-Clause
"""How the work of a run is spread over processes."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from vcm_plugin.errors import InputError


class Workers:
    """`jobs` processes, each with its own worker object; with one job, this process itself.

    make_worker(plan) makes a worker object; both must be picklable. Its methods are generators.
    Leaving the `with` block ends the processes; they also end when this process is killed.
    """

    def __init__(self, jobs: int, make_worker: Callable[[Any], Any], plan: Any):
        self._own = make_worker(plan) if jobs == 1 else None
        self._connections: list[Connection] = []
        self._processes = []
        context = multiprocessing.get_context("spawn")
        for _ in range(jobs if jobs > 1 else 0):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, make_worker, plan), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process closes the pipe
            self._connections.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def run(self, method: str, arguments: Sequence[tuple]) -> Iterator[Any]:
        """Call `method` once for each tuple of arguments; yields what the calls yield, as it comes.

        A worker that is free takes the next call, so the order between calls is open.
        """
        if self._own is not None:
            for call in arguments:
                yield from getattr(self._own, method)(*call)
            return
        waiting, busy = deque(arguments), set()
        idle = list(self._connections)
        while waiting or busy:
            while waiting and idle:
                connection = idle.pop()
                _send(connection, (method, waiting.popleft()))
                busy.add(connection)
            for connection in wait(busy):
                kind, value = _receive(connection)
                if kind == "yielded":
                    yield value
                elif kind == "done":
                    busy.remove(connection)
                    idle.append(connection)
                elif kind == "bad input":
                    raise InputError(value)
                elif kind == "system":
                    raise value
                else:
                    raise RuntimeError(f"a worker process failed:\n{value}")


def _serve(connection: Connection, make_worker: Callable[[Any], Any], plan: Any) -> None:
    """The main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides
    try:
        worker = make_worker(plan)
        while True:
            method, call = connection.recv()
            for value in getattr(worker, method)(*call):
                connection.send(("yielded", value))
            connection.send(("done", None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the main process is gone
    except InputError as error:
        connection.send(("bad input", str(error)))
    except OSError as error:
        connection.send(("system", OSError(error.errno, error.strerror, error.filename)))
    except Exception:
        connection.send(("failed", traceback.format_exc()))


def _send(connection: Connection, value: Any) -> None:
    try:
        connection.send(value)
    except OSError as error:
        raise _ended() from error


def _receive(connection: Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, OSError) as error:
        raise _ended() from error


def _ended() -> InputError:
    return InputError(
        "a worker process ended unexpectedly, for instance killed for lack of memory; repeat the "
        "same command to go on, with fewer --jobs where memory is short"
    )
