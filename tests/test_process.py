# SPDX-License-Identifier: BSD-3-Clause
"""Does `process.run` report every way in which an external program can fail?"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ending import is_running, wait_until

from vcm_plugin.errors import InputError
from vcm_plugin.process import ProcessError, blocks, feed, log_end, run


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_standard_input_and_output_are_bytes():
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"
    payload = bytes(range(256)) * 4096  # far more than a pipe holds
    assert run(python(code), stdin=payload).stdout == payload[::-1]


def test_without_stdin_the_program_reads_nothing():
    assert run(python("import sys; print(len(sys.stdin.read()))")).stdout.strip() == b"0"


def test_a_failure_quotes_the_program_its_status_and_the_end_of_its_log():
    code = "import sys; print('x' * 5000 + 'QP out of range', file=sys.stderr); sys.exit(3)"
    with pytest.raises(ProcessError, match="exit status 3.*QP out of range") as caught:
        run(python(code))
    message = str(caught.value)
    assert isinstance(caught.value, InputError)
    assert "python" in message and "\n" not in message and len(message) < 1000


def test_a_log_on_stdout_is_quoted_too():
    with pytest.raises(ProcessError, match="cannot open the configuration"):
        run(python("print('cannot open the configuration'); raise SystemExit(1)"))


@pytest.mark.parametrize(
    "code, expected",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL.*memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "ended by SIGTERM"),
        ("raise OSError(28, 'No space left on device')", "no space left on the device"),
        ("raise SystemExit(1)", "its log is empty"),
    ],
)
def test_signals_full_disk_and_silence(code, expected):
    with pytest.raises(ProcessError, match=expected):
        run(python(code))


def test_a_missing_program_names_the_repair(tmp_path):
    with pytest.raises(ProcessError, match="EncoderAppStatic was not found; set VCM_VTM_ENCODER"):
        run([tmp_path / "EncoderAppStatic"], repair="set VCM_VTM_ENCODER")
    with pytest.raises(ProcessError, match="install it or correct its path"):
        run([tmp_path / "nothing"])


def test_a_file_that_is_no_program(tmp_path):
    (tmp_path / "notes.txt").write_text("not executable")
    with pytest.raises(ProcessError, match="could not be started"):
        run([tmp_path / "notes.txt"])
    with pytest.raises(ProcessError, match="could not be started"):
        run(["bad\0name"])


def test_a_program_that_hangs():
    with pytest.raises(ProcessError, match="did not end within 0.2 seconds"):
        run(python("import time; time.sleep(60)"), timeout_seconds=0.2)


def test_the_log_is_one_printable_line():
    assert log_end(run(python(r"print('a\r\nb\tc\x1b[0m')"))) == "a | b c [0m"


def test_a_program_is_fed_and_read_piece_by_piece(tmp_path):
    pieces = (bytes([n]) * 100_000 for n in range(30))
    path = str(tmp_path / "copy")
    copy = f"import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, open({path!r}, 'wb'))"
    feed(python(copy), pieces)
    show = f"import sys; sys.stdout.buffer.write(open({path!r}, 'rb').read())"
    found = list(blocks(python(show), 100_000))
    assert found == [bytes([n]) * 100_000 for n in range(30)]


def test_a_program_that_ends_while_it_is_fed_or_read():
    code = "import sys; print('no memory', file=sys.stderr); sys.exit(4)"
    with pytest.raises(ProcessError, match="exit status 4.*no memory"):
        feed(python(code), (bytes(1 << 20) for _ in range(9)))
    with pytest.raises(ProcessError, match="exit status 4.*no memory"):
        list(blocks(python("print('x');" + code), 1))
    with pytest.raises(ProcessError, match="the program no-such-program was not found; install"):
        feed(["no-such-program"], [], repair="install it")


def test_a_program_is_ended_where_no_more_is_wanted():
    endless = blocks(python("while True: print('x' * 1000)"), 1000)
    assert len(next(endless)) == 1000
    endless.close()  # returns


def test_an_error_of_the_feeder_is_its_own():
    def broken():
        yield b"x"
        raise KeyError("picture")

    with pytest.raises(KeyError):
        feed(python("import sys; sys.stdin.read()"), broken())


KILLED = """
import sys
import vcm_plugin.process as process
program = [sys.executable, "-c", "import os, time; open({path!r}, 'w').write(str(os.getpid()));"
           "time.sleep(60)"]
process.run(["true"])
if {kind!r} == "run":
    process.run(program)
elif {kind!r} == "feed":
    process.feed(program, [b"x"] * 2)
else:
    next(process.blocks(program, 1))
"""


@pytest.mark.parametrize("kind", ["run", "feed", "blocks"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_program_ends_with_us(tmp_path, kind, number):
    path = tmp_path / "pid"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    code = KILLED.format(path=str(path), kind=kind)
    ours = subprocess.Popen(python(code), env=environment)
    wait_until(lambda: path.is_file() and path.read_text())
    pid = int(path.read_text())
    assert is_running(pid)
    ours.send_signal(number)
    ours.wait()
    wait_until(lambda: not is_running(pid))


def test_a_program_that_has_ended_is_watched_no_more(tmp_path):
    """The watchdog of a process that ends kills none of the numbers that its programs had."""
    other = subprocess.Popen(python("import time; time.sleep(60)"))
    code = "import vcm_plugin.process as process\n"
    code += f"with process._watched({other.pid}):\n    process.run(['true'])\n"
    code += "print(process._WATCHDOG['shell'].pid, flush=True)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    ours = subprocess.run(python(code), env=environment, capture_output=True, check=True)
    wait_until(lambda: not is_running(int(ours.stdout)))
    assert is_running(other.pid)
    other.kill()
    other.wait()


def test_programs_run_where_there_is_no_shell(monkeypatch):
    monkeypatch.setattr("vcm_plugin.process._WATCHDOG", {"of": 0})
    monkeypatch.setattr("vcm_plugin.process._SHELL", "/nowhere/sh")
    assert run(["echo", "done"]).stdout == b"done\n"
