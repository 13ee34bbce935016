# SPDX-License-Identifier: BSD-3-Clause
"""Do README and the documentation site hold together: commands, links, files, the build?"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vcm_plugin.cli.main import _parser
from vcm_plugin.ctc.codecs import CODECS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:bash)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?:\]\(|src=\")(?!https?:)([^)#\"\s]*)(?:#[^)\"\s]*)?[)\"]")
FILE = re.compile(r"\b(?:scripts|tests|vcm_plugin|anchors|cfg)/[\w/]+\.(?:py|sh|md|yaml)\b")
THEIRS = {"scripts/install.sh"}  # of CompressAI-Vision
SHORTENED = re.compile(r"\.\.\.|\b[KN]\b|QPS|WHERE")  # no command that one could type


def commands(page: Path) -> list[str]:
    """The command lines of vcm-plugin in the blocks of a page, in one line each."""
    blocks = (block.replace("\\\n", " ") for block in BLOCK.findall(page.read_text("utf-8")))
    lines = [line.split(" #")[0] for block in blocks for line in block.splitlines()]
    found = [re.search(r"(?:^|/|&& |\$ |time )vcm-plugin (.*)", line) for line in lines]
    return [match[1] for match in found if match and not SHORTENED.search(match[1])]


COMMANDS = [(page.name, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda value: value[:60])
def test_a_command_is_one(page, line, capsys):
    """Its options exist, and have values that the parser takes; nothing is run."""
    words = shlex.split(re.sub(r"\$\w+", "1", line))
    try:
        _parser().parse_args(words)
    except SystemExit as end:
        assert end.code == 0, f"{page}: {line}: {capsys.readouterr().err}"


def test_there_are_commands():
    assert len(COMMANDS) > 40 and {"README.md", "sequences.md"} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_are_there(page):
    text = page.read_text("utf-8")
    missing = [name for name in LINK.findall(text) if name and not (page.parent / name).exists()]
    files = set(FILE.findall(text)) - THEIRS
    missing += [name for name in files if not (ROOT / name).exists()]
    assert not missing


def test_the_readme_stays_short():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 140


def test_every_codec_and_every_condition_is_in_its_table():
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(CODECS)
    text = (ROOT / "docs/test_sets.md").read_text("utf-8")
    named = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    conditions = {path.stem for path in (ROOT / "cfg/ctc").glob("*.yaml")}
    assert set(re.findall(r"`(\w+)`", " ".join(named))) == conditions


def test_results_have_machine_and_command_in_every_row():
    text = (ROOT / "docs/results.md").read_text("utf-8")
    tables = re.findall(r"^\| what \| value \| machine \| command \|\n(?:\|.*\n)+", text, re.M)
    rows = [row for table in tables for row in table.splitlines()[2:]]
    assert len(rows) > 30
    for row in rows:
        *_, machine, command = (cell.strip() for cell in row.strip("| ").split(" | "))
        assert machine.startswith(("EPYC", "Xeon")) and command, row


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("myst_parser")
    pytest.importorskip("furo")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", ROOT / "docs", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("index", "results", "extending", "decoding", "glossary", "api"):
        assert (tmp_path / f"{name}.html").is_file()
    assert "load_condition" in (tmp_path / "api.html").read_text("utf-8")
