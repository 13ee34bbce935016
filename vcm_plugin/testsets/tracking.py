# SPDX-License-Identifier: BSD-3-Clause
"""Which objects are where, under which identities: sequences in the layout of the MOT challenge.

<folder>/seqinfo.ini      [Sequence] name, frameRate, seqLength
<folder>/img1/            the frames as .png or .jpg; a name is a frame's number
<folder>/gt/gt.txt        frame,id,left,top,width,height,confidence[,class[,visibility]] a line;
                          left and top count from 1
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from vcm_plugin.conditions import TestCondition
from vcm_plugin.errors import InputError, brief
from vcm_plugin.files import read_text
from vcm_plugin.testsets.coco import (
    FRAMES,
    PICTURE_SUFFIXES,
    CocoDataset,
    PictureEntry,
    SequenceEntry,
    check_size,
)
from vcm_plugin.testsets.pictures import picture_size
from vcm_plugin.testsets.sequences import read_seqinfo, sequence_folders

CATEGORY = 1
Truth = dict[int, list[dict]]  # frame -> its objects


def load_tracking(condition: TestCondition, root: Path) -> CocoDataset:
    """The sequences of a tracking condition below `root`, their ground truth pooled.

    An annotation has, beside COCO's keys, `track_id`, `confidence`, `object_class` and `visibility`
    of its line in gt.txt. `limit` keeps the first so many frames of each sequence. Raises
    InputError where a file is missing or says what cannot be, and where no object is labelled for
    more than `max_unlabelled_seconds`.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    entries = []
    for number, (group, folder) in enumerate(sequence_folders(condition, root), start=1):
        entry, truth = _labelled(condition, number, group, folder)
        for frame in entry.frames[: condition.limit]:
            images.append(
                {
                    "id": frame.image_id,
                    "file_name": frame.path.name,
                    "height": frame.height,
                    "width": frame.width,
                }
            )
            for item in truth[frame.image_id % FRAMES]:
                own = {"id": len(annotations) + 1, "image_id": frame.image_id}
                annotations.append(own | item)
        entries.append(entry)
    if not annotations:
        raise InputError(
            f"{root}: expected at least one object in gt/gt.txt, found none; put the whole ground "
            "truth there"
        )
    category = {"id": CATEGORY, "name": condition.class_names[0]}
    coco = {"images": images, "annotations": annotations, "categories": [category]}
    whole = CocoDataset((), (category,), coco, (CATEGORY,), False)
    return whole.of([_limited(entry, condition.limit) for entry in entries])


def truth_path(folder: Path) -> Path:
    """The ground truth of a sequence."""
    return folder / "gt" / "gt.txt"


def frame_files(folder: Path) -> dict[int, Path]:
    """Number -> file of each frame of a sequence; raises InputError for another file's name."""
    found: dict[int, Path] = {}
    for path in sorted((folder / "img1").glob("*")):
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            continue
        if not path.stem.isdecimal() or int(path.stem) >= FRAMES:
            raise InputError(f"{path}: expected the number of a frame, as in 000001.png")
        if int(path.stem) in found:
            raise InputError(f"{path}: there is another frame {int(path.stem)}; remove one")
        found[int(path.stem)] = path
    return dict(sorted(found.items()))


def check_frames(folder: Path, expected: int | None) -> dict[int, Path]:
    """The frames of a sequence, as many as seqinfo.ini says, numbered without a gap.

    expected: frames that the test condition states, if any. Raises InputError.
    """
    _, _, count = read_seqinfo(folder / "seqinfo.ini")
    if expected is not None and count != expected:
        raise InputError(
            f"{folder / 'seqinfo.ini'}: expected seqLength {expected}, as the test condition says, "
            f"found {count}"
        )
    files = frame_files(folder)
    numbers = list(files)
    gap = next((a + 1 for a, b in zip(numbers, numbers[1:]) if b != a + 1), None)
    if len(files) != count or gap is not None:
        where = f", frame {gap} is missing" if gap is not None else ""
        raise InputError(
            f"{folder / 'img1'}: expected {count} frames, as seqinfo.ini says, found "
            f"{len(files)}{where}; put the whole sequence there"
        )
    return files


def read_truth(path: Path, entry: SequenceEntry) -> Truth:
    """The objects of each frame of a sequence, as annotations without id and image_id.

    Raises InputError, naming the line, for what cannot be: frames that are not there, no identity,
    an identity twice in a frame, boxes without area or outside of the picture.
    """
    frames = {frame.image_id % FRAMES: frame for frame in entry.frames}
    found: Truth = defaultdict(list)
    seen: set[tuple[int, int]] = set()
    try:
        text = read_text(path)
    except OSError as error:
        raise InputError(
            f"{path}: not readable: {error.strerror}; it is the ground truth of the sequence"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: expected text, a line for each object, found other bytes: {error.reason}"
        ) from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            frame, item = _read_line(line)
            if frame not in frames:
                first, last = min(frames), max(frames)
                raise ValueError(
                    f"frame {frame} is none of the sequence, which has {first} to {last}"
                )
            if (frame, item["track_id"]) in seen:
                raise ValueError(f"identity {item['track_id']} stands twice in frame {frame}")
            _check_box(item["bbox"], frames[frame])
        except ValueError as error:
            raise InputError(f"{path}: line {number}: {error}") from error
        seen.add((frame, item["track_id"]))
        found[frame].append(item)
    return found


def missing_tracking(
    condition: TestCondition, number: int, group: str, folder: Path
) -> Iterator[str]:
    """A line for each thing of a sequence that is missing or wrong, the same that `load_tracking`
    refuses; of the pictures, the size of the first is read. number: of the sequence, from 1 on."""
    has_truth = truth_path(folder).is_file()
    try:
        if has_truth:
            _labelled(condition, number, group, folder)
        else:
            _entry(condition, number, group, folder)
    except InputError as error:
        yield str(error)
    if not has_truth:
        yield f"{truth_path(folder)}: no such file; the ground truth of the sequence"


def _read_line(line: str) -> tuple[int, dict]:
    """(frame, object) of a line; raises ValueError."""
    fields = line.replace(",", " ").split()
    if not 7 <= len(fields) <= 10:
        raise ValueError(
            "expected frame,id,left,top,width,height,confidence[,class[,visibility]], found "
            f"{brief(line)}"
        )
    try:
        values = [float(field) for field in fields]
        if not all(map(math.isfinite, values)):
            raise ValueError
    except ValueError:
        raise ValueError(f"expected numbers, found {brief(line)}") from None
    frame, identity, left, top, width, height, confidence = values[:7]
    if frame != int(frame) or identity != int(identity):
        raise ValueError(f"expected whole numbers as frame and identity, found {brief(line)}")
    if identity < 0:
        raise ValueError(
            f"expected an identity from 0 on, found {int(identity)}: lines without identities are "
            "detections, no ground truth"
        )
    return int(frame), {
        "category_id": CATEGORY,
        "bbox": [left - 1.0, top - 1.0, width, height],
        "area": width * height,
        "iscrowd": 0,
        "track_id": int(identity),
        "confidence": confidence,
        "object_class": int(values[7]) if len(values) > 7 else 1,
        "visibility": values[8] if len(values) > 8 else 1.0,
    }


def _check_box(box: list[float], frame: PictureEntry) -> None:
    """Raise ValueError for a box that has no area in its picture."""
    left, top, width, height = box
    if width <= 0 or height <= 0:
        raise ValueError(f"expected a box with an area, found {width:g} x {height:g}")
    if left >= frame.width or top >= frame.height or left + width <= 0 or top + height <= 0:
        raise ValueError(
            f"expected a box in the picture of {frame.height}x{frame.width} (height x width), "
            f"found left {left + 1:g}, top {top + 1:g}, {width:g} wide, {height:g} high"
        )


def _check_cover(
    condition: TestCondition, path: Path, truth: Truth, frames: list[int], rate: tuple[int, int]
) -> None:
    """Raise InputError where too many frames in a row have no object.

    A frame may be empty; but where gt.txt ends early or has a hole, every object that is tracked
    there would count as a false one.
    """
    first, last = _longest_gap(frames, truth)
    seconds = (last - first + 1) * rate[1] / rate[0]
    if seconds > condition.max_unlabelled_seconds:
        raise InputError(
            f"{path}: frames {first} to {last} have no object, {seconds:.3g} s in a row; expected "
            f"at most {condition.max_unlabelled_seconds:g} s; complete the ground truth, or, where "
            "nothing is there to be seen, set max_unlabelled_seconds in the test condition"
        )


def _longest_gap(frames: list[int], truth: Truth) -> tuple[int, int]:
    """First and last of the most frames in a row that have no object; (0, -1) for none.

    >>> _longest_gap([1, 2, 3, 4, 5], {1: ["a"], 3: ["b"]})
    (4, 5)
    """
    longest, first = (0, -1), frames[0]
    for frame in frames:
        if truth.get(frame):
            first = frame + 1
        elif frame - first > longest[1] - longest[0]:
            longest = (first, frame)
    return longest


def _labelled(
    condition: TestCondition, number: int, group: str, folder: Path
) -> tuple[SequenceEntry, Truth]:
    """One sequence with all of its frames, and the objects of each, after every check."""
    entry = _entry(condition, number, group, folder)
    truth = read_truth(truth_path(folder), entry)
    used = [frame.image_id % FRAMES for frame in entry.frames[: condition.limit]]
    _check_cover(condition, truth_path(folder), truth, used, entry.frame_rate)
    return entry, truth


def _entry(condition: TestCondition, number: int, group: str, folder: Path) -> SequenceEntry:
    """One sequence with all of its frames, after a check that they are there."""
    expected = condition.sequence_frames[number - 1] if condition.sequence_frames else None
    _, frame_rate, _ = read_seqinfo(folder / "seqinfo.ini")
    files = check_frames(folder, expected)
    size = picture_size(next(iter(files.values())))
    frames = tuple(
        PictureEntry(number * FRAMES + index, path, *size) for index, path in files.items()
    )
    for frame in frames:
        check_size(frame)
    return SequenceEntry(number, folder.name, group, frames, frame_rate)


def _limited(entry: SequenceEntry, limit: int | None) -> SequenceEntry:
    frames = entry.frames[:limit]
    return SequenceEntry(entry.image_id, entry.name, entry.group, frames, entry.frame_rate)
