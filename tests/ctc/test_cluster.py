# SPDX-License-Identifier: BSD-3-Clause
"""Do a cluster and an array job give the result of one machine, also where workers die?"""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from vcm_plugin.cli.main import main
from vcm_plugin.ctc.codecs import load_condition
from vcm_plugin.ctc.run import RunOptions, run
from vcm_plugin.ctc.workers import Workers
from vcm_plugin.errors import InputError

pytest.importorskip("distributed", reason="needs the extra cluster")
pytestmark = pytest.mark.usefixtures("own_cache")
LOCAL = "local:2"


@dataclass(frozen=True)
class Plan:
    """What a cluster needs of a plan, and where processes leave a trace."""

    folder: Path
    condition: SimpleNamespace


class Traced:
    """A worker for these tests."""

    def __init__(self, plan: Plan):
        self.plan = plan

    def identify(self):
        yield {"environment": {"torch": "1.2"}}

    def where(self, value):
        yield value, os.getpid()

    def refuse(self):
        raise InputError("expected nothing")
        yield

    def fill(self):
        raise OSError(28, "No space left on device", "somewhere")
        yield

    def die(self, value):
        """Ends its process as often as the file named `value` says, or always without one."""
        lives = self.plan.folder / str(value)
        if not lives.is_file() or lives.read_text():
            if lives.is_file():
                lives.write_text(lives.read_text()[1:])
            os.kill(os.getpid(), signal.SIGKILL)
        yield value


class Different(Traced):
    """A worker whose results depend on its process."""

    def identify(self):
        yield {"environment": {"torch": str(os.getpid())}}


@pytest.fixture
def plan(tmp_path):
    return Plan(tmp_path, SimpleNamespace(threads_per_job=1))


def test_units_are_spread_and_an_error_says_where(plan):
    with Workers(1, Traced, plan, LOCAL) as workers:
        assert "http" in workers.dashboard
        found = list(workers.run("where", [(n,) for n in range(40)]))
        assert sorted(value for value, _ in found) == list(range(40))
        assert os.getpid() not in {pid for _, pid in found} and len(found) == 40
        with pytest.raises(InputError, match=r"worker tcp://.*: expected nothing"):
            list(workers.run("refuse", [()]))
        with pytest.raises(OSError, match=r"No space left on device \(worker tcp://.*somewhere"):
            list(workers.run("fill", [()]))
        assert list(workers.run("where", [(1,)]))[0][0] == 1, "it goes on after an error"


@pytest.mark.slow
def test_a_unit_survives_two_deaths_and_is_named_at_the_third(plan):
    (plan.folder / "7").write_text("xx")
    with Workers(1, Traced, plan, LOCAL) as workers:
        assert list(workers.run("die", [(7,)])) == [7]
        with pytest.raises(InputError, match="die 8: its process ended 3 times"):
            list(workers.run("die", [(8,)]))


@pytest.mark.slow
def test_workers_that_differ_are_refused(plan):
    with pytest.raises(InputError, match="would give other results.*environment.torch is"):
        Workers(1, Different, plan, LOCAL)


@pytest.mark.parametrize(
    "where, message",
    [
        ("local:0", "local:N, N from 1 on, found 'local:0'"),
        ("local:²", "local:N, N from 1 on, found 'local:²'"),
        ("", "expected local:N, tcp://host:port or a scheduler file, found ''"),
        ("no_such.json", "expected local:N, tcp://host:port or a scheduler file"),
        ("udp://here", "no scheduler answers"),
        ("tls://127.0.0.1:1", "no scheduler answers"),
    ],
)
def test_addresses_that_cannot_be(plan, where, message):
    with pytest.raises(InputError, match=message):
        Workers(1, Traced, plan, where)


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "not readable JSON"),
        ("hello", "not readable JSON"),
        ("[]", "expected the file that .* with an address, found none in it"),
        ('{"a": 1}', "found none in it"),
        ('{"address": 5}', "found none in it"),
    ],
)
def test_files_that_no_scheduler_has_written(plan, content, message):
    file = plan.folder / "scheduler.json"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        Workers(1, Traced, plan, str(file))


def test_processes_are_chosen_in_one_way(tmp_path, capsys):
    words = ["run", "minictc", "--codec", "diff_fchm", "--jobs", "2", "--cluster", "local:2"]
    with pytest.raises(SystemExit, match="2"):
        main(words)
    error = capsys.readouterr().err
    assert "--cluster: not allowed with argument --jobs" in error and error.count("\n") == 1


@pytest.mark.slow
def test_something_else_answers(plan):
    """A web server: Dask waits for it without an end."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.raises(InputError, match="no scheduler answers within 8 s"):
        Workers(1, Traced, plan, f"tcp://127.0.0.1:{server.server_port}")
    server.shutdown()


@pytest.mark.slow
def test_no_scheduler_answers(plan):
    with socket.socket() as listening:  # a port where something listens and says nothing
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(InputError, match="no scheduler answers within 8 s"):
            Workers(1, Traced, plan, address)


@pytest.fixture
def scheduler(tmp_path):
    """The address of a scheduler with one worker, and its process."""
    file = tmp_path / "scheduler.json"
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    dask = [sys.executable, "-m", "dask"]
    started = subprocess.Popen(
        [*dask, "scheduler", "--port", "0", "--dashboard-address", ":0", "--scheduler-file", file],
        **quiet,
    )
    worker = subprocess.Popen(
        [*dask, "worker", "--scheduler-file", file, "--nthreads", "1", "--no-dashboard",
         "--local-directory", tmp_path, "--death-timeout", "60"], **quiet,
    )  # fmt: skip
    patience = time.monotonic() + 300
    while not file.is_file() and started.poll() is None and time.monotonic() < patience:
        time.sleep(0.1)
    assert file.is_file(), f"the scheduler did not start, exit code {started.poll()}"
    yield file, started
    for process in (worker, started):
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_scheduler_that_dies_is_one_line(scheduler, tmp_path):
    file, process = scheduler
    folder = tmp_path / "run"
    folder.mkdir()
    with Workers(1, Traced, Plan(folder, SimpleNamespace(threads_per_job=1)), str(file)) as workers:
        assert [value for value, _ in workers.run("where", [(1,), (2,)])]
        process.kill()
        with pytest.raises(InputError, match="does not answer any more"):
            list(workers.run("where", [(n,) for n in range(20)]))


@pytest.mark.slow
def test_a_run_on_a_cluster_gives_the_same_result(tiny_condition, tmp_path):
    condition = load_condition(tiny_condition)
    run(condition, "diff_fchm", tmp_path / "alone", RunOptions())
    run(condition, "diff_fchm", tmp_path / "cluster", RunOptions(cluster=LOCAL))
    same(tmp_path / "alone", tmp_path / "cluster")
    assert not (tmp_path / "cluster" / ".cluster").exists()


def test_shards_give_the_result_of_one_run(tiny_condition, tmp_path):
    condition = load_condition(tiny_condition)
    run(condition, "diff_fchm", tmp_path / "alone", RunOptions())
    for number in (1, 2):
        options = RunOptions(shard=(number, 2))
        assert run(condition, "diff_fchm", tmp_path / "shards", options) is None
    assert not (tmp_path / "shards" / "result.json").exists()
    coded = []
    run(condition, "diff_fchm", tmp_path / "shards", RunOptions(),
        lambda stage, done, total: coded.append((stage, done, total)))  # fmt: skip
    assert ("rate points", 4, 4) in coded and ("rate points", 0, 4) not in coded
    same(tmp_path / "alone", tmp_path / "shards")


def test_more_shards_than_pictures(tiny_condition, tmp_path):
    """An array job of a fixed size: a shard without pictures has nothing to do, and is no error."""
    condition = load_condition(tiny_condition)
    for number in (4, 1, 2, 1):
        assert run(condition, "diff_fchm", tmp_path / "run", RunOptions(shard=(number, 4))) is None
    assert run(condition, "diff_fchm", tmp_path / "run", RunOptions()).dataset.pictures == 2


def test_what_shards_are_writing_and_have_coded_outlives_a_run(tiny_condition, tmp_path):
    """A run beside shards leaves their drafts, and --overwrite the shards of its own test."""
    condition, folder = load_condition(tiny_condition), tmp_path / "run"
    run(replace(condition, score_threshold=0.25), "diff_fchm", folder, RunOptions())
    run(condition, "diff_fchm", folder, RunOptions(shard=(1, 2)))
    run(replace(condition, score_threshold=0.75), "diff_fchm", folder, RunOptions(shard=(2, 2)))
    draft = folder / "shards/1-of-2/1/bitstreams/.0a1b2c3d.77"
    draft.write_bytes(b"half of a file")
    with pytest.raises(InputError, match="holds results of another test: test.score_threshold"):
        run(condition, "diff_fchm", folder, RunOptions())
    coded = []
    run(condition, "diff_fchm", folder, RunOptions(overwrite=True),
        lambda stage, done, total: coded.append((stage, done, total)))  # fmt: skip
    assert ("rate points", 2, 4) in coded and ("rate points", 0, 4) not in coded
    assert draft.exists() and not (folder / "shards/2-of-2").exists()


def test_a_shard_of_another_test_is_named(tiny_condition, tmp_path):
    condition, folder = load_condition(tiny_condition), tmp_path / "run"
    run(replace(condition, limit=1), "diff_fchm", folder, RunOptions(shard=(1, 2)))
    with pytest.raises(InputError, match="1-of-2 holds results of another test: other pictures"):
        run(condition, "diff_fchm", folder, RunOptions())


def same(first: Path, second: Path) -> None:
    assert (first / "result.json").read_bytes() == (second / "result.json").read_bytes()
