# SPDX-License-Identifier: BSD-3-Clause
"""Does `process.run` report every way in which an external program can fail?"""

import sys

import pytest

from vcm_plugin.errors import InputError
from vcm_plugin.process import ProcessError, log_end, run


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
