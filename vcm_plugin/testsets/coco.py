# SPDX-License-Identifier: BSD-3-Clause
"""Which pictures and which ground truth: COCO-layout test sets, read as Detectron2 reads them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vcm_plugin.errors import InputError, brief
from vcm_plugin.files import sha256_of_file
from vcm_plugin.testsets.annotations import read_annotations
from vcm_plugin.testsets.pictures import PictureError, picture_size, read_picture

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
# Frame n of sequence s has the picture id s * FRAMES + n in the ground truth of all sequences.
FRAMES = 100_000


@dataclass(frozen=True)
class PictureEntry:
    """One picture of a test set: its COCO id, its file and its annotated size in pixels."""

    image_id: int
    path: Path
    height: int
    width: int

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The pictures in the ground truth that this entry stands for: itself."""
        return (self.image_id,)

    @property
    def pixels(self) -> int:
        """Of the picture."""
        return self.height * self.width


@dataclass(frozen=True)
class SequenceEntry:
    """One sequence of a test set: its number, its name and its class, and its frames in order.

    frame_rate: frames per second as (numerator, denominator). video: the file that holds the frames
    where they are no picture files, video_frames: how many that is. points: the file with labelled
    points of each frame, if any.
    """

    image_id: int
    name: str
    group: str
    frames: tuple[PictureEntry, ...]
    frame_rate: tuple[int, int]
    video: Path | None = None
    points: Path | None = None
    video_frames: int = 0

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The pictures in the ground truth that this entry stands for."""
        return tuple(frame.image_id for frame in self.frames)

    @property
    def pixels(self) -> int:
        """Of all frames."""
        return sum(frame.pixels for frame in self.frames)


@dataclass(frozen=True)
class CocoDataset:
    """A COCO-layout test set.

    sequences: those that its pictures are the frames of; none where they are pictures.
    coco: the ground truth of exactly these pictures, as in the annotation file.
    category_ids: COCO category id of each class of the detector; None where the set lacks it.
    passed_over: how many objects were left out since their boxes have no area in their pictures.
    whole: how many pictures the test set has without a limit; 0 where that is not known.
    """

    pictures: tuple[PictureEntry, ...]
    categories: tuple[dict, ...]
    coco: dict
    category_ids: tuple[int | None, ...]
    has_masks: bool
    sequences: tuple[SequenceEntry, ...] = ()
    passed_over: int = 0
    whole: int = 0

    @property
    def entries(self) -> tuple[PictureEntry, ...] | tuple[SequenceEntry, ...]:
        """What is coded at once: pictures, or whole sequences."""
        return self.sequences or self.pictures

    def cut_from(self) -> int | None:
        """The pictures of the whole test set where a limit left some out, else None."""
        return self.whole if self.whole > len(self.pictures) else None

    def of(self, sequences: Collection[SequenceEntry]) -> CocoDataset:
        """The test set of these sequences alone."""
        frames = [frame for sequence in sequences for frame in sequence.frames]
        return dataclasses.replace(_restricted(self, frames), sequences=tuple(sequences))

    def without(self, image_ids: Collection[int]) -> CocoDataset:
        """The test set less some pictures and their ground truth."""
        return _restricted(self, [p for p in self.pictures if p.image_id not in image_ids])

    def files_sha256(self) -> str:
        """sha256 over the picture files and the ground truth."""
        digest = hashlib.sha256(json.dumps(self.coco, sort_keys=True).encode())
        paths = [sequence.points for sequence in self.sequences if sequence.points]
        for entry in self.entries:
            frames = entry.frames if isinstance(entry, SequenceEntry) else (entry,)
            video = getattr(entry, "video", None)
            paths += [video] if video else [frame.path for frame in frames]
        for path in paths:
            try:
                digest.update(bytes.fromhex(sha256_of_file(path)))
            except OSError:  # the picture is unreadable: `read_picture` says so in due time
                digest.update(b"unreadable")
        return digest.hexdigest()


def load_coco(
    images: Path,
    annotations: Path,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
    by_position: bool = False,
) -> CocoDataset:
    """Read a COCO annotation file whose pictures lie in the folder `images`.

    limit: the first so many pictures of the file. class_names: the classes of the detector, which
    are matched with the categories by name, or by_position, where the names differ and class i is
    the i-th category id; without class_names it is so too.
    Raises InputError where the file does not hold what it should or a picture is missing.
    """
    found = read_annotations(annotations)
    coco = found.coco
    entries = [
        PictureEntry(image["id"], images / image["file_name"], image["height"], image["width"])
        for image in coco["images"][:limit]
    ]
    missing = [entry.path.name for entry in entries if not entry.path.is_file()]
    if missing:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InputError(
            f"{annotations}: {len(missing)} of {len(entries)} pictures are not in {images}: "
            f"{named}; give the folder that holds them (--images), or annotations without them"
        )
    for entry in entries:
        check_size(entry)
    categories = used_categories(coco, class_names, by_position)
    category_ids = match_categories(categories, class_names, annotations, by_position)
    whole = CocoDataset(
        (), tuple(categories), coco, category_ids, False,
        passed_over=len(found.passed_over), whole=len(coco["images"]),
    )  # fmt: skip
    return _restricted(whole, entries)


def load_pictures(
    folder: Path, limit: int | None = None, class_names: Sequence[str] = ()
) -> CocoDataset:
    """All JPEG and PNG pictures of a folder by name, without ground truth, for human vision.

    Raises InputError where there is none.
    """
    every = sorted(p for p in folder.glob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    paths = every[:limit]
    if not paths:
        raise InputError(
            f"{folder}: expected a folder of pictures ({', '.join(PICTURE_SUFFIXES)}), found none; "
            "name the folder in which the paths of the test condition start with --data-root or "
            "$VCM_DATA"
        )
    sizes = [read_picture(path).shape[:2] for path in paths]
    entries = tuple(
        PictureEntry(number, path, *size)
        for number, (path, size) in enumerate(zip(paths, sizes, strict=True), start=1)
    )
    images = [
        {"id": e.image_id, "file_name": e.path.name, "height": e.height, "width": e.width}
        for e in entries
    ]
    coco = {"images": images, "annotations": [], "categories": []}
    classes = (None,) * len(class_names)
    return CocoDataset(entries, (), coco, classes, False, whole=len(every))


def read_entry(entry: PictureEntry) -> np.ndarray:
    """Read a picture of a test set; raises InputError where its size is not the annotated one."""
    picture = read_picture(entry.path)
    if picture.shape[:2] != (entry.height, entry.width):
        raise InputError(
            f"{entry.path}: annotated as {entry.height}x{entry.width} (height x width), found "
            f"{picture.shape[0]}x{picture.shape[1]}; correct the size in the annotations"
        )
    return picture


def check_size(entry: PictureEntry) -> None:
    """Refuse a picture of another size than annotated; only its header is read where it agrees."""
    try:
        if picture_size(entry.path) != (entry.height, entry.width):
            read_entry(entry)
    except PictureError:  # `measure` says so in due time, or passes over it
        pass


def require_truth(dataset: CocoDataset, tasks: Collection[str], path: Path) -> None:
    """Raise InputError, naming path, where there is no object to find, or masks lack for `mask`."""
    annotations = dataset.coco["annotations"]
    if not any(not item["iscrowd"] for item in annotations):
        raise InputError(
            f"{path}: expected at least one object in the {len(dataset.pictures)} pictures, found "
            "none; annotate them, or test more of them (limit)"
        )
    lacking = [item["id"] for item in annotations if "segmentation" not in item]
    if "mask" in tasks and lacking:
        raise InputError(
            f"{path}: annotation {lacking[0]}: segmentation: expected a mask, found none (in "
            f"{len(lacking)} of {len(annotations)}); annotate masks or use the task box only"
        )


def used_categories(
    coco: dict, class_names: Sequence[str] | None, by_position: bool = False
) -> list[dict]:
    """The categories less those that are no class and that nothing is annotated as.

    Exports put a root category of that kind before the others; by_position, only the first is
    taken for one, and only where there is one category too many.
    """
    used, categories = {item["category_id"] for item in coco["annotations"]}, coco["categories"]
    if class_names is None or not used:
        return categories
    if by_position:
        first = min(categories, key=lambda category: category["id"])
        root = len(categories) == len(class_names) + 1 and first["id"] not in used
        return [category for category in categories if not root or category is not first]
    classes = {name.strip().lower() for name in class_names}
    return [c for c in categories if c["id"] in used or c["name"].strip().lower() in classes]


def match_categories(
    categories: list[dict],
    class_names: Sequence[str] | None,
    path: Path,
    by_position: bool = False,
) -> tuple[int | None, ...]:
    """The category id of each class of the detector; raises InputError for other categories."""
    if by_position and len(categories) != len(class_names):
        raise InputError(
            f"{path}: expected {len(class_names)} categories, one for each class of the detector, "
            f"found {len(categories)}; are these the annotations of another data set?"
        )
    if class_names is None or by_position:
        return tuple(sorted(category["id"] for category in categories))
    by_name = {category["name"].strip().lower(): category["id"] for category in categories}
    if len(by_name) != len(categories):
        counts = Counter(category["name"].strip().lower() for category in categories)
        ((name, count),) = counts.most_common(1)
        raise InputError(
            f"{path}: expected each category once, found {brief(name)} {count} times; rename one"
        )
    classes = [name.strip().lower() for name in class_names]
    foreign = sorted(set(by_name) - set(classes))
    if foreign:
        raise InputError(
            f"{path}: categories {', '.join(foreign)} are none of the detector's classes "
            f"({', '.join(classes)}); give its class names in order (--classes, class_names), or "
            "rename or remove these categories"
        )
    return tuple(by_name.get(name) for name in classes)


def _restricted(dataset: CocoDataset, entries: list[PictureEntry]) -> CocoDataset:
    kept = {entry.image_id for entry in entries}
    annotations = [a for a in dataset.coco["annotations"] if a["image_id"] in kept]
    images = [image for image in dataset.coco["images"] if image["id"] in kept]
    coco = {"images": images, "annotations": annotations, "categories": list(dataset.categories)}
    if "oic_annotations" in dataset.coco:
        verified = [a for a in dataset.coco["oic_annotations"] if a["image_id"] in kept]
        coco |= {"oic_labelmap": dataset.coco["oic_labelmap"], "oic_annotations": verified}
    has_masks = bool(annotations) and all(a.get("segmentation") for a in annotations)
    return dataclasses.replace(dataset, pictures=tuple(entries), coco=coco, has_masks=has_masks)
