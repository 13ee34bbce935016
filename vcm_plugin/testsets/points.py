# SPDX-License-Identifier: BSD-3-Clause
"""Which points of a frame are labelled? Sequences in the layout of PandaSet (protocol semantic).

<folder>/seqinfo.ini
<folder>/annotations/<folder>.npz    "gt": for each frame an array of x, y, label
<folder>/camera/front_camera/        the frames, in the order of their names
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from vcm_plugin.conditions import TestCondition
from vcm_plugin.errors import InputError, one_line
from vcm_plugin.safe_pickle import read_object_array
from vcm_plugin.testsets.coco import (
    FRAMES,
    CocoDataset,
    PictureEntry,
    SequenceEntry,
)
from vcm_plugin.testsets.pictures import read_picture
from vcm_plugin.testsets.sequences import read_seqinfo, sequence_folders

POINTS_FRAMES = Path("camera/front_camera")
MOST_BYTES = 1 << 30  # of a sequence's points, unpacked


def load_points(condition: TestCondition, root: Path) -> CocoDataset:
    """Sequences with labelled points; the ground truth of accuracy is in their points files."""
    entries, whole = [], 0
    for number, (group, folder) in enumerate(sequence_folders(condition, root), start=1):
        _, rate, count = read_seqinfo(folder / "seqinfo.ini")
        paths = point_frames(folder)
        if len(paths) != count:
            raise InputError(
                f"{folder / POINTS_FRAMES}: seqinfo.ini says {count} frames, found {len(paths)} "
                "JPEG files; give the whole sequence"
            )
        height, width = read_picture(paths[0]).shape[:2]
        frames = tuple(
            PictureEntry(number * FRAMES + n, path, height, width) for n, path in enumerate(paths)
        )
        points = points_path(folder)
        entry = SequenceEntry(
            number, folder.name, group, frames[: condition.limit], rate, points=points
        )
        found = len(read_points(entry))
        if found != count:
            raise InputError(
                f"{points}: expected the points of {count} frames, found {found}; are these the "
                "annotations of another sequence?"
            )
        entries.append(entry)
        whole += count
    images = [
        {"id": f.image_id, "file_name": f.path.name, "height": f.height, "width": f.width}
        for entry in entries for f in entry.frames
    ]  # fmt: skip
    coco = {"images": images, "annotations": [], "categories": []}
    categories = (None,) * len(condition.class_names)
    return CocoDataset((), (), coco, categories, False, whole=whole).of(entries)


def point_frames(folder: Path) -> list[Path]:
    """The frames of a sequence with labelled points, in order."""
    return sorted((folder / POINTS_FRAMES).glob("*.jpg"))


def points_path(folder: Path) -> Path:
    """The labelled points of a sequence."""
    return folder / "annotations" / f"{folder.name}.npz"


def read_points(entry: SequenceEntry) -> list[np.ndarray]:
    """The labelled points of each frame: int (P, 3), columns x, y, label."""
    try:
        with zipfile.ZipFile(entry.points) as stored, stored.open("gt.npy") as file:
            if stored.getinfo("gt.npy").file_size > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES} bytes")
            return [np.asarray(points).reshape(-1, 3) for points in read_object_array(file)]
    except FileNotFoundError as error:
        raise InputError(f"{entry.points}: no such file; it holds the labelled points") from error
    except Exception as error:  # damaged zip files, headers and pickles fail in many ways
        reason = one_line(error)
        raise InputError(
            f"{entry.points}: expected an array `gt` with the points (x, y, label) of each frame, "
            f"found: {reason}"
        ) from error
