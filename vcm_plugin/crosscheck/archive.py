# SPDX-License-Identifier: BSD-3-Clause
"""Which files does the zip of a package hold, and may they be unpacked?

A package that somebody unpacked and zipped again is read as it was: without what the tools of
desktops add, out of the one folder that it was put in, with / in place of the backslashes of
Windows. What no honest package holds is refused before anything is written: a path that leaves the
folder, a link, a file of another kind (above all pickles), two files of one name, a zip bomb.
"""

from __future__ import annotations

import re
import shutil
import stat
import zipfile
from pathlib import Path

from vcm_plugin.errors import InputError, brief, one_line

PICKLED = (".pkl", ".pickle", ".pth", ".pt", ".npz", ".npy", ".bin", ".joblib")
MANIFEST = "manifest.json"
_LEFT_BY_DESKTOPS = re.compile(
    r"(?:.*/)?(?:\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini)|__MACOSX/.*"
)
_SMALL = 1 << 20  # bytes that any file may unpack to


def unpack(
    package: Path, folder: Path, allowed: re.Pattern[str], most_bytes: float, compression: float
) -> None:
    """Unpack the files of a package into an empty folder.

    allowed: names of files. most_bytes: of all together. compression: bytes out of one byte, of
    files that are not small. Raises InputError, which names the package; then nothing was written
    unless the archive itself is damaged.
    """
    try:
        with zipfile.ZipFile(package) as archive:
            members = _named(archive)
            if MANIFEST not in members:
                _refuse_other_zip(members, package)
            _check(members, package, allowed, most_bytes, compression)
            for name, member in members.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target, _SMALL)
    except InputError:
        raise
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise InputError(
            f"{package}: expected a package of `vcm-plugin package`, found: {reason}"
        ) from error
    except Exception as error:  # zipfile and its decoders raise many kinds for a damaged archive
        raise InputError(
            f"{package}: expected a package of `vcm-plugin package`, found a damaged or foreign "
            f"file: {one_line(error)}; ask for it again"
        ) from error


def _named(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by the names that they are unpacked under; raises InputError for a name twice."""
    named: dict[str, zipfile.ZipInfo] = {}
    alike: set[str] = set()
    for member in archive.infolist():
        name = member.filename.replace("\\", "/")
        if member.is_dir() or name.endswith("/") or _LEFT_BY_DESKTOPS.fullmatch(name):
            continue
        if name.casefold() in alike:  # one file, where the file system does not tell them apart
            raise InputError(
                f"{archive.filename}: {brief(name)} stands twice; nothing was unpacked"
            )
        alike.add(name.casefold())
        named[name] = member
    while MANIFEST not in named:
        tops = {name.partition("/")[0] for name in named}
        inner = {name.partition("/")[2]: member for name, member in named.items()}
        if len(tops) != 1 or tops & {"", ".", ".."} or "" in inner:
            break
        named = inner
    return named


def _refuse_other_zip(members: dict[str, zipfile.ZipInfo], package: Path) -> None:
    inside = [name for name in members if name.lower().endswith(".zip")]
    if inside and len(members) == len(inside):
        raise InputError(
            f"{package}: expected a package, found a zip of {brief(inside[0])}; unpack it once and "
            "give that file"
        )
    if not members:
        raise InputError(f"{package}: expected a package, found an empty zip; ask for it again")


def _check(
    members: dict[str, zipfile.ZipInfo],
    package: Path,
    allowed: re.Pattern[str],
    most_bytes: float,
    compression: float,
) -> None:
    for name, member in members.items():
        fault = _fault(name, member, allowed, compression)
        if fault:
            raise InputError(f"{package}: {fault}; nothing was unpacked")
    total = sum(member.file_size for member in members.values())
    if total > most_bytes:
        raise InputError(
            f"{package}: {total} bytes when unpacked, expected at most {most_bytes / (1 << 30):g} "
            "GiB; a zip bomb, or raise package_gib in cfg/crosscheck.yaml; nothing was unpacked"
        )


def _fault(name: str, member: zipfile.ZipInfo, allowed: re.Pattern[str], compression: float) -> str:
    """Why a member is none of an honest package, "" where it is one."""
    shown, mode = brief(member.filename), member.external_attr >> 16
    if name.startswith("/") or ".." in name.split("/") or ":" in name or "\0" in name:
        return f"the path {shown} leaves the folder"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return f"{shown} is a link" if stat.S_ISLNK(mode) else f"{shown} is no plain file"
    if name.lower().endswith(PICKLED):
        return f"{shown} may hold pickled code; a package holds JSON, YAML and bitstreams only"
    if not allowed.fullmatch(name):
        return f"{shown} is no file of a package"
    if member.file_size > max(_SMALL, compression * member.compress_size):
        return f"{shown} is a zip bomb: {member.file_size} bytes out of {member.compress_size}"
    return ""
