# SPDX-License-Identifier: BSD-3-Clause
"""How files are written whole or not at all, read as text or JSON, digested and locked."""

from __future__ import annotations

import codecs
import errno
import hashlib
import io
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from vcm_plugin.errors import InputError, brief, one_line

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: Path) -> str:
    """The text of a file: UTF-8, or the Unicode encoding that its byte order mark names.

    Raises OSError and UnicodeDecodeError.
    """
    data = path.read_bytes()
    known = (name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark))
    return data.decode(next(known, "utf-8"))


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises InputError where it is unreadable, or says a key twice."""
    try:
        return json.loads(read_text(path), object_pairs_hook=_once)
    except RecursionError:
        raise InputError(f"{path}: not readable JSON: lists in lists without end") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise InputError(f"{path}: not readable JSON: {reason}") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: after a kill the file is the old one or the new one."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def refuse_other_downloads(start: bytes, path: Path, what: str) -> None:
    """Raise InputError for what a download leaves where it did not get the file itself.

    start: of the file. what: it should be, for the message.
    """
    text = start.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{path}: expected {what}, found a Git LFS pointer: fetch the file itself, with git "
            "lfs pull"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(
            f"{path}: expected {what}, found a web page: download the file itself, where its page "
            "asks for a click or a login"
        )
    if not start:
        raise InputError(f"{path}: expected {what}, found an empty file; download it again")


def claim_note(note: Path, made_from: dict[str, Any], what: str) -> None:
    """Note in a folder what its files are made from. Raises InputError where the note that is there
    says otherwise; what: the files, for the message."""
    if note.is_file() and read_json(note) != made_from:
        raise InputError(
            f"{note.parent}: expected {what}, found those of others; give another folder"
        )
    write_json(note, made_from)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically, its folder included."""
    with writing(path) as file:
        file.write(data)


def write_arrays(path: Path, arrays: Mapping[str, Any], compressed: bool = True) -> None:
    """Write named arrays as one .npz file, atomically.

    It is made in memory: numpy leaves an archive open where the disk is full, and Python then
    prints a traceback of its own.
    """
    import numpy as np

    archive = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(archive, **arrays)
    write_bytes(path, archive.getvalue())


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that is there under its name, its folder included, once it is whole."""
    if not path.name:  # of "." and "/"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{secrets.token_hex(4)}.{os.getpid()}")  # short: names have a limit
    try:
        with draft.open("wb") as file:
            yield file
        os.replace(draft, path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        if error.filename in (str(draft), None):  # nobody knows the draft's name
            raise type(error)(error.errno, error.strerror, str(path)) from error
        raise
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def sha256_of(value: Any) -> str:
    """sha256 of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder, which is made where missing; the lock goes with the process. A folder that
    was made here and holds nothing at the end is gone again."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{folder}: another run works in this folder; wait for it or give another with -o"
        ) from error
    try:
        yield
    finally:
        if made and [path.name for path in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink()
            with suppress(OSError):  # another run has come in between
                for path in made:
                    path.rmdir()
        lock.release()


def sha256_of_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. Raises ValueError for a key that stands twice: of its two values
    another reader may take the other."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {brief(twice)} stands twice in an object")
    return found
