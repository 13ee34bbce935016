# SPDX-License-Identifier: BSD-3-Clause
"""Which test set does a condition name? The one place that opens it: pictures or sequences."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from vcm_plugin.conditions import TestCondition
from vcm_plugin.environment import cache_folder
from vcm_plugin.errors import InputError
from vcm_plugin.testsets import minictc, minictc_sequences, minictc_tracking
from vcm_plugin.testsets.coco import (
    CocoDataset,
    load_coco,
    load_pictures,
    require_truth,
)
from vcm_plugin.testsets.open_images import expand_hierarchy, read_truth
from vcm_plugin.testsets.points import load_points
from vcm_plugin.testsets.sequences import load_sequences
from vcm_plugin.testsets.tracking import load_tracking

INDEX = "instances.json"  # of a drawn set


def open_test_set(condition: TestCondition, data_root: Path | None = None) -> CocoDataset:
    """The pictures or sequences of a condition; relative paths start at data_root or its YAML.

    Raises InputError where something is missing or not what the condition needs.
    """
    root = data_root or condition.folder
    if condition.protocol == "semantic":
        return load_points(condition, root)
    if condition.protocol == "tracking":
        return _open_tracking(condition, root)
    if condition.drawn_sequences:
        split = condition.require("minictc")
        root = drawn_sequences(split)
        condition = dataclasses.replace(
            condition, sequences=minictc_sequences.names(split), sequence_folder="{}"
        )
    dataset = load_sequences(condition, root) if condition.sequences else None
    dataset = dataset or _open_pictures(condition, root)
    if condition.protocol == "coco" and condition.tasks:
        require_truth(dataset, condition.tasks, root / (condition.annotations or condition.name))
    if condition.protocol == "open_images":
        coco = dataset.coco
        read_truth(coco, condition.tasks[0])  # refuses annotations of other sets
        if condition.label_hierarchy:
            coco = expand_hierarchy(coco, root / condition.label_hierarchy)
        dataset = dataclasses.replace(dataset, coco=coco)
    return dataset


def _open_tracking(condition: TestCondition, root: Path) -> CocoDataset:
    if condition.minictc is not None:
        split = condition.minictc
        root = drawn_tracking(split)
        names = minictc_tracking.names(split)
        condition = dataclasses.replace(condition, sequences=names, sequence_folder="{}")
    return load_tracking(condition, root)


def _open_pictures(condition: TestCondition, root: Path) -> CocoDataset:
    if condition.minictc is not None:
        folder = drawn_minictc(condition.minictc, condition.limit)
        images, annotations = folder / "images", folder / "instances.json"
    else:
        images = root / Path(condition.require("images")).expanduser()
        if not condition.tasks and condition.annotations is None:
            return load_pictures(images, condition.limit, condition.class_names)
        annotations = root / Path(condition.require("annotations")).expanduser()
    names, by_position = condition.class_names, condition.classes_by_position
    dataset = load_coco(images, annotations, condition.limit, names, by_position)
    if condition.minictc is None:
        return dataset
    return dataclasses.replace(dataset, whole=minictc.PICTURES[condition.minictc])


def drawn_minictc(split: str, limit: int | None) -> Path:
    """The folder of a drawn split in the cache; drawn once, its index checked at every use."""
    name = f"{split}-{limit or 'all'}-{_version(minictc)}"
    return _drawn(
        cache_folder() / "minictc" / name, lambda folder: minictc.generate(split, folder, limit)
    )


def drawn_sequences(split: str) -> Path:
    """The folder of the drawn sequences of a split in the cache, as drawn_minictc."""
    name = f"{split}-{_version(minictc, minictc_sequences)}"
    return _drawn(
        cache_folder() / "minictc_sequences" / name,
        lambda folder: minictc_sequences.generate(split, folder),
    )


def drawn_tracking(split: str) -> Path:
    """The folder of the drawn tracking sequences of a split in the cache, as drawn_minictc."""
    name = f"{split}-{_version(minictc, minictc_sequences, minictc_tracking)}"
    return _drawn(
        cache_folder() / "minictc_tracking" / name,
        lambda folder: minictc_tracking.generate(split, folder),
    )


def _version(*modules) -> str:
    sources = b"".join(Path(module.__file__).read_bytes() for module in modules)
    return hashlib.sha256(sources).hexdigest()[:12]


def _drawn(folder: Path, generate: Callable[[Path], Path]) -> Path:
    """The folder that `generate` writes to, which returns the path of its index."""
    index, checksum = folder / INDEX, folder / "instances.sha256"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
            drawn = generate(Path(draft) / "set")
            found = hashlib.sha256(drawn.read_bytes()).hexdigest()
            (drawn.parent / checksum.name).write_text(found)
            try:
                os.rename(drawn.parent, folder)
            except OSError:
                if not folder.is_dir():  # else another process has drawn it meanwhile
                    raise
    if (
        not index.is_file()
        or hashlib.sha256(index.read_bytes()).hexdigest() != checksum.read_text()
    ):
        raise InputError(
            f"{folder}: the drawn test set is damaged; delete this folder to redraw it"
        )
    return folder
