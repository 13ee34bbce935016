# SPDX-License-Identifier: BSD-3-Clause
"""What does the author of a proposal say? One YAML file -> ProposalConfig, checked key by key."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from vcm_plugin.errors import InputError
from vcm_plugin.settings import build, read_yaml

PLACEHOLDER = "YOUR "
OPTIONAL = ("references", "committee")  # the document has something in their place


@dataclasses.dataclass(frozen=True)
class ProposalConfig:
    """The keys of cfg/proposal/example.yaml."""

    title: str
    run: Path
    anchors: tuple[Path, ...]
    committee: tuple[str, ...] = ()
    number: str | None = None
    source: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    contact: str | None = None
    place: str | None = None
    date: str | None = None
    status: str | None = None
    purpose: str | None = None
    group: str | None = None
    crosscheck: Path | None = None
    description: tuple[str, ...] = ()
    training: str | None = None
    conclusion: str | None = None
    recommendation: str | None = None
    references: tuple[str, ...] = ()

    def unfilled(self) -> list[str]:
        """The keys that still hold a placeholder, or nothing."""
        missing = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in OPTIONAL:
                continue
            if value in (None, ()) or any(str(t).startswith(PLACEHOLDER) for t in _tuple(value)):
                missing.append(field.name)
        return missing


_PATHS = ("run", "anchors", "crosscheck")


def load_config(path: Path) -> ProposalConfig:
    """Read a proposal's YAML; raises InputError for an unknown key, a value of another type, and a
    run or a cross-check that is not where the YAML says."""
    values = read_yaml(path, "proposal")
    stated = {key: value for key, value in values.items() if value is not None}
    config = build(ProposalConfig, stated, path)
    return dataclasses.replace(config, **{key: _found(config, key, path) for key in _PATHS})


def _found(config: ProposalConfig, key: str, path: Path) -> Any:
    """The paths of a key, which start at the folder of the YAML."""
    named = getattr(config, key)
    if named is None:
        return None
    places = [path.parent / place.expanduser() for place in _tuple(named)]
    for place in places:
        if not place.exists():
            raise InputError(
                f"{path}: {key}: looked for {place.resolve()}, found nothing there; paths start at "
                f"the folder of this YAML: name it from {path.resolve().parent}, or put the YAML "
                "where that path begins"
            )
    return tuple(places) if isinstance(named, tuple) else places[0]


def _tuple(value: Any) -> tuple:
    return value if isinstance(value, tuple) else (value,)
