# SPDX-License-Identifier: BSD-3-Clause
"""Which frames, at which rate: test sets of sequences with a seqinfo.ini, read frame by frame.

<folder>/seqinfo.ini                 [Sequence] name, frameRate, seqLength
<folder>/annotations/<folder>.json   COCO layout, one picture for each frame
<folder>/images/                     the frames, under the names that the annotations give;
                                     or one video <folder>.yuv, .mp4, .mkv ... in their place
"""

from __future__ import annotations

import configparser
import contextlib
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from vcm_plugin.conditions import TestCondition
from vcm_plugin.errors import InputError, one_line
from vcm_plugin.files import read_text
from vcm_plugin.testsets.annotations import read_annotations
from vcm_plugin.testsets.coco import (
    FRAMES,
    CocoDataset,
    PictureEntry,
    SequenceEntry,
    check_size,
    match_categories,
    read_entry,
    used_categories,
)
from vcm_plugin.testsets.video import check_video, video_frames, video_path


def load_sequences(condition: TestCondition, root: Path) -> CocoDataset:
    """The sequences of a condition below `root`, their ground truth pooled.

    `limit` keeps the first so many frames of each. Raises InputError where something is missing.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    categories: list[dict] = []
    entries, passed_over = [], 0
    for number, (group, folder) in enumerate(sequence_folders(condition, root), start=1):
        path = annotation_path(folder)
        read = read_annotations(path)
        coco = read.coco
        passed_over += len(read.passed_over)
        categories = categories or coco["categories"]
        if coco["categories"] != categories:
            raise InputError(
                f"{path}: expected the categories of the other sequences, found others; are these "
                "the annotations of another data set?"
            )
        entry = _entry(number, group, folder, coco, condition.limit)
        for image in coco["images"]:
            image["id"] += number * FRAMES
            images.append(image)
        for item in coco["annotations"]:
            item["image_id"] += number * FRAMES
            annotations.append(item | {"id": len(annotations) + 1})
        entries.append(entry)
    coco = {"images": images, "annotations": annotations, "categories": categories}
    names, by_position = condition.class_names, condition.classes_by_position
    categories = used_categories(coco, names, by_position)
    category_ids = match_categories(categories, names, path, by_position)
    whole = CocoDataset(
        (), tuple(categories), coco, category_ids, False, passed_over=passed_over,
        whole=len(images),
    )  # fmt: skip
    return whole.of(entries)


def sequence_folders(condition: TestCondition, root: Path) -> Iterator[tuple[str, Path]]:
    """(class, folder) of each sequence of a condition, in its order."""
    pattern = condition.require("sequence_folder")
    for name in condition.sequences:
        group, _, sequence = name.rpartition("/")
        yield group, root / pattern.replace("{}", sequence)


def annotation_path(folder: Path) -> Path:
    """The annotations of a sequence."""
    return folder / "annotations" / f"{folder.name}.json"


def read_seqinfo(path: Path) -> tuple[str, tuple[int, int], int]:
    """Name, frame rate as (numerator, denominator) and number of frames from a seqinfo.ini."""
    parser = configparser.ConfigParser(interpolation=None)  # % is a character of a name
    try:
        parser.read_string(read_text(path))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; it says [Sequence] name, frameRate and seqLength of a "
            "sequence: `vcm-plugin check-data` lists everything that is missing"
        ) from error
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise InputError(f"{path}: not readable: {one_line(error)}") from error
    values = parser["Sequence"] if parser.has_section("Sequence") else {}
    found = {}
    for key, example in (("name", "BQMall"), ("frameRate", "60"), ("seqLength", "129")):
        found[key] = values.get(key)
        if not found[key]:
            raise InputError(
                f"{path}: expected {key} in [Sequence], as in {key}={example}, found none"
            )
    try:
        rate, count = Fraction(found["frameRate"]).limit_denominator(1001), int(found["seqLength"])
        if not 0 < rate <= 1000 or not 0 < count < FRAMES:
            raise ValueError
    except (ValueError, ArithmeticError) as error:
        raise InputError(
            f"{path}: expected a frameRate such as 60 or 29.97 and a seqLength of 1 to "
            f"{FRAMES - 1} frames, found {found['frameRate'][:30]} and "
            f"{found['seqLength'][:30]}"
        ) from error
    return found["name"], (rate.numerator, rate.denominator), count


def read_frames(entry: SequenceEntry) -> Iterator[np.ndarray]:
    """The frames of a sequence in order, uint8 RGB (H, W, 3), one at a time."""
    if entry.video is None:
        for frame in entry.frames:
            yield read_entry(frame)
        return
    height, width = entry.frames[0].height, entry.frames[0].width
    frames = video_frames(entry.video, height, width, entry.video_frames)
    with contextlib.closing(frames):
        yield from itertools.islice(frames, len(entry.frames))
        if len(entry.frames) == entry.video_frames:
            next(frames, None)  # the end of the file, which says whether it was sound


def frame_paths(folder: Path, coco: dict) -> list[Path]:
    """The picture files of the annotated frames of a sequence, in order."""
    annotated = sorted(coco["images"], key=lambda image: image["id"])
    return [folder / "images" / image["file_name"] for image in annotated]


def sequence_video(folder: Path) -> Path | None:
    """The file that holds the frames of a sequence where there are no pictures in images/."""
    pictures = folder / "images"
    if pictures.is_dir() and any(pictures.iterdir()):
        return None
    return video_path(folder, folder.name)


def _entry(number: int, group: str, folder: Path, coco: dict, limit: int | None) -> SequenceEntry:
    """One sequence, after a check that its annotations, frames and seqinfo.ini agree."""
    _, frame_rate, count = read_seqinfo(folder / "seqinfo.ini")
    annotated = sorted(coco["images"], key=lambda image: image["id"])
    if len(annotated) != count:
        raise InputError(
            f"{annotation_path(folder)}: annotates {len(annotated)} frames, seqinfo.ini says "
            f"{count}; are these the annotations of another sequence?"
        )
    if not 0 <= annotated[0]["id"] <= annotated[-1]["id"] < FRAMES:
        raise InputError(
            f"{annotation_path(folder)}: expected picture ids from 0 to {FRAMES - 1}, found "
            f"{annotated[0]['id']} to {annotated[-1]['id']}; number the frames of the sequence"
        )
    sizes = {(image["height"], image["width"]) for image in annotated}
    if len(sizes) > 1:
        raise InputError(f"{annotation_path(folder)}: expected frames of one size, found {sizes}")
    frames = tuple(
        PictureEntry(number * FRAMES + image["id"], path, image["height"], image["width"])
        for image, path in zip(annotated, frame_paths(folder, coco), strict=True)
    )
    video = sequence_video(folder)
    if video:
        check_video(video, *sizes.pop(), count)
    missing = [] if video else [frame.path.name for frame in frames if not frame.path.is_file()]
    if missing:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"{folder}: {len(missing)} of {count} frames are missing in images/: {named}; put them "
            f"there, or the whole sequence as {folder.name}.yuv or .mp4 into {folder.name}/"
        )
    for frame in () if video else frames:
        check_size(frame)
    name = folder.name.removesuffix("_val")
    return SequenceEntry(
        number, name, group, frames[:limit], frame_rate, video, video_frames=count
    )  # fmt: skip
