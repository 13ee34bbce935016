# SPDX-License-Identifier: BSD-3-Clause
"""Does a run folder say when and where it was made, and what else the machine did meanwhile?"""

import json
import os
import platform
import re
from dataclasses import replace

import pytest

from vcm_plugin.ctc import machine
from vcm_plugin.ctc.machine import FILE, Session, SessionLog, load_sessions
from vcm_plugin.errors import InputError

SESSION = Session("2026-01-31T10:00:00Z", 5.0, "a CPU", 2, 2, 8.0, "an OS", 1, 1, False, 0.0)


def test_nothing_is_written_where_nothing_is_measured(tmp_path):
    with SessionLog(tmp_path, 1, 1, False):
        pass
    assert not list(tmp_path.iterdir()) and load_sessions(tmp_path) == ()


def test_a_session_says_when_and_on_what(tmp_path):
    with SessionLog(tmp_path, 2, 1, False) as log:
        log.begin()
        (killed,) = load_sessions(tmp_path)  # what stays where the process is killed now
        log.begin()
    (session,) = load_sessions(tmp_path)
    assert killed.seconds is None and session.seconds >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", session.started)
    assert session.cpu and session.cores <= session.all_cores == os.cpu_count()
    assert session.system.endswith(platform.release()) and session.jobs == 2
    assert platform.node() not in (tmp_path / FILE).read_text()


def test_a_second_session_and_those_of_shards_stand_beside_the_first(tmp_path):
    shard = tmp_path / "shards" / "1-of-2"
    shard.mkdir(parents=True)
    early = replace(SESSION, started="2020-01-31T10:00:00Z")
    machine.write_json(shard / FILE, machine.to_json(machine.Sessions((early,))))
    machine.write_json(tmp_path / FILE, machine.to_json(machine.Sessions((SESSION,))))
    with SessionLog(tmp_path, 1, 1, True) as log:
        log.begin()
    assert load_sessions(tmp_path)[:2] == (early, SESSION) and len(load_sessions(tmp_path)) == 3


def test_own_work_is_not_that_of_others(tmp_path):
    with SessionLog(tmp_path, 1, 1, False) as log:
        log.begin()
        started = sum(os.times()[:2])
        while sum(os.times()[:2]) - started < 0.5:
            pass
    (session,) = load_sessions(tmp_path)
    assert session.others is None or session.others <= session.all_cores - 0.2


@pytest.mark.parametrize(
    "changes, busy",
    (
        ({}, False),
        ({"jobs": 2}, False),
        ({"jobs": 2, "others": 0.2}, False),
        ({"jobs": 2, "others": 0.5}, True),
        ({"others": 1.5}, True),
        ({"jobs": 3}, True),
        ({"cores": 1, "threads": 2}, True),
        ({"others": None}, False),
    ),
)
def test_a_machine_is_busy_where_work_shares_cores(changes, busy):
    assert replace(SESSION, **changes).busy is busy


def test_a_damaged_file_is_refused_in_one_line(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"sessions": [{"started": 1}]}))
    with pytest.raises(InputError, match=r"environment.json: field sessions\[0\].started"):
        load_sessions(tmp_path)
