# SPDX-License-Identifier: BSD-3-Clause
"""Does a command end in one line where its surroundings are not as they should be?"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vcm_plugin.files import locked

ROOT = Path(__file__).parents[2]
CODE = "import sys; from vcm_plugin.cli.main import main; sys.exit(main())"


def command(*words, cwd=None, limits="", **changes) -> subprocess.CompletedProcess[str]:
    """A command line in a process of its own; changes: of the environment, None takes away."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}
    environment = {key: str(value) for key, value in environment.items() if value is not None}
    line = [sys.executable, "-c", CODE, *map(str, words)]
    return subprocess.run(line, env=environment, cwd=cwd, capture_output=True, text=True)


def refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("vcm-plugin: error: "), done.stderr
    assert message in lines[0] and len(lines[0]) < 600


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.full((64, 96, 3), 90, dtype=np.uint8)).save(path)
    return path


def encode(picture, output, **surroundings):
    words = ("encode", picture, "-o", output, "--codec", "vvc_remote", "--rate-point", "40")
    return command(*words, **surroundings)


@pytest.mark.parametrize("changes", [
    {"HOME": "/proc/none"}, {"HOME": "/dev/null"}, {"XDG_CACHE_HOME": "/dev/null/x"},
    {"VCM_CACHE": "/dev/null"}, {"VCM_CACHE": "", "HOME": "/dev/null"},
], ids=lambda changes: next(iter(changes)))  # fmt: skip
def test_a_cache_that_cannot_be_made_names_vcm_cache(tiny_condition, tmp_path, changes):
    unset = dict.fromkeys(("VCM_CACHE", "XDG_CACHE_HOME"))
    words = ("run", tiny_condition, "--codec", "vvc_remote", "-o", tmp_path / "run")
    refused(command(*words, **(unset | changes)), "VCM_CACHE")


def test_doctor_says_that_the_cache_cannot_be_made():
    done = command("doctor", VCM_CACHE="/dev/null")
    assert done.returncode == 0 and "--  cache" in done.stdout and "VCM_CACHE" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here to print to")
@pytest.mark.parametrize("words", ["info {coded}", "encode {picture} -o {output} --codec "
                                   "vvc_remote --rate-point 40", "--help", "--version",
                                   "run --help", "doctor"])  # fmt: skip
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_output_is_one_line(picture, tmp_path, words, unbuffered):
    assert encode(picture, tmp_path / "coded").returncode == 0
    names = {"picture": picture, "coded": tmp_path / "coded", "output": tmp_path / "again"}
    words = words.format(**names).split()
    line = [sys.executable, "-c", CODE, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, env=environment, stdout=full, stderr=subprocess.PIPE, text=True)
    refused(done, "standard output: No space left on device")


@pytest.mark.parametrize("words", ["--help", "run --help", "doctor"])
def test_a_reader_that_has_left_is_no_error(words):
    """As `| head -1` leaves: nothing of it is said, and nothing has failed."""
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-c", CODE, *words.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_standard_output_is_no_error(picture, tmp_path):
    words = "encode picture.png -o coded --codec vvc_remote --rate-point 40"
    line = f"{sys.executable} -c '{CODE}' {words} >&- 2>&-"
    done = subprocess.run(
        line, shell=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0 and (tmp_path / "coded").stat().st_size


def test_a_deleted_working_directory_is_one_line(tmp_path):
    gone = tmp_path / "gone"
    line = f"cd {gone} && rmdir {gone} && {sys.executable} -c '{CODE}' doctor"
    gone.mkdir()
    done = subprocess.run(
        line,
        shell=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    refused(done, "the working directory is gone")


def test_terminals_that_know_no_letters_but_ascii(picture, tmp_path):
    named = tmp_path / "Bäume — 木.png"
    shutil.copy(picture, named)
    done = encode(named, tmp_path / "Büro.vvc", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and r"B\xfcro.vvc" in done.stdout
    done = encode(tmp_path / "fehlt—.png", tmp_path / "x", PYTHONIOENCODING="ascii")
    refused(done, r"fehlt\u2014.png")


def test_names_that_are_no_text_are_shown_all_the_same(picture, tmp_path):
    named = os.fsencode(tmp_path) + b"/B\xe4ume.png"
    shutil.copy(os.fsencode(picture), named)
    done = encode(os.fsdecode(named), tmp_path / "coded")
    assert done.returncode == 0, done.stderr
    done = encode(picture, os.fsdecode(os.fsencode(tmp_path) + b"/B\xe4ume.vvc"))
    assert done.returncode == 0 and r"B\udce4ume.vvc" in done.stdout, done.stderr


def test_names_with_control_characters_stay_in_one_line(tmp_path):
    refused(encode(tmp_path / "one\ntwo\x1b[31m\x0b.png", tmp_path / "x"), "one two")


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("mount"), reason="root writes anywhere")
def test_an_output_that_cannot_be_written_names_it(picture, tmp_path):
    refused(encode(picture, "/proc/none/coded"), "/proc/none")
    (tmp_path / "file").touch()
    refused(encode(picture, tmp_path / "file" / "coded"), "file")
    (tmp_path / "folder").mkdir()
    refused(encode(picture, tmp_path / "folder"), "folder: Is a directory")
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        refused(encode(picture, tmp_path / "closed" / "coded"), "closed/coded: Permission denied")


def test_names_that_are_too_long_are_one_short_line(picture, tiny_condition, tmp_path):
    long = "n" * 300
    for done in (
        encode(picture, tmp_path / long),
        encode(tmp_path / f"{long}.png", tmp_path / "coded"),
        command("info", tmp_path / long),
        command("run", tiny_condition, "--codec", "vvc_remote", "-o", tmp_path / long),
        command("run", long, "--codec", "vvc_remote", "-o", tmp_path / "run"),
        command("report", tmp_path / long, "--anchor", "x", "-o", tmp_path / "report"),
    ):
        refused(done, "ame too long")


def test_of_two_runs_in_one_folder_the_second_is_told_so(tiny_condition, own_cache, tmp_path):
    words = ("run", tiny_condition, "--codec", "vvc_remote", "-o", tmp_path / "run")
    with locked(tmp_path / "run"):  # as a run in this process would
        refused(command(*words), "another run works in this folder")
    assert command(*words).returncode == 0
