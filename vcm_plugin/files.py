# SPDX-License-Identifier: BSD-3-Clause
"""How files are written whole or not at all, read as text, JSON or YAML, digested and locked."""

from __future__ import annotations

import codecs
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from vcm_plugin.errors import InputError, brief, one_line

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
YAML_VALUES = 100_000  # of one file, what its aliases repeat included


def read_text(path: Path) -> str:
    """The text of a file: UTF-8, or the Unicode encoding that its byte order mark names.

    Raises OSError and UnicodeDecodeError.
    """
    data = path.read_bytes()
    known = (name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark))
    return data.decode(next(known, "utf-8"))


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises InputError where it is unreadable."""
    try:
        return json.loads(read_text(path))
    except RecursionError:
        raise InputError(f"{path}: not readable JSON: lists in lists without end") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else one_line(error)
        raise InputError(f"{path}: not readable JSON: {reason}") from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML file of plain values; a key that stands twice in it is an error.

    Raises InputError where it is unreadable, or would unfold to more than YAML_VALUES values.
    """
    try:
        value = yaml.load(read_text(path), Loader=_UniqueKeys)  # noqa: S506, a SafeLoader
    except OSError as error:
        raise InputError(f"{path}: not readable: {error.strerror}") from error
    except RecursionError:
        raise InputError(f"{path}: not readable YAML: lists in lists without end") from None
    except Exception as error:  # PyYAML's resolvers of dates and numbers raise many kinds
        raise InputError(f"{path}: not readable YAML: {one_line(error)}") from error
    waiting, count = [value], 0
    while waiting:
        item = waiting.pop()
        count += 1
        if count > YAML_VALUES:
            raise InputError(f"{path}: expected a configuration, found over {YAML_VALUES} values")
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, (list, tuple, set)):
            waiting += item
    return value


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML's safe loader, which takes the last of two equal keys, made to refuse the second."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in getattr(node, "value", ()):
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # refused by the safe loader
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: the key {brief(key)} stands twice; remove one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: after a kill the file is the old one or the new one."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically, its folder included."""
    with writing(path) as file:
        file.write(data)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that is there under its name, its folder included, once it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{secrets.token_hex(4)}.{os.getpid()}")  # short: names have a limit
    try:
        with draft.open("wb") as file:
            yield file
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def sha256_of(value: Any) -> str:
    """sha256 of a JSON-able value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder, which is made where missing; the lock goes with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{folder}: another run works in this folder; wait for it or give another with -o"
            ) from error
        yield


def sha256_of_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
