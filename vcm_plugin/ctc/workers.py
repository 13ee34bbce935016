# SPDX-License-Identifier: BSD-3-Clause
"""How the work of a run is spread over processes, and goes on where one of them dies.

Units of work go through the interface of concurrent.futures, to processes of this machine or, in
cluster.py, to those of Dask. A process pool breaks as a whole when one of its processes dies: the
pool is made anew, and the units that were lost are handed out again, each alone, so that one that
kills its process is told from those that ran beside it.

The processes of a pool are copies of one (Python's fork server) that imports what all of them need
while the main process, which needs no networks, reads the test set.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.connection import wait as wait_for
from typing import Any, Protocol

from vcm_plugin.errors import InputError

ATTEMPTS = 3  # of a unit whose process dies
IMPORTED = ["vcm_plugin.ctc.sequence_worker", "vcm_plugin.diff_fchm.machine.codec"]  # beforehand
Call = tuple[str, tuple]  # a method of a worker object, and its arguments


class Engine(Protocol):
    """Processes that take units of work.

    processes: how many compute. slots: units at a time. dashboard: an URL where to look at them, or
    None.
    """

    processes: int
    slots: int
    dashboard: str | None

    def submit(self, method: str, call: tuple) -> Future:
        """The values that one call of a worker object's method yields, once they are there."""

    def deaths(self, future: Future) -> int:
        """How many processes a unit has lost that is done; 0 where it gave values or an error."""

    def renew(self) -> None:
        """Go on after a unit was lost; all others that were handed out are done or lost, too."""

    def close(self) -> None:
        """End what was started."""


class Workers:
    """`jobs` processes, or those of a cluster, each with its own worker object; with one job, this
    process itself.

    make_worker(plan) makes a worker object; both must be picklable. Its methods are generators.
    cluster: "local:N", a scheduler's address or file (cluster.py), or None. notice(line) is told
    what a user should know. Leaving the `with` block ends the processes; they also end when this
    process is killed.
    """

    def __init__(
        self,
        jobs: int,
        make_worker: Callable[[Any], Any],
        plan: Any,
        cluster: str | None = None,
        notice: Callable[[str], None] = lambda line: None,
    ):
        self._own, self._engine = None, None
        if cluster is not None:
            from vcm_plugin.ctc.cluster import Cluster  # only here: distributed may be missing

            self._engine: Engine | None = Cluster(cluster, make_worker, plan, notice)
        elif jobs > 1:
            self._engine = ProcessPool(jobs, make_worker, plan)
        else:
            self._own = make_worker(plan)

    @property
    def processes(self) -> int:
        """Processes that compute."""
        return self._engine.processes if self._engine else 1

    @property
    def dashboard(self) -> str | None:
        """Where Dask shows what its workers are at."""
        return self._engine.dashboard if self._engine else None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._engine is not None:
            self._engine.close()

    def run(self, method: str, arguments: Sequence[tuple]) -> Iterator[Any]:
        """What `calls` says, of one method for each tuple of arguments."""
        return self.calls([(method, each) for each in arguments])

    def calls(self, calls: Sequence[Call]) -> Iterator[Any]:
        """Yields what the calls yield.

        With one job, as it comes; else once a call is done, and the order between calls is open.
        Raises what a call raises, and InputError, naming the call, where its process died
        ATTEMPTS times.
        """
        if self._engine is None:
            for method, arguments in calls:
                yield from getattr(self._own, method)(*arguments)
            return
        engine = self._engine
        waiting, suspects = deque(range(len(calls))), deque()
        busy: dict[Future, int] = {}
        deaths: Counter[int] = Counter()
        while waiting or suspects or busy:
            while waiting or suspects:
                alone = suspects or any(deaths[unit] for unit in busy.values())
                if len(busy) >= (1 if alone else engine.slots):
                    break
                unit = suspects.popleft() if suspects else waiting.popleft()
                busy[engine.submit(*calls[unit])] = unit
            done, _ = wait(busy, return_when=FIRST_COMPLETED)
            if any(map(engine.deaths, done)):
                done, _ = wait(busy)  # all that a broken pool was at end with it
            lost = {busy[future]: engine.deaths(future) for future in done}
            lost = {unit: count for unit, count in lost.items() if count}
            for future in done:
                if busy.pop(future) not in lost:
                    yield from future.result()
            if lost:
                suspects.extend(lost)
                deaths.update(lost)
                _refuse_deadly(calls, deaths)
                engine.renew()


class ProcessPool:
    """An Engine of `slots` processes of this machine."""

    dashboard = None

    def __init__(self, slots: int, make_worker: Callable[[Any], Any], plan: Any):
        self.processes = self.slots = slots
        self._made_by = (make_worker, plan)
        self._pool = self._new_pool()

    def submit(self, method: str, call: tuple) -> Future:
        try:
            return self._pool.submit(_call, method, call)
        except BrokenExecutor as error:  # it broke between two calls
            broken: Future = Future()
            broken.set_exception(error)
            return broken

    def deaths(self, future: Future) -> int:
        return int(isinstance(future.exception(), BrokenExecutor))

    def renew(self) -> None:
        self.close()
        self._pool = self._new_pool()

    def close(self) -> None:
        for process in list((getattr(self._pool, "_processes", None) or {}).values()):
            process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def _new_pool(self) -> Executor:
        import_beforehand()
        context = multiprocessing.get_context("forkserver")
        made_by = (*self._made_by, dict(os.environ))
        pool = ProcessPoolExecutor(self.slots, context, _start, made_by)
        with interrupts_ignored():  # by the processes from their start on: this one decides
            for _ in range(self.slots):  # so that all make their worker objects at the same time
                pool.submit(_ready)
        return pool


def import_beforehand() -> None:
    """Start the process whose copies those of a ProcessPool are, unless it runs: the sooner, the
    less they have to wait for it. It ends with this one."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(IMPORTED)
    with interrupts_ignored():
        forkserver.ensure_running()
    # Waited for, so that whoever times this process sees the processor time of all (`time`). Python
    # has no public name for it.
    atexit.unregister(forkserver._forkserver._stop)
    atexit.register(forkserver._forkserver._stop)


def _refuse_deadly(calls: Sequence[Call], deaths: Counter) -> None:
    for unit, count in deaths.items():
        if count >= ATTEMPTS:
            method, arguments = calls[unit]
            raise InputError(
                f"{method} {_shown(arguments)}: its process ended {count} times, for "
                "instance killed for lack of memory; what was finished is kept, repeat the "
                "same command to go on, with fewer --jobs where memory is short"
            )


_worker: Any = None  # the worker object of this process, or the exception that kept it from being
_made = False


def _start(make_worker: Callable[[Any], Any], plan: Any, environment: Mapping[str, str]) -> None:
    """Make the worker object of this process; an exception waits for the first call, since one
    that is raised here would break the pool without saying why.

    environment: of the main process now; what this one is a copy of has that of its own start.
    """
    global _worker, _made
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()
    try:
        _worker, _made = make_worker(plan), True
    except Exception as error:
        _worker = error


def _end_with_the_main_process() -> None:
    wait_for([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _ready() -> None:
    pass


def _call(method: str, call: tuple) -> list[Any]:
    if not _made:
        raise _worker
    return list(getattr(_worker, method)(*call))


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Processes that are started inside ignore SIGINT."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say so
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _shown(call: tuple) -> str:
    """The arguments of a call, pictures and sequences by their names."""
    words = []
    for argument in call:
        for item in argument if isinstance(argument, (list, tuple)) else (argument,):
            file = getattr(item, "path", item)
            words.append(getattr(item, "name", getattr(file, "name", file)))
    return " ".join(map(str, words))
