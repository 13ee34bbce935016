# SPDX-License-Identifier: BSD-3-Clause
"""How a YAML file becomes a frozen dataclass: the only reader of configuration.

Ours and no library's: an unknown key names the nearest known one, and every message names file
and key, which msgspec and dacite do not.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path

import yaml

from vcm_plugin.errors import InputError

T = typing.TypeVar("T")


class _Loader(yaml.SafeLoader):
    """YAML without a key twice in one mapping, of which the last would win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen and key != "<<":
                line = key_node.start_mark.line + 1
                raise InputError(f"line {line}: the key {key} stands there twice; remove one")
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str) -> dict[str, typing.Any]:
    """The keys of a YAML file, by their names; what: "test condition", for the messages.

    Raises InputError where the file is unreadable, no mapping, or has a key twice.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)  # noqa: S506 (safe)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: not a readable {what}: it is nested too deeply") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise InputError(f"{path}: not a readable {what}: {reason}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a YAML of keys as a {what} has, found {values!r:.80}")
    return {str(key): value for key, value in values.items()}


def without_sources(values: Mapping[str, typing.Any]) -> dict[str, typing.Any]:
    """The keys but those that say where another one's value comes from (<key>_source)."""
    return {key: value for key, value in values.items() if not key.endswith("_source")}


def build(cls: type[T], values: Mapping[str, typing.Any], where: str | Path) -> T:
    """A dataclass of these values; raises InputError, naming `where`, for a key that it does not
    have, a key that it misses, and a value of another type."""
    kinds = types_of(cls)
    refuse_unknown(values, kinds, where)
    for field in dataclasses.fields(cls):
        required = (
            dataclasses.MISSING is field.default and dataclasses.MISSING is field.default_factory
        )
        if field.name in kinds and required and field.name not in values:
            raise InputError(f"{where}: expected the key {field.name}, found none; add it")
    return cls(**{key: typed(key, value, kinds[key], where) for key, value in values.items()})


def types_of(cls: type) -> dict[str, typing.Any]:
    """Key -> type of each field of a dataclass that a file may set; metadata={"key": False} marks
    those that it may not."""
    hints = typing.get_type_hints(cls)
    fields = (f for f in dataclasses.fields(cls) if f.init and f.metadata.get("key", True))
    return {field.name: hints[field.name] for field in fields}


def refuse_unknown(values: Collection[str], known: Collection[str], where: str | Path) -> None:
    """Raise InputError for a key that is not known, naming the nearest that is."""
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(key, list(known), n=1, cutoff=0.0)[0]
            raise InputError(f"{where}: unknown key {key}; did you mean {nearest}?")


def typed(key: str, value: typing.Any, kind: typing.Any, where: str | Path) -> typing.Any:
    """The value as the type of its field: a list becomes a tuple, a float may be an integer, a date
    is a text."""
    if hasattr(value, "isoformat"):  # YAML reads 2026-01-31 as a date
        value = value.isoformat()
    for option in typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        if typing.get_origin(option) is tuple:
            item = typing.get_args(option)[0]
            if isinstance(value, (list, tuple)) and all(is_of_kind(v, item) for v in value):
                return tuple(item(v) for v in value)
        elif is_of_kind(value, option):
            return option(value) if option is not types.NoneType else None
    wanted = kind.__name__ if isinstance(kind, type) else str(kind)
    wanted = wanted.replace("tuple[", "list[").replace(", ...", "").replace("None", "null")
    raise InputError(f"{where}: {key}: expected {wanted}, found {value!r}")


def is_of_kind(value: typing.Any, kind: type) -> bool:
    """Whether a value of a YAML file can stand for a field of this type."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is Path:
        return isinstance(value, (str, Path))
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
