# SPDX-License-Identifier: BSD-3-Clause
"""Which rate points have others published? anchors/reference/*.json, each with its source."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from vcm_plugin.ctc.typed_json import from_json
from vcm_plugin.environment import PACKAGE
from vcm_plugin.errors import InputError
from vcm_plugin.files import read_json

FORMAT, VERSION = "vcm-plugin reference", 1
FOLDER = PACKAGE.parent / "anchors" / "reference"


@dataclass(frozen=True)
class ReferencePoint:
    """One published rate point."""

    rate_point: str
    bpp: float
    accuracy: Mapping[str, float]  # metric -> percent


@dataclass(frozen=True)
class Reference:
    """Published points of one codec on one test set; nobody ran them here."""

    name: str  # of its file
    codec: str
    dataset: str
    source: str
    points: tuple[ReferencePoint, ...]


def load_references(folder: Path = FOLDER) -> list[Reference]:
    """Every published reference; raises InputError for a file that is none."""
    return [_load(path) for path in sorted(folder.glob("*.json"))]


def references_for(dataset: str, metrics: Collection[str]) -> tuple[Reference, ...]:
    """Those of exactly this test set that state one of these metrics; others are never mixed in."""
    return tuple(
        reference
        for reference in load_references()
        if reference.dataset == dataset
        and any(set(point.accuracy) & set(metrics) for point in reference.points)
    )


def read_published(path: Path, file_format: str, version: int) -> dict:
    """A JSON file of results that others published, which says so and where. Raises InputError."""
    stored = read_json(path)
    stated = (stored.get("format"), stored.get("version"), stored.get("published"))
    if stated != (file_format, version, True) or not stored.get("source"):
        raise InputError(
            f"{path}: expected {file_format} {version} with published: true and its source, found "
            f"{stated}"
        )
    return stored


def _load(path: Path) -> Reference:
    stored = read_published(path, FORMAT, VERSION)
    points = tuple(from_json(ReferencePoint, point, path, "points") for point in stored["points"])
    dataset, source = stored["dataset"]["name"], stored["source"]
    return Reference(path.stem, stored["codec"], dataset, source, points)
