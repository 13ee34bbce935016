# SPDX-License-Identifier: BSD-3-Clause
"""Which frames, at which rate: test sets of sequences with a seqinfo.ini, read frame by frame.

<folder>/seqinfo.ini                 [Sequence] name, frameRate, seqLength
<folder>/annotations/<folder>.json   COCO layout, one picture for each frame
<folder>/images/                     the frames, under the names that the annotations give;
                                     or one file <folder>.yuv, .mp4, .mkv in their place
"""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import ffmpeg
import numpy as np

from vcm_plugin.conditions import TestCondition
from vcm_plugin.errors import InputError
from vcm_plugin.process import FFMPEG_REPAIR, ProcessError, blocks, ffmpeg_program
from vcm_plugin.testsets.coco import (
    FRAMES,
    CocoDataset,
    PictureEntry,
    SequenceEntry,
    match_categories,
    read_annotations,
    read_entry,
)

VIDEO_SUFFIXES = (".yuv", ".mp4", ".mkv")
YUV_FORMATS = {1: "yuv420p", 2: "yuv420p10le"}  # by bytes of a sample


def load_sequences(condition: TestCondition, root: Path) -> CocoDataset:
    """The sequences of a condition below `root`, their ground truth pooled.

    `limit` keeps the first so many frames of each. Raises InputError where something is missing.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    categories: list[dict] = []
    entries = []
    for number, (group, folder) in enumerate(sequence_folders(condition, root), start=1):
        path = annotation_path(folder)
        coco = read_annotations(path)
        categories = categories or coco["categories"]
        if coco["categories"] != categories:
            raise InputError(f"{path}: expected the categories of the other sequences")
        entry = _entry(number, group, folder, coco, condition.limit)
        for image in coco["images"]:
            image["id"] += number * FRAMES
            images.append(image)
        for item in coco["annotations"]:
            item["image_id"] += number * FRAMES
            annotations.append(item | {"id": len(annotations) + 1})
        entries.append(entry)
    coco = {"images": images, "annotations": annotations, "categories": categories}
    category_ids = match_categories(
        categories, condition.class_names, path, condition.classes_by_position
    )
    return CocoDataset((), tuple(categories), coco, category_ids, False).of(entries)


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
    parser = configparser.ConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; it says [Sequence] name, frameRate and seqLength of a "
            "sequence: `vcm-plugin check-data` lists everything that is missing"
        ) from error
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise InputError(f"{path}: not readable: {' '.join(str(error).split())}") from error
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
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(
            f"{path}: expected a frameRate such as 60 or 29.97 and a seqLength of 1 to "
            f"{FRAMES - 1} frames, found {found['frameRate']} and {found['seqLength']}"
        ) from error
    return found["name"], (rate.numerator, rate.denominator), count


def read_frames(entry: SequenceEntry) -> Iterator[np.ndarray]:
    """The frames of a sequence in order, uint8 RGB (H, W, 3), one at a time."""
    if entry.video is None:
        for frame in entry.frames:
            yield read_entry(frame)
        return
    height, width = entry.frames[0].height, entry.frames[0].width
    count = 0
    for count, raw in enumerate(_decoded(entry, height, width), start=1):
        if len(raw) == 3 * height * width:
            yield np.frombuffer(raw, np.uint8).reshape(height, width, 3)
        if count == len(entry.frames):
            return
    raise InputError(
        f"{entry.video}: expected {len(entry.frames)} frames of {height}x{width} (height x width) "
        f"as annotated, found {count}; give the whole sequence"
    )


def frame_paths(folder: Path, coco: dict) -> list[Path]:
    """The picture files of the annotated frames of a sequence, in order."""
    annotated = sorted(coco["images"], key=lambda image: image["id"])
    return [folder / "images" / image["file_name"] for image in annotated]


def video_path(folder: Path) -> Path | None:
    """The file that holds the frames of a sequence where there is no folder of pictures."""
    if (folder / "images").is_dir():
        return None
    found = (folder / f"{folder.name}{suffix}" for suffix in VIDEO_SUFFIXES)
    return next((path for path in found if path.is_file()), None)


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
    video = video_path(folder)
    missing = [] if video else [frame.path.name for frame in frames if not frame.path.is_file()]
    if missing:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"{folder}: {len(missing)} of {count} frames are missing in images/: {named}; put them "
            f"there, or the whole sequence as {folder.name}.yuv or .mp4 into {folder.name}/"
        )
    name = folder.name.removesuffix("_val")
    return SequenceEntry(number, name, group, frames[:limit], frame_rate, video)


def _decoded(entry: SequenceEntry, height: int, width: int) -> Iterator[bytes]:
    """The frames of a video file as raw RGB."""
    options = {}
    if entry.video.suffix == ".yuv":
        options = {"format": "rawvideo", "pix_fmt": _yuv_format(entry.video, height, width)}
        options["s"] = f"{width}x{height}"
    output = ffmpeg.input(str(entry.video), **options).output(
        "pipe:1", format="rawvideo", pix_fmt="rgb24", fps_mode="passthrough"
    )
    program, *options = ffmpeg.compile(output, cmd=ffmpeg_program())
    command = [program, "-hide_banner", "-nostdin", "-loglevel", "error", *options]
    try:
        yield from blocks(command, 3 * height * width, repair=FFMPEG_REPAIR)
    except ProcessError as error:
        if error.exit_status is None:
            raise
        raise InputError(f"{entry.video}: expected a readable video, found: {error}") from error


def _yuv_format(path: Path, height: int, width: int) -> str:
    """The format of a raw file that has as many bytes as its seqinfo.ini says frames."""
    count, found = read_seqinfo(path.parent / "seqinfo.ini")[2], path.stat().st_size
    pixels = height * width + 2 * (-(-height // 2) * -(-width // 2))
    sizes = {count * pixels * sample_bytes: name for sample_bytes, name in YUV_FORMATS.items()}
    if found not in sizes:
        raise InputError(
            f"{path}: expected {count} frames of {height}x{width} (height x width), 4:2:0, so "
            f"{' or '.join(map(str, sizes))} bytes (8 or 10 bits a sample), found {found} bytes"
        )
    return sizes[found]
