# SPDX-License-Identifier: BSD-3-Clause
"""When, on what machine and beside what else did a run work? environment.json of a run folder.

What a result depends on stands in result.json; this is what differs between machines, and what
seconds and memory need to be read with. Nothing in it names a host, a user or a path.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from vcm_plugin.ctc.typed_json import from_json, to_json
from vcm_plugin.files import read_json, write_json
from vcm_plugin.process import usable_cpus

FILE = "environment.json"
_CPU_FILE, _CPU_KEYS = Path("/proc/cpuinfo"), ("model name", "Hardware", "cpu model")
_TIMES = Path("/proc/stat")
_GIB = 1 << 30
_FREE_CORE = 0.25  # of a core that may be busy otherwise before a machine counts as busy


@dataclass(frozen=True)
class Session:
    """One call of a run that measured something; seconds: None where it was killed.

    cores: that the process may use; all_cores: of the machine. others: cores that other processes
    kept busy meanwhile, on average; None where that cannot be told. cluster: the work was done by
    workers elsewhere, which this does not describe.
    """

    started: str  # UTC
    seconds: float | None
    cpu: str
    cores: int
    all_cores: int
    memory_gib: float | None
    system: str
    jobs: int
    threads: int  # of each job
    cluster: bool
    others: float | None

    @property
    def date(self) -> str:
        """The day on which it was started, as 2026-01-31."""
        return self.started[:10]

    @property
    def busy(self) -> bool:
        """Whether its work had to share cores, so that its seconds are longer than need be."""
        wanted = self.jobs * self.threads
        beside = wanted + (self.others or 0.0)
        return wanted > self.cores or beside > self.all_cores + _FREE_CORE


@dataclass(frozen=True)
class Sessions:
    """The content of environment.json."""

    sessions: tuple[Session, ...]


class SessionLog:
    """Writes the session of this process into a run folder once it measures something."""

    def __init__(self, folder: Path, jobs: int, threads: int, cluster: bool):
        self.folder, self.begun = folder, None
        self.jobs, self.threads, self.cluster = jobs, threads, cluster

    def __enter__(self) -> SessionLog:
        return self

    def __exit__(self, *_) -> None:
        self._end()

    def begin(self) -> None:
        """Called before each measurement; the first one counts."""
        if self.begun is not None:
            return
        self.begun = time.perf_counter(), _seconds_of_all(), _own_seconds()
        now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
        self.session = Session(
            now, None, cpu_name(), usable_cpus(), os.cpu_count() or 1, memory_gib(), system_name(),
            self.jobs, self.threads, self.cluster, None,
        )  # fmt: skip
        self.before = _with_shards(self.folder)
        self._write()

    def _end(self) -> None:
        """The worker processes are gone: their seconds count as our own from now on."""
        if self.begun is None:
            return
        started, of_all, own = self.begun
        seconds, others = time.perf_counter() - started, None
        if of_all is not None and seconds > 0:
            elsewhere = _seconds_of_all() - of_all - (_own_seconds() - own)
            others = round(max(0.0, elsewhere / seconds), 2)
        self.session = replace(self.session, seconds=round(seconds, 3), others=others)
        self._write()

    def _write(self) -> None:
        sessions = Sessions((*self.before, self.session))
        write_json(self.folder / FILE, to_json(sessions))


def load_sessions(run: Path) -> tuple[Session, ...]:
    """The sessions of a run folder, none where it keeps none; raises InputError."""
    path = run / FILE
    return from_json(Sessions, read_json(path), path).sessions if path.is_file() else ()


def cpu_name() -> str:
    """The model of the processor."""
    lines = _CPU_FILE.read_text(errors="replace").splitlines() if _CPU_FILE.is_file() else ()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in _CPU_KEYS and value.strip():
            return " ".join(value.split())
    return platform.processor() or platform.machine()


def memory_gib() -> float | None:
    """Memory of the machine."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _GIB, 1)
    except (AttributeError, ValueError, OSError):
        return None


def system_name() -> str:
    """The operating system and its kernel."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME") or platform.system()
    except OSError:
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release()}"


def _with_shards(folder: Path) -> tuple[Session, ...]:
    """The sessions of a folder and of its shards, in the order in which they were started."""
    found = list(load_sessions(folder))
    for path in sorted(folder.glob(f"shards/*/{FILE}")):
        found += [session for session in load_sessions(path.parent) if session not in found]
    return tuple(sorted(found, key=lambda session: session.started))


def _seconds_of_all() -> float | None:
    """Seconds that all cores together have worked since the machine was started."""
    try:
        fields = [int(value) for value in _TIMES.read_text().splitlines()[0].split()[1:]]
        worked = sum(fields[:3]) + sum(fields[5:8])  # without idle and iowait; guests are in user
        return worked / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _own_seconds() -> float:
    """Seconds of processor of this process and of those that it has waited for."""
    return sum(os.times()[:4])
