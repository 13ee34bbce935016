# SPDX-License-Identifier: BSD-3-Clause
"""Is work spread over processes without losing a value, an error or a process?"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ending import is_running, wait_until

from vcm_plugin.ctc.workers import Workers
from vcm_plugin.errors import InputError


class Echo:
    """A worker for these tests; its plan is a folder for what must outlive it."""

    def __init__(self, plan: Path):
        self.plan = plan

    def twice(self, value):
        yield self.plan, value
        yield self.plan, value

    def told(self, name):
        yield os.environ.get(name)

    def refuse(self):
        raise InputError("expected nothing")
        yield

    def full(self):
        raise OSError(28, "No space left on device", "somewhere")
        yield

    def fail(self):
        yield 1 / 0

    def die(self, value):
        """Ends its process, but only so often as the file named `value` says, once each."""
        lives = self.plan / str(value)
        if lives.is_file() and lives.read_text():
            lives.write_text(lives.read_text()[1:])
            os.kill(os.getpid(), signal.SIGKILL)
        yield value

    def sleep(self, value):
        (self.plan / f"{value}.pid").write_text(str(os.getpid()))
        while True:
            time.sleep(0.05)
        yield


class Unwilling:
    """A worker that cannot be made."""

    def __init__(self, plan: Path):
        raise InputError(f"no weights in {plan}")


@pytest.mark.parametrize("jobs", [1, 2])
def test_workers_yield_everything_in_both_ways(jobs):
    with Workers(jobs, Echo, "plan") as workers:
        found = sorted(workers.run("twice", [(n,) for n in range(5)]))
        assert found == sorted([("plan", n) for n in range(5)] * 2)
        assert list(workers.run("twice", [])) == []


def test_workers_have_the_environment_of_now(monkeypatch):
    for value in ("early", "late"):  # what they are copies of has started by the second
        monkeypatch.setenv("VCM_TOLD", value)
        with Workers(2, Echo, "plan") as workers:
            assert list(workers.run("told", [("VCM_TOLD",)])) == [value]


def test_different_methods_go_side_by_side():
    with Workers(2, Echo, "plan") as workers:
        found = list(workers.calls([("told", ("VCM_NOTHING",)), ("twice", (1,))]))
    assert sorted(found, key=str) == [("plan", 1), ("plan", 1), None]


def test_a_runner_of_several_processes_imports_no_networks():
    code = "import sys, vcm_plugin.ctc.run, vcm_plugin.cli.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("method", "kind", "message"),
    [
        ("refuse", InputError, "expected nothing"),
        ("full", OSError, "No space left"),
        ("fail", ZeroDivisionError, "division"),
    ],
)
def test_what_a_worker_raises_arrives(method, kind, message):
    with Workers(2, Echo, "plan") as workers, pytest.raises(kind, match=message):
        list(workers.run(method, [()]))


@pytest.mark.parametrize("jobs", [1, 2])
def test_why_a_worker_cannot_be_made_arrives(jobs):
    with pytest.raises(InputError, match="no weights in here"):
        with Workers(jobs, Unwilling, "here") as workers:
            list(workers.run("twice", [(1,)]))


def test_what_a_dead_process_was_at_is_done_by_another(tmp_path):
    (tmp_path / "2").write_text("1")
    (tmp_path / "4").write_text("11")
    with Workers(2, Echo, tmp_path) as workers:
        assert sorted(workers.run("die", [(n,) for n in range(7)])) == list(range(7))


def test_a_unit_that_kills_its_process_each_time_is_named(tmp_path):
    (tmp_path / "3").write_text("1" * 9)
    found = []
    with Workers(2, Echo, tmp_path) as workers:
        with pytest.raises(InputError, match="^die 3: its process ended 3 times.*repeat"):
            found.extend(workers.run("die", [(n,) for n in range(7)]))
        # The others that were under way are done before the run ends.
        assert {0, 1, 2} <= set(found) and 3 not in found
        assert sorted(workers.run("die", [(5,)])) == [5]


def script_of_two_sleepers(folder: Path) -> subprocess.Popen:
    """A process group of a script and two workers that are at work for ever."""
    code = (
        "import signal, sys; from pathlib import Path; from test_workers import Echo\n"
        "from vcm_plugin.ctc.workers import Workers\n"
        "if __name__ == '__main__':\n"
        # A shell that starts the tests in the background has them ignore it.
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    try:\n"
        "        with Workers(2, Echo, Path(sys.argv[1])) as workers:\n"
        "            list(workers.run('sleep', [(1,), (2,)]))\n"
        "    except KeyboardInterrupt:\n"
        "        sys.exit('interrupted')\n"
    )
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here, here.parent, here.parents[1])))
    script = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,
    )
    limit = time.monotonic() + 60
    while sum(path.stat().st_size > 0 for path in folder.glob("*.pid")) < 2:
        assert time.monotonic() < limit and script.poll() is None, script.stderr.read()
        time.sleep(0.02)
    return script


def test_workers_end_with_the_main_process(tmp_path):
    script = script_of_two_sleepers(tmp_path)
    script.kill()
    script.communicate()
    assert_workers_end(tmp_path)


def test_an_interrupt_ends_all_processes_without_their_tracebacks(tmp_path):
    script = script_of_two_sleepers(tmp_path)
    try:
        os.killpg(script.pid, signal.SIGINT)  # as a terminal sends it: to all of them
        assert script.communicate(timeout=60)[1].decode() == "interrupted\n"
    finally:
        script.kill()
    assert_workers_end(tmp_path)


def assert_workers_end(folder: Path) -> None:
    pids = [int(path.read_text()) for path in folder.glob("*.pid")]
    limit = time.monotonic() + 10
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < limit, "workers outlive the main process"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


KILLED = """
import os, pathlib, sys
from vcm_plugin.ctc.workers import Workers
from vcm_plugin.process import run

class Busy:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)

    def work(self, number):
        (self.folder / f"worker{number}").write_text(str(os.getpid()))
        code = f"import os, time; open({str(self.folder / f'program{number}')!r}, 'w')"
        run([sys.executable, "-c", code + ".write(str(os.getpid())); time.sleep(60)"])
        yield number

if __name__ == "__main__":
    with Workers(2, Busy, sys.argv[1]) as workers:
        list(workers.run("work", [(1,), (2,)]))
"""


def test_a_killed_run_leaves_neither_workers_nor_their_programs(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    ours = subprocess.Popen(
        [sys.executable, script, tmp_path],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(
                map(str, (Path(__file__).parents[2], Path(__file__).parents[1]))
            )
        },
    )
    files = [tmp_path / f"{what}{n}" for what in ("worker", "program") for n in (1, 2)]
    try:
        wait_until(lambda: all(file.is_file() and file.read_text() for file in files), 60)
    finally:
        ours.kill()
        ours.wait()
    pids = [int(file.read_text()) for file in files]
    assert len(set(pids)) == 4
    wait_until(lambda: not any(map(is_running, pids)))
