# SPDX-License-Identifier: BSD-3-Clause
"""Is a package read that was zipped again, and every archive that is none refused in one line?"""

import random
import re
import stat
import time
import zipfile

import pytest

from vcm_plugin.crosscheck.archive import unpack
from vcm_plugin.errors import InputError

ALLOWED = re.compile(r"manifest\.json|runs/\w+/(?:result\.json|32/bitstreams/[0-9]+\.fcm)")
FILES = {
    "manifest.json": b"{}",
    "runs/a/result.json": b"[1, 2]",
    "runs/a/32/bitstreams/1.fcm": bytes(range(256)),
    "runs/a/32/bitstreams/2.fcm": b"",
}


def zipped(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            member = zipfile.ZipInfo("placeholder")
            member.filename, member.compress_type = name, method  # as it is, backslashes included
            archive.writestr(member, data)
    return path


def unpacked(path, folder, most_bytes=1 << 30):
    unpack(path, folder, ALLOWED, most_bytes, 200)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def put_into(folder, files):
    return {f"{folder}/{name}": data for name, data in files.items()}


AGAIN = {
    "as it was": FILES,
    "one folder deeper": put_into("proposal", FILES),
    "two folders deeper": put_into("for you/proposal 2", FILES),
    "by the Finder": {
        **put_into("proposal", FILES), **put_into("__MACOSX/proposal", {"._manifest.json": b"x"}),
        "proposal/.DS_Store": b"x", "proposal/runs/._a": b"x",
    },
    "by Windows": {name.replace("/", "\\"): data for name, data in FILES.items()},
    "by Windows, deeper": {
        "p\\" + name.replace("/", "\\"): data for name, data in FILES.items()
    } | {"p\\runs\\desktop.ini": b"", "p\\Thumbs.db": b""},
    "with its folders": {**FILES, "runs/": b"", "runs/a/": b""},
}  # fmt: skip


@pytest.mark.parametrize("case", AGAIN)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_package_that_was_zipped_again_is_read_as_it_was(tmp_path, case, method):
    path = zipped(tmp_path / "p.zip", AGAIN[case], method)
    assert unpacked(path, tmp_path / "out") == FILES


REFUSED = {
    "a zip in a zip": ({"proposal.zip": b"PK"}, "a zip of 'proposal.zip'; unpack it once"),
    "nothing": ({}, "an empty zip"),
    "a parent": ({**FILES, "runs/../../x.json": b""}, "leaves the folder"),
    "a parent of Windows": ({**FILES, "..\\x.json": b""}, "leaves the folder"),
    "a parent, deeper": (put_into("..", FILES), "leaves the folder|no file of a package"),
    "an absolute path": ({**FILES, "/x.json": b""}, "leaves the folder"),
    "a drive": ({**FILES, "C:\\x.json": b""}, "leaves the folder"),
    "twins": ({**FILES, "runs/A/result.json": b""}, "stands twice"),
    "twins by the slash": ({**FILES, "runs\\a/result.json": b""}, "stands twice"),
    "a pickle": ({**FILES, "runs/a/w.PKL": b""}, "may hold pickled code"),
    "another file": ({**FILES, "runs/a/x.sh": b""}, "no file of a package"),
    "a long name": ({**FILES, "n" * 60_000: b""}, "no file of a package"),
    "a name of two lines": ({**FILES, "a\nb": b""}, "no file of a package"),
    "a bomb": ({**FILES, "runs/b/result.json": bytes(1 << 24)}, "is a zip bomb"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_honest_package_holds_is_refused_and_nothing_is_written(tmp_path, case):
    files, message = REFUSED[case]
    path = zipped(tmp_path / "p.zip", files)
    with pytest.raises(InputError, match=f"p.zip: .*({message})") as caught:
        unpacked(path, tmp_path / "out")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert sorted(item.name for item in tmp_path.iterdir()) == ["p.zip"]


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, mode):
    path = zipped(tmp_path / "p.zip", FILES)
    with zipfile.ZipFile(path, "a") as archive:
        member = zipfile.ZipInfo("runs/b/result.json")
        member.external_attr = (mode | 0o644) << 16
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(InputError, match="is a link|no plain file"):
        unpacked(path, tmp_path / "out")


def test_more_bytes_than_are_allowed_are_refused(tmp_path):
    path = zipped(
        tmp_path / "p.zip", FILES | {"runs/b/result.json": random.Random(0).randbytes(999)}
    )
    with pytest.raises(InputError, match="bytes when unpacked, expected at most"):
        unpacked(path, tmp_path / "out", most_bytes=1000)


def test_a_hundred_thousand_entries_are_read_or_refused_soon(tmp_path):
    many = {f"runs/a/32/bitstreams/{n}.fcm": b"" for n in range(100_000)}
    path = zipped(tmp_path / "p.zip", {**FILES, **many, "x.sh": b""}, zipfile.ZIP_STORED)
    started = time.process_time()
    with pytest.raises(InputError, match="'x.sh' is no file of a package"):
        unpacked(path, tmp_path / "out")
    assert time.process_time() - started < 10


def test_damaged_archives_end_in_one_line(tmp_path):
    whole = zipped(tmp_path / "p.zip", FILES).read_bytes()
    draw = random.Random(0)
    path = tmp_path / "damaged.zip"
    for number in range(400):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.randrange(len(data))] if number % 4 == 0 else data)
        try:
            assert unpacked(path, tmp_path / f"out{number}").keys() <= {*FILES, "manifest.json"}
        except InputError as error:
            assert "\n" not in str(error) and "damaged.zip: " in str(error)
