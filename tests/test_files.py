# SPDX-License-Identifier: BSD-3-Clause
"""Are text and JSON read as they really come, and files written whole or not at all?"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vcm_plugin.errors import InputError, brief
from vcm_plugin.files import read_json, write_arrays, write_bytes


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "file"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_read(tmp_path, encoding):
    assert read_json(written(tmp_path, '{"a": "ö"}', encoding)) == {"a": "ö"}


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000, '{"a": "\x01"}'])
def test_json_that_is_refused(tmp_path, text):
    with pytest.raises(InputError, match="file: not readable JSON") as caught:
        read_json(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_key_that_stands_twice_is_named(tmp_path):
    with pytest.raises(InputError, match="the key 'id' stands twice in an object"):
        read_json(written(tmp_path, '{"annotations": [{"id": 1, "area": 2, "id": 3}]}'))


def test_the_longest_names_that_the_file_system_takes_are_written(tmp_path):
    path = tmp_path / ("n" * 255)
    write_bytes(path, b"whole")
    assert path.read_bytes() == b"whole" and [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", [".", "/", "..", "folder"])
def test_a_folder_is_no_file_to_write(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        write_bytes(Path(name), b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_found_values_are_shown_briefly():
    values = [
        "x" * 10**6,
        [[1] * 9999] * 9999,
        {"a" * 99: {"b": [1] * 99}},
        10**6000,
        "1\n2\0",
        None,
    ]
    for value in values:
        assert len(brief(value)) <= 60 and brief(value).isprintable()


def test_arrays_that_find_no_room_end_in_an_error_alone(tmp_path):
    """As on a full disk: the file may not grow beyond 4096 bytes."""
    code = (
        "import resource, sys\nfrom pathlib import Path\nimport numpy as np\n"
        "from vcm_plugin.files import write_arrays\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "noise = np.random.default_rng(0).random(10_000)\n"
        "try:\n    write_arrays(Path(sys.argv[1]), {'noise': noise})\n"
        "except OSError as error:\n    print(error)\n"
    )
    path = tmp_path / "arrays.npz"
    line = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "File too large" in done.stdout and str(path) in done.stdout
    assert done.stderr == "" and not list(tmp_path.iterdir())
    write_arrays(path, {"noise": np.arange(3)})
    assert np.load(path)["noise"].tolist() == [0, 1, 2]
