# SPDX-License-Identifier: BSD-3-Clause
"""Is work spread over processes without losing a value, an error or a process?"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vcm_plugin.ctc.workers import Workers
from vcm_plugin.errors import InputError


class Echo:
    """A worker for these tests."""

    def __init__(self, plan: str):
        self.plan = plan

    def twice(self, value):
        yield self.plan, value
        yield self.plan, value

    def refuse(self):
        raise InputError("expected nothing")
        yield

    def full(self):
        raise OSError(28, "No space left on device", "somewhere")
        yield

    def fail(self):
        yield 1 / 0

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)
        yield

    def sleep(self):
        yield os.getpid()
        while True:
            time.sleep(0.05)
            yield 0


@pytest.mark.parametrize("jobs", [1, 2])
def test_workers_yield_everything_in_both_ways(jobs):
    with Workers(jobs, Echo, "plan") as workers:
        found = sorted(workers.run("twice", [(n,) for n in range(5)]))
        assert found == sorted([("plan", n) for n in range(5)] * 2)
        assert list(workers.run("twice", [])) == []


@pytest.mark.parametrize(
    ("method", "kind", "message"),
    [
        ("refuse", InputError, "expected nothing"),
        ("full", OSError, "No space left"),
        ("fail", RuntimeError, "ZeroDivisionError"),
        ("die", InputError, "ended unexpectedly.*repeat"),
    ],
)
def test_what_a_worker_raises_arrives(method, kind, message):
    with Workers(2, Echo, "plan") as workers, pytest.raises(kind, match=message):
        list(workers.run(method, [()]))


def test_workers_end_with_the_main_process():
    code = (
        "from test_workers import Echo; from vcm_plugin.ctc.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    with Workers(2, Echo, '') as workers:\n"
        "        for pid in workers.run('sleep', [(), ()]):\n"
        "            pid and print(pid, flush=True)\n"
    )
    folder = Path(__file__).parent
    paths = os.pathsep.join([str(folder), str(folder.parent)])
    script = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    pids = [int(script.stdout.readline()) for _ in range(2)]
    script.kill()
    script.wait()
    limit = time.monotonic() + 10
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < limit, "workers outlive a killed main process"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"
