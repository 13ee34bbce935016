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

from vcm_plugin.errors import InputError
from vcm_plugin.files import sha256_of_file
from vcm_plugin.testsets.pictures import read_picture

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
    where they are no picture files. points: the file with labelled points of each frame, if any.
    """

    image_id: int
    name: str
    group: str
    frames: tuple[PictureEntry, ...]
    frame_rate: tuple[int, int]
    video: Path | None = None
    points: Path | None = None

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
    """

    pictures: tuple[PictureEntry, ...]
    categories: tuple[dict, ...]
    coco: dict
    category_ids: tuple[int | None, ...]
    has_masks: bool
    sequences: tuple[SequenceEntry, ...] = ()

    @property
    def entries(self) -> tuple[PictureEntry, ...] | tuple[SequenceEntry, ...]:
        """What is coded at once: pictures, or whole sequences."""
        return self.sequences or self.pictures

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
        videos = {sequence.video for sequence in self.sequences if sequence.video}
        points = [sequence.points for sequence in self.sequences if sequence.points]
        for path in [*points, *(sorted(videos) or [entry.path for entry in self.pictures])]:
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
    coco = read_annotations(annotations)
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
    category_ids = match_categories(coco["categories"], class_names, annotations, by_position)
    whole = CocoDataset((), tuple(coco["categories"]), coco, category_ids, False)
    return _restricted(whole, entries)


def load_pictures(
    folder: Path, limit: int | None = None, class_names: Sequence[str] = ()
) -> CocoDataset:
    """All JPEG and PNG pictures of a folder by name, without ground truth, for human vision.

    Raises InputError where there is none.
    """
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in PICTURE_SUFFIXES)[:limit]
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
    return CocoDataset(entries, (), coco, (None,) * len(class_names), False)


def read_entry(entry: PictureEntry) -> np.ndarray:
    """Read a picture of a test set; raises InputError where its size is not the annotated one."""
    picture = read_picture(entry.path)
    if picture.shape[:2] != (entry.height, entry.width):
        raise InputError(
            f"{entry.path}: annotated as {entry.height}x{entry.width} (height x width), found "
            f"{picture.shape[0]}x{picture.shape[1]}; correct the size in the annotations"
        )
    return picture


def read_annotations(path: Path) -> dict:
    """The content of a COCO annotation file, its ids whole numbers, every value checked."""
    try:
        coco = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; give the annotations with --annotations, or the folder in "
            "which the paths of the test condition start with --data-root or $VCM_DATA"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable COCO annotations: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(coco, dict) or not isinstance(coco.get(key), list):
            raise InputError(f"{path}: expected COCO annotations with a list {key!r}, found none")
    _number_pictures(coco)
    _require_keys(coco["images"], {"id": int, "file_name": str, "height": int, "width": int}, path)
    _require_keys(coco["categories"], {"id": int, "name": str}, path)
    _require_keys(coco["annotations"], {"id": int, "image_id": int, "category_id": int}, path)
    for what in ("images", "categories", "annotations"):
        ids, found = Counter(item["id"] for item in coco[what]).most_common(1), len(coco[what])
        if found and ids[0][1] > 1:
            raise InputError(
                f"{path}: {what}: id {ids[0][0]} stands {ids[0][1]} times; make it unique"
            )
    if not coco["images"]:
        raise InputError(f"{path}: expected at least one picture, found none")
    _check_annotations(coco, path)
    return coco


def _number_pictures(coco: dict) -> None:
    """Give pictures whole numbers as ids: SFU-HW-Objects has floats, MPEG-OIV6 has names."""
    numbers: dict = {}
    for position, image in enumerate(coco["images"], start=1):
        found = image.get("id") if isinstance(image, dict) else None
        if isinstance(found, float) and found.is_integer():
            numbers[found] = int(found)
        elif isinstance(found, str):
            numbers.setdefault(found, position)
    records = [*coco["annotations"], *coco.get("oic_annotations", ())]
    for items, key in ((coco["images"], "id"), (records, "image_id")):
        for item in items:
            if isinstance(item, dict) and not isinstance(item.get(key), (list, dict)):
                item[key] = numbers.get(item.get(key), item.get(key))


def _check_annotations(coco: dict, path: Path) -> None:
    pictures = {image["id"] for image in coco["images"]}
    categories = {category["id"] for category in coco["categories"]}
    for item in coco["annotations"]:
        if item["image_id"] not in pictures or item["category_id"] not in categories:
            raise InputError(
                f"{path}: annotation {item['id']} names picture {item['image_id']} and category "
                f"{item['category_id']}; expected both in the file, correct or remove it"
            )
        box = item.get("bbox")
        numbers = isinstance(box, list) and all(isinstance(v, (int, float)) for v in box)
        if not numbers or len(box) != 4 or not np.isfinite(box).all():
            raise InputError(
                f"{path}: annotation {item['id']}: expected bbox [x, y, width, height]"
            )
        item.setdefault("iscrowd", 0)
        item.setdefault("area", box[2] * box[3])


def _require_keys(items: list, kinds: dict[str, type], path: Path) -> None:
    for number, item in enumerate(items):
        for key, kind in kinds.items():
            if not isinstance(item, dict) or not isinstance(item.get(key), kind):
                raise InputError(
                    f"{path}: entry {number}: expected {key!r} ({kind.__name__}) in {item}"
                )


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
        raise InputError(f"{path}: two categories have the same name; rename one")
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
