# SPDX-License-Identifier: BSD-3-Clause
"""What of a test condition's data is missing here? One line for each file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vcm_plugin.conditions import TestCondition
from vcm_plugin.errors import InputError
from vcm_plugin.testsets.annotations import read_annotations
from vcm_plugin.testsets.open_images import read_truth
from vcm_plugin.testsets.points import POINTS_FRAMES, point_frames, points_path
from vcm_plugin.testsets.sequences import (
    annotation_path,
    frame_paths,
    read_seqinfo,
    sequence_folders,
    sequence_video,
)
from vcm_plugin.testsets.tracking import missing_tracking


def missing_data(condition: TestCondition, root: Path) -> Iterator[str]:
    """A line for each file that is missing, or that is not what the condition needs.

    No picture is decoded: one that is there is taken for good. root: where relative paths of
    the condition start.
    """
    if condition.sequences:
        top = root / Path(condition.sequence_folder).parts[0]
        if not top.is_dir():
            yield f"{top}: no such folder; --data-root names the folder that holds {top.name}/"
        else:
            for number, (group, folder) in enumerate(sequence_folders(condition, root), start=1):
                if condition.protocol == "tracking" and folder.is_dir():
                    yield from missing_tracking(condition, number, group, folder)
                else:
                    yield from _sequence(condition, folder)
    elif condition.minictc is None:
        yield from _pictures(condition, root)
    weights = condition.weights_path()
    if weights and "://" not in weights and not Path(weights).is_file():
        yield f"{weights}: no such file; the weights of the detector {condition.model}"


def _pictures(condition: TestCondition, root: Path) -> Iterator[str]:
    annotations, images = (
        root / Path(condition.require(key)).expanduser() for key in ("annotations", "images")
    )
    if not annotations.is_file():
        yield f"{annotations}: no such file; the annotations of {condition.name}"
        return
    try:
        coco = read_annotations(annotations).coco
        if condition.protocol == "open_images":
            read_truth(coco, condition.tasks[0])
    except InputError as error:
        yield str(error) if annotations.name in str(error) else f"{annotations}: {error}"
        return
    if not images.is_dir():
        yield f"{images}: no such folder; it holds {len(coco['images'])} pictures"
        return
    for image in coco["images"][: condition.limit]:
        if not (images / image["file_name"]).is_file():
            yield f"{images / image['file_name']}: no such picture"


def _sequence(condition: TestCondition, folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        yield f"{folder}: no such folder; a sequence of {condition.name}"
        return
    count = None
    try:
        count = read_seqinfo(folder / "seqinfo.ini")[2]
    except InputError as error:
        yield str(error)
    semantic = condition.protocol == "semantic"
    truth = points_path(folder) if semantic else annotation_path(folder)
    if not truth.is_file():
        yield f"{truth}: no such file; the ground truth of the sequence"
    if semantic:
        found = len(point_frames(folder))
        if count not in (None, found):
            yield f"{folder / POINTS_FRAMES}: {count} frames expected, found {found}"
    elif truth.is_file():
        try:
            coco = read_annotations(truth).coco
        except InputError as error:
            yield str(error)
            return
        if count not in (None, len(coco["images"])):
            yield f"{truth}: annotates {len(coco['images'])} frames, seqinfo.ini says {count}"
        try:
            missing = [] if sequence_video(folder) else frame_paths(folder, coco)
        except InputError as error:
            yield str(error)
            return
        for path in missing:
            if not path.is_file():
                yield f"{path}: no such frame"
