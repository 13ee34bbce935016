# SPDX-License-Identifier: BSD-3-Clause
"""Is a bitstream of a run the one that its picture was coded to, and is any other refused?"""

import hashlib

import pytest

from vcm_plugin.ctc.results import Record
from vcm_plugin.ctc.run_folder import Journal, bitstream_path, check_bitstream
from vcm_plugin.errors import BitstreamError


@pytest.fixture
def point(tmp_path):
    """The folder of a rate point with raw VVC streams of two pictures, both of one size."""
    folder = tmp_path / "32"
    journal = Journal(folder)
    journal.reopen()
    for image_id in (1, 2):
        data = b"\0\0\0\1" + bytes([image_id]) * 60
        path = bitstream_path(folder, image_id, "vvc")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        journal.append(Record(image_id, bits=8 * len(data), file_sha256=sha256))
    return folder


def swap(folder):
    one, two = (bitstream_path(folder, image_id, "vvc") for image_id in (1, 2))
    data = one.read_bytes(), two.read_bytes()
    one.write_bytes(data[1])
    two.write_bytes(data[0])


def flip(folder):
    for image_id in (1, 2):
        path = bitstream_path(folder, image_id, "vvc")
        data = bytearray(path.read_bytes())
        data[40] ^= 1
        path.write_bytes(data)


def test_files_as_they_were_written_are_taken(point):
    for image_id in (1, 2):
        path = bitstream_path(point, image_id, "vvc")
        check_bitstream(path, path.read_bytes())
        assert Journal(point).has(image_id, "vvc")
    assert not Journal(point).has(3, "vvc")


@pytest.mark.parametrize("change", [swap, flip])
def test_files_that_were_changed_are_refused_and_coded_again(point, change):
    change(point)
    for image_id in (1, 2):
        path = bitstream_path(point, image_id, "vvc")
        with pytest.raises(BitstreamError, match=f"32/pictures.jsonl has of picture {image_id}"):
            check_bitstream(path, path.read_bytes())
        assert not Journal(point).has(image_id, "vvc")


def test_files_anywhere_else_are_not_asked_for_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "1.vvc", tmp_path / "bitstreams" / "1.vvc"):
        check_bitstream(path, b"anything")
