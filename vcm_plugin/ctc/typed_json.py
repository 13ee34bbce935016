# SPDX-License-Identifier: BSD-3-Clause
"""How does JSON become a frozen dataclass, checked field by field, and JSON again?

Types of fields: int, float (which an integer may stand for), str, bool, Any, a dataclass, X | None,
tuple[X, ...] for a list and Mapping[str, X] for an object whose items are checked, and list or dict
for those that are taken as they are. A field with the default None is left out where it is None.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from vcm_plugin.errors import InputError

T = TypeVar("T")
_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false",
          list: "a list", dict: "an object", tuple: "a list", Mapping: "an object",
          types.NoneType: "null"}  # fmt: skip
_REPAIR = "it was written by another version of vcm-plugin, or edited: run it again"


def from_json(kind: type[T], value: Any, source: object, place: str = "") -> T:
    """The dataclass `kind` of what json.loads returned.

    source: the file, place: the field in it, for the message of the InputError that is raised for
    a field that is missing, unknown or of another type.

    >>> import dataclasses
    >>> Rate = dataclasses.make_dataclass("Rate", [("bits", int), ("bpp", float)])
    >>> from_json(Rate, {"bits": 8, "bpp": 1}, "rate.json")
    Rate(bits=8, bpp=1)
    >>> from_json(Rate, {"bits": "8", "bpp": 1}, "rate.json")
    Traceback (most recent call last):
    vcm_plugin.errors.InputError: rate.json: field bits: expected a whole number, found '8'
    """
    if not isinstance(value, dict):
        raise _refusal(dict, value, source, place)
    hints = typing.get_type_hints(kind)
    values = {}
    for field in dataclasses.fields(kind):
        key = field.metadata.get("key", field.name)
        inside = f"{place}.{key}".strip(".")
        if key in value:
            values[field.name] = _checked(hints[field.name], value[key], source, inside)
        elif field.default is dataclasses.MISSING:
            raise InputError(f"{source}: expected a field {inside}, found none; {_REPAIR}")
    known = {field.metadata.get("key", field.name) for field in dataclasses.fields(kind)}
    for key in value:
        if key not in known:
            inside = f"{place}.{key}".strip(".")
            raise InputError(f"{source}: unknown field {inside[:80]}; {_REPAIR}")
    return kind(**values)


def to_json(value: Any) -> Any:
    """What json.dumps writes of a dataclass, its fields in their order.

    >>> import dataclasses
    >>> Rate = dataclasses.make_dataclass("Rate", [("bits", int), ("note", str | None, None)])
    >>> to_json(Rate(8))
    {'bits': 8}
    """
    if dataclasses.is_dataclass(value):
        return {
            field.metadata.get("key", field.name): to_json(item)
            for field in dataclasses.fields(value)
            if (item := getattr(value, field.name)) is not None or field.default is not None
        }
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return value


def _checked(kind: Any, value: Any, source: object, place: str) -> Any:
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        fitting = [option for option in arguments if _fits(option, value)]
        if not fitting:
            raise _refusal(arguments, value, source, place)
        return _checked(fitting[0], value, source, place)
    if dataclasses.is_dataclass(origin):
        return from_json(origin, value, source, place)
    if not _fits(kind, value):
        raise _refusal(origin, value, source, place)
    if origin is tuple:
        return tuple(
            _checked(arguments[0], item, source, f"{place}[{n}]") for n, item in enumerate(value)
        )
    if origin is Mapping:
        return {
            key: _checked(arguments[1], item, source, f"{place}.{key}")
            for key, item in value.items()
        }
    return value


def _fits(kind: Any, value: Any) -> bool:
    """Whether the value has the type of a field, its items aside."""
    origin = typing.get_origin(kind) or kind
    if origin is Any:
        return True
    if origin is tuple:
        return isinstance(value, list)
    if origin is Mapping or dataclasses.is_dataclass(origin):
        return isinstance(value, dict)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, origin) and (origin is bool or not isinstance(value, bool))


def _refusal(kind: Any, value: Any, source: object, place: str) -> InputError:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    expected = " or ".join(
        _NAMES.get(typing.get_origin(option) or option, "an object") for option in kinds
    )
    found = repr(value)
    found = found if len(found) <= 60 else f"{found[:57]}..."
    field = f" field {place}:" if place else ""
    return InputError(f"{source}:{field} expected {expected}, found {found}")
