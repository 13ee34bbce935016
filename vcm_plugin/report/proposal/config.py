# SPDX-License-Identifier: BSD-3-Clause
"""What does the author of a proposal say? One YAML file -> ProposalConfig, checked key by key."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import yaml

from vcm_plugin.errors import InputError

PLACEHOLDER = "YOUR "


@dataclasses.dataclass(frozen=True)
class ProposalConfig:
    """The keys of cfg/proposal/example.yaml; paths are absolute here."""

    title: str
    run: Path
    anchors: tuple[Path, ...]
    number: str | None = None
    source: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    contact: str | None = None
    date: str | None = None
    status: str | None = None
    purpose: str | None = None
    group: str | None = None
    crosscheck: Path | None = None
    description: tuple[str, ...] = ()
    training: str | None = None
    references: tuple[str, ...] = ()

    def unfilled(self) -> list[str]:
        """The keys that still hold a placeholder, or nothing."""
        missing = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            texts = value if isinstance(value, tuple) else (value,)
            if value in (None, ()) or any(str(text).startswith(PLACEHOLDER) for text in texts):
                missing.append(field.name)
        return missing


_LISTS = ("anchors", "source", "authors", "description", "references")
_PATHS = ("run", "anchors", "crosscheck")
_REQUIRED = ("title", "run", "anchors")


def load_config(path: Path) -> ProposalConfig:
    """Read a proposal's YAML; raises InputError for an unknown key and a value of another type."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise InputError(f"{path}: not a readable proposal: {reason}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a YAML of keys such as title and run, found {values!r}")
    keys = [field.name for field in dataclasses.fields(ProposalConfig)]
    for key in values:
        if key not in keys:
            nearest = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.0)[0]
            raise InputError(f"{path}: unknown key {key}; did you mean {nearest}?")
    for key in _REQUIRED:
        if values.get(key) is None:
            raise InputError(f"{path}: expected the key {key}, found none; add it")
    return ProposalConfig(**{key: _checked(key, value, path) for key, value in values.items()})


def _checked(key: str, value: Any, path: Path) -> Any:
    """A text, or a tuple of texts; of a key that names files, paths that start at the YAML."""
    wanted = "a list of texts" if key in _LISTS else "a text"
    if value is None:
        return () if key in _LISTS else None
    if hasattr(value, "isoformat"):  # YAML reads 2026-01-31 as a date
        value = value.isoformat()
    items = value if key in _LISTS and isinstance(value, list) else [value]
    if isinstance(value, list) != (key in _LISTS) or not all(isinstance(i, str) for i in items):
        raise InputError(f"{path}: {key}: expected {wanted}, found {value!r}")
    if key in _PATHS:
        items = [path.parent / Path(item).expanduser() for item in items]
    return tuple(items) if key in _LISTS else items[0]
