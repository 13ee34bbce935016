# SPDX-License-Identifier: BSD-3-Clause
"""How the work of a run reaches the workers of a Dask cluster, on this machine or on many.

    local:N                  N processes that Dask starts here
    tcp://host:8786, tls://  a scheduler that runs
    scheduler.json           the file that a scheduler was told to write

The run folder, the pictures and the weights lie where every worker sees them under the same names;
workers write bitstreams there by temporary name and rename, everything else is written by the
runner alone. Before the first unit each worker says what its results depend on; one that differs
is refused by name, and so is one that joins later, at its first unit.
"""

from __future__ import annotations

import logging
import queue
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vcm_plugin import environment
from vcm_plugin.ctc.run_folder import TOKEN, differences
from vcm_plugin.ctc.workers import ATTEMPTS, interrupts_ignored
from vcm_plugin.errors import InputError, one_line
from vcm_plugin.files import read_json

try:
    import dask
    import distributed
    from distributed import Client, LocalCluster, get_worker
except ImportError as error:
    raise InputError(
        f"--cluster: expected the package distributed, found none ({error}); pip install "
        "'.[cluster]' in a checkout, here and on every worker"
    ) from error

# Each has a level of its own; what goes wrong is said by an error, in one line.
LOGGERS = ("distributed", "distributed.client", "tornado.application")
ANSWER_SECONDS = 8  # within which a scheduler must answer
GRACE_SECONDS = 0.5  # after which Dask, which should have said so, is not waited for any more
JOIN_SECONDS = 3600  # within which the first worker must join; a batch system may let it wait
LOOK_SECONDS = 5  # after which it is seen whether a worker that has not spoken is still there
# With what Dask sets it to for its workers, every tensor's memory is given back to the system and
# asked for again: networks take twice as long.
TRIMMED = "MALLOC_TRIM_THRESHOLD_"
UNITS_AHEAD = 2  # of work for each thread of a worker, so that none waits for the next


class Cluster:
    """An Engine of the workers of a Dask scheduler; `plan` has the run's `folder` and `condition`.

    notice(line) is told where it has to wait for a worker. Raises InputError where no scheduler
    answers, no worker joins, or workers differ.
    """

    def __init__(
        self,
        where: str,
        make_worker: Callable[[Any], Any],
        plan: Any,
        notice: Callable[[str], None],
    ):
        for logger in LOGGERS:
            logging.getLogger(logger).setLevel(logging.CRITICAL)
        self.where, self._local = where, None
        self._client = self._connected()
        self.dashboard = self._client.dashboard_link
        self._key = f"vcm-plugin-{uuid.uuid4().hex}"
        self._identity: dict[str, Any] = {}
        self._token = plan.folder / TOKEN
        self._token.write_text(self._key)
        try:
            with self._answering():
                if not self._client.nthreads():
                    notice(f"{where}: no worker has joined yet, waiting for the first")
                self._client.wait_for_workers(1, timeout=JOIN_SECONDS)
                self._client.get_versions(check=True)
                plugin = _Planned(self._key, make_worker, plan)
                _repeated(lambda: self._client.register_plugin(plugin), OSError)
                self._executor = self._client.get_executor(pure=False)
                self._agree()
        except BaseException:
            self.close()
            raise

    @property
    def processes(self) -> int:
        """The workers that there are now, each with as many threads as it has."""
        with self._answering():
            return max(1, sum(self._client.nthreads().values()))

    @property
    def slots(self) -> int:
        """Units at a time."""
        return UNITS_AHEAD * self.processes

    def submit(self, method: str, call: tuple) -> Future:
        """The values that one call of a worker object's method yields, once they are there."""
        with self._answering():
            return self._executor.submit(_unit, self._key, self._identity, method, call)

    def deaths(self, future: Future) -> int:
        """ATTEMPTS where Dask has given a unit up, since as many workers died of it."""
        try:
            error = future.exception()
        except CancelledError:
            raise self._silent() from None
        return ATTEMPTS if isinstance(error, distributed.scheduler.KilledWorker) else 0

    def renew(self) -> None:
        """Nothing to do: Dask hands a lost unit to another worker by itself."""

    def close(self) -> None:
        """Leave the scheduler, and end it where it is of this machine and run."""
        self._token.unlink(missing_ok=True)
        with suppress(OSError, TimeoutError, ValueError):  # where the scheduler is gone
            if self._local is None:
                self._client.unregister_worker_plugin(self._key)
            self._client.close(timeout=ANSWER_SECONDS)
        if self._local is not None:
            with suppress(OSError, TimeoutError):  # its processes end with this one
                self._local.close(timeout=ANSWER_SECONDS)

    def _connected(self) -> Client:
        kind, _, count = self.where.partition(":")
        if kind == "local":
            if not re.fullmatch("[1-9][0-9]*", count):
                raise InputError(f"--cluster: expected local:N, N from 1 on, found {self.where!r}")
            dask.config.set({"distributed.scheduler.allowed-failures": ATTEMPTS - 1})
            dask.config.set({f"distributed.nanny.pre-spawn-environ.{TRIMMED}": None})
            dask.config.set({"distributed.worker.profile.enabled": False})  # it takes 6 %
            self._local = self._started(int(count))
            return Client(self._local)
        address = self.where if "://" in self.where else _address_in(self.where)
        try:
            return _client(address)
        except Exception as error:  # of Dask, of its event loop, of whatever answers at the address
            raise InputError(
                f"--cluster {self.where}: no scheduler answers within {ANSWER_SECONDS} s "
                f"({one_line(error, 100)}); start one with `dask scheduler`, or give its address"
            ) from error

    def _started(self, count: int) -> LocalCluster:
        """A scheduler and workers of this machine, again where one dies before it has begun."""

        def start() -> LocalCluster:
            return LocalCluster(
                n_workers=count, threads_per_worker=1, memory_limit=None,
                dashboard_address=":0", silence_logs=logging.CRITICAL,
            )  # fmt: skip

        try:
            with interrupts_ignored():
                return _repeated(start, RuntimeError)
        except RuntimeError as error:
            raise InputError(
                f"--cluster {self.where}: expected workers, found that one of them could not be "
                f"started, {ATTEMPTS} times: {one_line(error, 100)}; this machine may lack memory "
                "or processes"
            ) from error

    def _agree(self) -> None:
        """Have every worker say what its results depend on, and refuse one that differs."""
        while not (said := self._said()):
            pass
        self._identity = next(iter(said.values()))
        for address, identity in said.items():
            _require_equal(self._identity, identity, address)

    def _said(self) -> dict[str, dict[str, Any]]:
        """What each worker says, by its address; nothing where one was lost before it spoke."""
        futures = {
            address: self._client.submit(
                _unit, self._key, {}, "identify", (), pure=False, workers=[address],
                allow_other_workers=False,
            )
            for address in self._client.nthreads()
        }  # fmt: skip
        while futures:
            with suppress(TimeoutError):
                distributed.wait(list(futures.values()), timeout=LOOK_SECONDS)
                return {address: future.result()[0] for address, future in futures.items()}
            if not futures.keys() <= self._client.nthreads().keys():
                self._client.cancel(list(futures.values()))
                break
        return {}

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """What Dask raises where its scheduler is gone, or cannot work with this client."""
        try:
            yield
        except InputError:
            raise
        except distributed.scheduler.KilledWorker as error:
            raise InputError(
                f"--cluster {self.where}: a worker died when it began, {ATTEMPTS} times; look into "
                "its log: it may lack memory"
            ) from error
        except (OSError, TimeoutError, RuntimeError, CancelledError) as error:
            raise self._silent(error) from error
        except (ValueError, ImportError, TypeError) as error:  # versions; a worker without us
            raise InputError(
                f"--cluster {self.where}: expected workers with the packages of this machine, "
                f"found: {one_line(error, 200)}; install the same versions there"
            ) from error

    def _silent(self, error: BaseException | None = None) -> InputError:
        why = f" ({one_line(error, 100)})" if error else ""
        return InputError(
            f"--cluster {self.where}: its scheduler does not answer any more, or no worker has "
            f"joined{why}; what was finished is kept, start it and repeat the same command"
        )


def _address_in(file: str) -> str:
    """The address in the file that a scheduler has written; raises InputError for another file."""
    if not Path(file).is_file():
        raise InputError(
            f"--cluster: expected local:N, tcp://host:port or a scheduler file, found {file!r}"
        )
    said = read_json(Path(file))
    address = said.get("address") if isinstance(said, dict) else None
    if not isinstance(address, str):
        raise InputError(
            f"--cluster {file}: expected the file that `dask scheduler --scheduler-file` writes, "
            "with an address, found none in it; give that file, or tcp://host:port"
        )
    return address


def _client(address: str) -> Client:
    """A client of a scheduler. Raises what Dask raises, and TimeoutError where something listens at
    the address that is no scheduler: Dask itself then waits without an end."""
    made: queue.SimpleQueue[Client | Exception] = queue.SimpleQueue()

    def connect() -> None:
        try:
            made.put(Client(address, timeout=ANSWER_SECONDS))
        except Exception as error:
            made.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        found = made.get(timeout=ANSWER_SECONDS + GRACE_SECONDS)
    except queue.Empty:
        raise TimeoutError("something else than a scheduler listens there") from None
    if isinstance(found, Exception):
        raise found
    return found


def _repeated(work: Callable[[], Any], death: type[Exception]) -> Any:
    """What the work gives, tried ATTEMPTS times: the error may be that of a worker that died of
    itself meanwhile; where the scheduler is gone it comes again."""
    for _ in range(ATTEMPTS - 1):
        with suppress(death):
            return work()
    return work()


@dataclass
class _Plan:
    """What a worker process keeps of a run: the worker object once it is made, and its identity."""

    make_worker: Callable[[Any], Any]
    plan: Any
    lock: threading.Lock = field(default_factory=threading.Lock)
    worker: Any = None
    identity: dict[str, Any] | None = None


class _Planned(distributed.WorkerPlugin):
    """Tells every worker of a cluster, also one that joins later, of a run."""

    def __init__(self, name: str, make_worker: Callable[[Any], Any], plan: Any):
        self.name, self.make_worker, self.plan = name, make_worker, plan

    def setup(self, worker: Any) -> None:
        """Keep the plan; the worker object is made at the first unit."""
        plans = worker.__dict__.setdefault("vcm_plugin_plans", {})
        plans[self.name] = _Plan(self.make_worker, self.plan)

    def teardown(self, worker: Any) -> None:
        """Forget it, with its detector and its codec."""
        worker.vcm_plugin_plans.pop(self.name, None)


def _unit(key: str, expected: dict[str, Any], method: str, call: tuple) -> list[Any]:
    """One call of a worker object, in a worker process. Raises InputError and OSError with its
    address."""
    address = get_worker().address
    planned = get_worker().vcm_plugin_plans[key]
    with planned.lock:
        try:
            # The number of threads is that of the thread that computes, which Dask chooses.
            environment.make_deterministic(planned.plan.condition.threads_per_job)
            if planned.worker is None:
                _require_folder(planned.plan.folder, key)
                planned.worker = planned.make_worker(planned.plan)
                planned.identity = next(iter(planned.worker.identify()))
            if expected:
                _require_equal(expected, planned.identity, address)
            return list(getattr(planned.worker, method)(*call))
        except InputError as error:
            raise InputError(f"worker {address}: {error}") from error
        except OSError as error:  # a full disk, a folder that cannot be written
            if error.errno is None:
                raise
            reason = f"{error.strerror} (worker {address})"
            raise OSError(error.errno, reason, error.filename) from error


def _require_folder(folder: Path, key: str) -> None:
    token = folder / TOKEN
    if not token.is_file() or token.read_text() != key:
        raise InputError(
            f"expected to see the run folder {folder}, found no such folder or another; put it on "
            "a file system that every worker mounts under the same name"
        )


def _require_equal(expected: dict[str, Any], found: dict[str, Any], address: str) -> None:
    if expected != found:
        raise InputError(
            f"worker {address} would give other results than the others: "
            f"{differences(found, expected)}; install the same versions there, or leave it out"
        )
